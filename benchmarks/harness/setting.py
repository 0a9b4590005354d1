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
from benchmarks.harness.measuring import NoMeasurementError, write_bundle
from benchmarks.harness.models import SUBJECTS
from benchmarks.harness.others import Job, run_rules
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

    def others(self, bundle: Path, index: int, slower: float) -> dict[str, Any] | None:
        """What the other tools' rules say of the same two models, in every `every`-th trial.

        `slower`: by what share of its own call the second one is.
        """
        if not self.rules or index % self.every:
            return None
        out = self.work / "others"
        shutil.rmtree(out, ignore_errors=True)
        job = Job(bundle / "models" / "base.onnx", bundle / "inputs.npy", slower, self.cpu, out)
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


def pinned_cpu() -> int:
    """The processor that everything is timed on: the last of those this process may use."""
    return max(os.sched_getaffinity(0))
