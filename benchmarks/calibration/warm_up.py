"""How long a fresh process is slower than it will be, and which share of it a ratio sees.

    python -m benchmarks.calibration.warm_up [PROCESSES]

times every call of a model against itself in fresh processes from the first call on, the two
sessions in turn, call by call. `slower`: the median call in a window of time since the first one,
over the median of the last second. `ratio off by`: how far the ratio of the two sessions in that
window is from 1, the median over processes: what both arms share does not reach the verdict.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness.models import SUBJECTS, examples
from benchmarks.harness.setting import pinned_cpu

MODELS = ("lenet", "separable-1ms", "separable-10ms")
# Seconds since the first call.
WINDOWS = ((0.0, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.5), (0.5, 1.0), (1.0, 2.0))
_LAST_S = 1.0
_TOTAL_S = 3.0


def main(processes: int) -> None:
    """Print a table."""
    print(f"{processes} fresh processes a model, {_TOTAL_S:g} s each")
    print("model            since the first call   slower     ratio off by")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            SUBJECTS[name].write(model)
            runs = [_process(name, model) for _ in range(processes)]
        for begin, end in WINDOWS:
            slower, off = zip(*(_in_window(run, begin, end) for run in runs), strict=True)
            late, apart = 100 * (np.nanmedian(slower) - 1), 100 * np.nanmedian(np.abs(off))
            since = f"{begin:5g} to {end:4g} s"
            print(f"{name:16} {since}      {late:+7.2f} %   {apart:6.2f} %", flush=True)


def _in_window(run: np.ndarray, begin: float, end: float) -> tuple[float, float]:
    """`run`: [calls, 3], seconds since the first call, ns, and which of the two sessions."""
    inside = (run[:, 0] >= begin) & (run[:, 0] < end)
    steady = np.median(run[run[:, 0] >= _TOTAL_S - _LAST_S, 1])
    arms = [run[inside & (run[:, 2] == arm), 1] for arm in (0, 1)]
    if not all(len(arm) for arm in arms):
        return float("nan"), float("nan")
    first, second = (float(np.median(arm)) for arm in arms)
    return float(np.median(run[inside, 1]) / steady), float(np.log(second / first))


def _process(name: str, model: Path) -> np.ndarray:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.calibration.warm_up", name, model],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "random"},
    )
    return np.array(json.loads(done.stdout))


def worker(name: str, model: str) -> None:
    """Time calls for so many seconds; prints them as JSON."""
    os.sched_setaffinity(0, {pinned_cpu()})
    from edgebench.agent.runtimes.onnxruntime import OnnxRuntime

    feed = (examples(SUBJECTS[name], 1),)
    queries = []
    for _ in range(2):
        session = OnnxRuntime().load(Path(model), ["CPUExecutionProvider"], 1, {})
        queries.append(session.bind(feed, session.infer(feed)))
    # The first inference above is the cold one, which is reported apart.
    clock = time.perf_counter_ns
    calls = []
    start = now = clock()
    while now < start + _TOTAL_S * 1e9:
        for arm, query in enumerate(queries):
            before = clock()
            query.call(query.bound)
            now = clock()
            calls.append(((before - start) / 1e9, now - before, arm))
    print(json.dumps(calls))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        worker(sys.argv[1], sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
