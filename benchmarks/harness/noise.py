"""What else the machine does while something is measured: nothing, a loaded neighbour, or bursts.

    python -m benchmarks.harness.noise CPU loaded|bursts SEED PARENT

loads one processor until the parent process ends.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CONDITIONS = {
    "idle": "nothing else runs",
    "loaded": "every processor but the measured one multiplies matrices",
    "bursts": "every processor, the measured one too, multiplies matrices by fits and starts: on "
    "for 50 ms to 1 s, off for 50 ms to 1 s",
}
SIDE = 600
ON_S = OFF_S = (0.05, 1.0)
_SETTLE_S = 1.0
_PR_SET_PDEATHSIG = 1


class NoiseError(Exception):
    """The condition cannot be had on this machine; the text says why."""


def burst_lengths(seed: int) -> Iterator[tuple[float, float]]:
    """(seconds on, seconds off) for ever, the same ones for the same seed."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(*ON_S), draw.uniform(*OFF_S)


@contextmanager
def condition(name: str, measured_cpu: int, seed: int) -> Iterator[None]:
    """Keep the machine in this condition; `measured_cpu` is the processor things are timed on."""
    cpus = sorted(os.sched_getaffinity(0))
    if name == "loaded":
        cpus = [c for c in cpus if c != measured_cpu]
        if not cpus:
            raise NoiseError("'loaded' needs a second processor: this process may use one alone")
    elif name == "idle":
        cpus = []
    running = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(c), name, str(seed * 64 + c), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        for c in cpus
    ]
    try:
        if running:
            time.sleep(_SETTLE_S)
            if any(process.poll() is not None for process in running):
                raise NoiseError(f"the load of '{name}' ended at once")
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main(cpu: int, name: str, seed: int, parent: int) -> None:
    """Load one processor; never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    os.sched_setaffinity(0, {cpu})
    import numpy as np

    matrix = np.ones((SIDE, SIDE), dtype=np.float32)
    if name == "loaded":
        while True:
            np.dot(matrix, matrix)
    for on, off in burst_lengths(seed):
        end = time.monotonic() + on
        while time.monotonic() < end:
            np.dot(matrix, matrix)
        time.sleep(off)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
