"""What all experiments of one call share."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.log import Log
from benchmarks.harness.measuring import Measured, NoMeasurementError, write_bundle
from benchmarks.harness.models import SUBJECTS
from benchmarks.harness.others import Job, run_rules
from edgebench import gate
from edgebench.protocol import PROFILES

MOST_FAILURES = 3


@dataclass(frozen=True)
class Setting:
    """`work` is a scratch folder; `deadline` a time.monotonic() after which no trial begins.

    Every `every`-th trial also runs the other tools' `rules`; `tell` shows progress, a line each.
    """

    log: Log
    work: Path
    cpu: int
    seed: int
    command: str
    every: int
    rules: tuple[str, ...]
    deadline: float
    tell: Callable[[str], None]

    @property
    def over(self) -> bool:
        """Whether the time for this call is used up."""
        return time.monotonic() >= self.deadline

    def bundle(self, name: str, subject: str, names: list[str], profile: str, **more: Any) -> Path:
        """A bundle of that subject under these names, in a profile of the protocol."""
        return write_bundle(
            self.work / name,
            SUBJECTS[subject],
            names,
            PROFILES[profile],
            seed=self.seed,
            cpu=self.cpu,
            **more,
        )

    def others(self, bundle: Path, index: int, delay: str) -> dict[str, Any] | None:
        """What the other tools' rules say of the same two models, in every `every`-th trial."""
        if not self.rules or index % self.every:
            return None
        out = self.work / "others"
        shutil.rmtree(out, ignore_errors=True)
        job = Job(bundle / "models" / "base.onnx", bundle / "inputs.npy", delay, self.cpu, out)
        return run_rules(job, self.rules)


class Patience:
    """Gives up where measurements fail one after the other: the next would fail too."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._failures = 0

    def failed(self, row: dict[str, Any], error: NoMeasurementError) -> None:
        """Note a failure; raises its error where there were too many in a row."""
        self._setting.log.append(row, None, {"problem": str(error)})
        self._setting.tell(f"{row['experiment']}: no measurement: {error}")
        self._failures += 1
        if self._failures == MOST_FAILURES:
            raise error

    def succeeded(self) -> None:
        """Start counting anew."""
        self._failures = 0


def judged(measured: Measured, floor: Measured) -> dict[str, Any]:
    """The agent's interval under edgebench's own rule, the noise floor from another measurement.

    `by_interval` looks at the interval alone; `verdict` is what a run would say, where only a
    valid and steady measurement can fail a model.
    """
    height = gate.floor_of(floor.ratio)
    by_interval = gate.judge_slower(measured.ratio, floor=height)
    good = measured.valid and measured.steady and floor.valid and floor.steady
    return {
        "floor": height,
        "smallest_detectable_change": gate.smallest_detectable_change(measured.ratio, height),
        "by_interval": by_interval,
        "verdict": by_interval if good else "inconclusive",
    }


def pinned_cpu() -> int:
    """The processor that everything is timed on: the last of those this process may use."""
    return max(os.sched_getaffinity(0))
