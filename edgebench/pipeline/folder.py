"""The folder of a run: what lies where, who may write, and whether a run is to be taken up again.

::

    RUN/state.json            which run this is, of which plan, and whether it is finished
    RUN/build.json            what was built
    RUN/labels.npy            the test labels [N]; they stay on the host
    RUN/bundle/               what the agent reads (docs/bundle.md)
    RUN/results/              what the agent wrote
    RUN/search.journal        what a search tried, as Optuna keeps it
    RUN/run.json, report.html, report.md, junit.xml
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout

from edgebench.errors import BusyError, StorageError, UsageError, storage_error
from edgebench.store import read_json, write_atomically

# What `edgebench.report` writes.
REPORTS = ("report.html", "report.md", "junit.xml", "metrics.csv")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's folder."""

    path: Path

    TRIALS: ClassVar[str] = "search.journal"

    @property
    def bundle(self) -> Path:
        """What the agent reads."""
        return self.path / "bundle"

    @property
    def results(self) -> Path:
        """What the agent wrote."""
        return self.path / "results"

    @property
    def build_file(self) -> Path:
        """What was built."""
        return self.path / "build.json"

    @property
    def labels_file(self) -> Path:
        """The test labels."""
        return self.path / "labels.npy"

    @property
    def record_file(self) -> Path:
        """The finished run."""
        return self.path / "run.json"

    @property
    def state_file(self) -> Path:
        """Which run this is."""
        return self.path / "state.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; raises BusyError where somebody does already.

        The lock is the kernel's: it is gone with the process, however that ends. A folder that is
        not empty and no run's is refused, since a run removes what an earlier one left in it.
        """
        self._claim()
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BusyError(
                "another run is writing to this folder",
                where=str(self.path),
                hint="wait for it, or name another folder with --out",
            ) from None
        except OSError as error:
            raise storage_error(error, self.path) from error
        try:
            yield
        finally:
            lock.release()

    def take_up(self, plan_key: str) -> tuple[str, bool]:
        """The run's id, and whether an unfinished run of the same plan is taken up again.

        Otherwise a new run begins, and what the last one measured and said is removed: a latency is
        never served twice, and a verdict does not outlive a run that failed.
        """
        state = self._state()
        if state.get("plan") == plan_key and state.get("finished") is False:
            return str(state["run_id"]), True
        run_id = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        try:
            for old in (self.bundle, self.results):
                if old.exists():
                    shutil.rmtree(old)
            for name in (self.build_file.name, self.record_file.name, self.TRIALS, *REPORTS):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, self.path) from error
        self._write_state(run_id, plan_key, finished=False)
        return run_id, False

    def _claim(self) -> None:
        """Make the folder, or see that it is ours."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(p.name for p in self.path.iterdir() if p.name != ".lock")
        except OSError as error:
            raise storage_error(error, self.path) from error
        if strangers and not self.state_file.is_file():
            raise UsageError(
                f"the folder holds files that are no run's ('{strangers[0]}')",
                where=str(self.path),
                hint="name an empty or a new folder with --out",
            )

    def finish(self) -> None:
        """The run is complete: the next one measures anew."""
        state = self._state()
        self._write_state(str(state["run_id"]), str(state["plan"]), finished=True)

    def _state(self) -> dict[str, object]:
        if not self.state_file.exists():
            return {}
        try:
            state = read_json(self.state_file)
        except StorageError:
            # A damaged note of which run this was: a new run begins.
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, run_id: str, plan: str, *, finished: bool) -> None:
        state = {"run_id": run_id, "plan": plan, "finished": finished}
        write_atomically(self.state_file, json.dumps(state, indent=1))


def existing_run(path: str | Path, *, finished: bool = True) -> RunFolder:
    """The folder of a run that is there; raises UsageError where it is not one."""
    given = Path(path)
    folder = RunFolder(given.parent if given.name == "run.json" else given)
    wanted = folder.record_file if finished else folder.build_file
    if not wanted.is_file():
        what = "finished run" if finished else "prepared run"
        raise UsageError(
            f"holds no {what} ({wanted.name} is not there)",
            where=str(folder.path),
            hint="name the folder that 'edgebench run' printed",
        )
    return folder
