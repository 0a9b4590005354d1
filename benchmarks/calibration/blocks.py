"""How long a block should be, and how many pairs a process should have.

    python -m benchmarks.calibration.blocks [ROUNDS]

times models against themselves. The shapes take turns, round by round, since the machine's noise
changes with the hour. What counts is how far the log ratios of the processes stray from 0, for the
time they take: `cost` is variance times seconds, relative to the first shape, and half of it means
that the same interval takes half as long. The spread is told by the median too, for a stall of the
machine spoils a process now and then, and the verdict's median over processes ignores those.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness.measuring import NoMeasurementError, measure, write_bundle
from benchmarks.harness.models import SUBJECTS
from benchmarks.harness.setting import pinned_cpu
from edgebench.protocol import PROFILES

# (pairs, seconds of a block): the same time in the first four, then `quick` and `standard`.
SHAPES = ((2, 0.08), (8, 0.02), (16, 0.01), (32, 0.005), (12, 0.01), (30, 0.01))
MODELS = ("lenet", "separable-1ms")
_MAD_TO_SIGMA = 1.4826


def main(rounds: int) -> None:
    """Print a table."""
    print(f"{rounds} rounds of {PROFILES['quick'].processes} processes a shape and model")
    print("model            pairs x block   s/process   sd       sd by median   cost")
    for name in MODELS:
        logs: dict[tuple[int, float], list[float]] = {shape: [] for shape in SHAPES}
        seconds: dict[tuple[int, float], list[float]] = {shape: [] for shape in SHAPES}
        for turn in range(rounds):
            for shape in SHAPES[turn % len(SHAPES) :] + SHAPES[: turn % len(SHAPES)]:
                found = _processes(name, shape, seed=turn)
                if found is not None:
                    logs[shape] += found[0]
                    seconds[shape].append(found[1])
        costs = {
            shape: _robust(logs[shape]) ** 2 * float(np.mean(seconds[shape])) for shape in SHAPES
        }
        for shape in SHAPES:
            print(
                f"{name:16} {shape[0]:3} x {shape[1]:5g} s   {np.mean(seconds[shape]):6.2f}     "
                f"{np.std(logs[shape]):.4f}   {_robust(logs[shape]):.4f}         "
                f"{costs[shape] / costs[SHAPES[0]]:.2f}",
                flush=True,
            )


def _processes(name: str, shape: tuple[int, float], seed: int) -> tuple[list[float], float] | None:
    """The log ratio of each process, and the seconds one takes; None where it failed."""
    protocol = PROFILES["quick"].model_copy(
        update={"pairs": shape[0], "least_pairs": min(8, shape[0]), "block_s": shape[1]}
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(
            Path(folder) / "bundle",
            SUBJECTS[name],
            ["base"],
            protocol,
            seed=seed,
            cpu=pinned_cpu(),
        )
        try:
            found = measure(bundle, Path(folder) / "results")[0]["base"]
        except NoMeasurementError as error:
            print(f"left out: {error}", file=sys.stderr)
            return None
    return list(found.logs), found.seconds / len(found.logs)


def _robust(values: list[float]) -> float:
    """The standard deviation of normal values whose median distance from 0 this is."""
    return _MAD_TO_SIGMA * float(np.median(np.abs(values)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
