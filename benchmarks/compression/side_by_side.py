"""Files of several tools and runtimes timed against one base in one interleaved run, and judged.

    python -m benchmarks.compression.side_by_side --base base.onnx --arm NAME=RUNTIME:FILE … --out FILE.json

Every arm is loaded in the same process, bound once, and timed in blocks that take turns: base
before and after each arm, so that the machine's drift cancels in the ratio. Fresh processes are
the independent units, as everywhere in edgebench. Answers come from the same loaded models, on the
test half of the data.
"""  # noqa: E501 - a command line

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebench import stats
from edgebench.agent.runtimes import RUNTIMES
from edgebench.data import load

PROCESSORS = {"onnxruntime": ["CPUExecutionProvider"], "openvino": ["CPU"]}
BLOCK_S = 0.01
ROUNDS = 40
WARMUP_S = 0.3
BATCH = 250


@dataclass(frozen=True)
class Arm:
    """One file on one runtime."""

    name: str
    runtime: str
    file: Path

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`NAME=RUNTIME:FILE`."""
        name, _, rest = text.partition("=")
        runtime, _, file = rest.partition(":")
        if runtime not in PROCESSORS or not Path(file).is_file():
            raise SystemExit(f"--arm {text}: NAME=onnxruntime:FILE or NAME=openvino:FILE")
        return cls(name, runtime, Path(file))

    def text(self) -> str:
        """What `parse` reads."""
        return f"{self.name}={self.runtime}:{self.file}"


def main() -> int:
    """Start the processes and write what they saw; gives the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--arm", action="append", required=True)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--worker", type=int)
    options = parser.parse_args()
    arms = [Arm("base", "onnxruntime", options.base), *(Arm.parse(text) for text in options.arm)]
    if options.worker is not None:
        print(json.dumps(_time(arms, options.worker)))
        return 0
    answers = _answers(arms, options.data)
    samples = []
    for number in range(options.processes):
        command = [sys.executable, "-m", "benchmarks.compression.side_by_side"]
        command += ["--base", str(options.base), "--out", str(options.out)]
        command += [part for arm in arms[1:] for part in ("--arm", arm.text())]
        done = subprocess.run(
            [*command, "--worker", str(number)], capture_output=True, text=True, check=True
        )
        samples.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [_row(arm, answers, samples) for arm in arms]
    options.out.write_text(
        json.dumps({"processes": options.processes, "rows": rows}, indent=1), encoding="utf-8"
    )
    for row in rows:
        print(
            f"{row['name']:28s} accuracy {row['accuracy']:.4f}  disagreement "
            f"{row['disagreement']:.4f}  {row['median_us']:7.1f} us  x{row['speedup']:.2f} "
            f"[{row['speedup_low'] or 0:.2f}, {row['speedup_high'] or 0:.2f}]  {row['bytes']:,} B"
        )
    return 0


def _time(arms: Sequence[Arm], seed: int) -> dict[str, Any]:
    """In this process: each arm's median query time, and its median log ratio to base around it."""
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    example = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    queries, calls = [], []
    for arm in arms:
        runtime = RUNTIMES[arm.runtime]
        model = runtime.load(arm.file, PROCESSORS[arm.runtime], 1, {})
        query = model.bind((example,), model.infer((example,)))
        query.write((example,))
        queries.append(query)
        end = time.perf_counter() + WARMUP_S
        count = 0
        while time.perf_counter() < end:
            query.run()
            count += 1
        calls.append(max(1, round(count * BLOCK_S / WARMUP_S)))

    def block(index: int) -> float:
        call, bound, count = queries[index].call, queries[index].bound, calls[index]
        start = time.perf_counter_ns()
        for _ in range(count):
            call(bound)
        return (time.perf_counter_ns() - start) / count

    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    logs: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for _ in range(ROUNDS):
        before = block(0)
        for index in rng.permutation(len(arms)).tolist():
            own = block(index)
            after = block(0)
            times[arms[index].name].append(own)
            logs[arms[index].name].append(float(np.log(own) - (np.log(before) + np.log(after)) / 2))
            before = after
    return {
        arm.name: {
            "median_ns": float(np.median(times[arm.name])),
            "log_ratio": float(np.median(logs[arm.name])),
        }
        for arm in arms
    }


def _answers(arms: Sequence[Arm], data: str) -> dict[str, Any]:
    dataset = load(data)
    found: dict[str, Any] = {"labels": dataset.test_y}
    for arm in arms:
        model = RUNTIMES[arm.runtime].load(arm.file, PROCESSORS[arm.runtime], 1, {})
        size = model.fixed_batch or BATCH
        parts = [
            model.infer((np.ascontiguousarray(dataset.test_x[i : i + size]),))[0]
            for i in range(0, len(dataset.test_x), size)
        ]
        found[arm.name] = np.concatenate(parts).argmax(axis=1)
    return found


def _row(arm: Arm, answers: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    logs = np.array([one[arm.name]["log_ratio"] for one in samples])
    ratio = stats.median_interval(logs)
    low, high = (None if v is None else float(np.exp(-v)) for v in (ratio.high, ratio.low))
    weights = [arm.file, arm.file.with_suffix(".bin")] if arm.file.suffix == ".xml" else [arm.file]
    return {
        "name": arm.name,
        "runtime": arm.runtime,
        "accuracy": float((answers[arm.name] == answers["labels"]).mean()),
        "disagreement": float((answers[arm.name] != answers["base"]).mean()),
        "median_us": float(np.median([one[arm.name]["median_ns"] for one in samples])) / 1000,
        "speedup": float(np.exp(-np.median(logs))),
        "speedup_low": low,
        "speedup_high": high,
        "bytes": sum(file.stat().st_size for file in weights),
    }


if __name__ == "__main__":
    sys.exit(main())
