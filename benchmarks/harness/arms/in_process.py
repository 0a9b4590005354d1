"""The loops of Olive, optimum-benchmark and onnxruntime_perf_test; the means go to a JSON file.

    python -m benchmarks.harness.arms.in_process RULE OUT.json

`HARNESS_DELAY` names one delay, or several with commas: these are timed one after the other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.arms.session import query

Query = Callable[[], object]


def olive(run: Query, warmup: int = 10, repeats: int = 20) -> float:
    """The mean of 20 calls after 10."""
    for _ in range(warmup):
        run()
    latencies = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        latencies.append(time.perf_counter() - start)
    return sum(latencies) / len(latencies)


def optimum_benchmark(
    run: Query, duration_s: float = 10.0, iterations: int = 10, warmup: int = 10
) -> float:
    """The mean over 10 s of wall time, and 10 calls at least, after a first call and 10 more."""
    for _ in range(1 + warmup):
        run()
    starts: list[float] = []
    ends: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < duration_s or len(starts) < iterations:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        starts.append(start)
        ends.append(end)
    return sum(e - s for s, e in zip(starts, ends, strict=True)) / len(starts)


def onnxruntime_perf_test(run: Query, repeats: int = 1000) -> float:
    """The mean of 1000 calls after one."""
    run()
    total = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        total += time.perf_counter() - start
    return total / repeats


LOOPS: dict[str, Callable[[Query], float]] = {
    "olive": olive,
    "optimum-benchmark": optimum_benchmark,
    "onnxruntime_perf_test": onnxruntime_perf_test,
}


if __name__ == "__main__":
    _delays = os.environ["HARNESS_DELAY"].split(",")
    _means = [LOOPS[sys.argv[1]](query(delay)) for delay in _delays]
    Path(sys.argv[2]).write_text(json.dumps(_means), encoding="utf-8")
