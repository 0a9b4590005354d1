"""Records how long single calls of a real session took, for the tests to replay.

Run by hand, on a machine in the condition that is to be recorded; the file holds, for each of
`--processes` fresh processes, the durations of consecutive calls in ns (int32 [processes, calls]):

    python tests/golden/record.py busy.npz --processes 6 --calls 4000
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/agent")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        np.save(options.out, record(options.calls))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for index in range(options.processes):
            part = Path(folder, f"{index}.npy")
            command = [sys.executable, __file__, str(part), "--one", "--calls", str(options.calls)]
            subprocess.run(command, check=True)
            rows.append(np.load(part))
    np.savez_compressed(options.out, call_ns=np.stack(rows))


def record(calls: int) -> np.ndarray:
    """The durations of `calls` calls of a small classifier, in ns."""
    from bundles import classifier

    from edgebench.agent.runtimes import RUNTIMES

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = classifier(Path(folder, "model.onnx"), hidden=4096)
        model = RUNTIMES["onnxruntime"].load(path, ["CPUExecutionProvider"], 1, {})
    feed = (np.random.default_rng(0).normal(size=(1, 1, 4, 4)).astype("float32"),)
    query = model.bind(feed, model.infer(feed))
    query.write(feed)
    durations = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        query.run()
        durations.append(time.perf_counter_ns() - start)
    return np.array(durations, dtype=np.int32)


if __name__ == "__main__":
    main()
