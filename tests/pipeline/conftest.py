"""A small recipe that goes the whole way, through the real agent, in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.main import Job
from edgebench.pipeline.progress import Silent
from edgebench.recipe import Recipe, load_recipe
from edgebench.records import RunRecord
from edgebench.target import load_target

SMALL = """
model: lenet
model_options: {width: 0.25}
data: digits
training: {epochs: 3, batch_size: 32, learning_rate: 3.0e-3}
variants:
  sparse: [{technique: prune-unstructured, ratio: 0.5}]
  int8: [{technique: ptq}]
  chain:
    - {technique: prune-structured, ratio: 0.5}
    - {technique: qat, epochs: 1}
controls: {independent: 2}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: size_ratio, max: 0.9}
seed: 0
"""


class Watcher(Silent):
    """Remembers what the pipeline said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, bool]] = []
        self._step = ""

    def begin(self, step: str, total: float | None = None) -> None:
        self._step = step

    def end(self, *, reused: bool = False) -> None:
        self.steps.append((self._step, reused))

    def say(self, line: str) -> None:
        self.lines.append(line)


def small_recipe(folder: Path, *settings: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(SMALL)
    return load_recipe(str(path), settings=list(settings))


def job(folder: Path, *settings: str, require: tuple[str, ...] = ()) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        small_recipe(folder, *settings),
        load_target("cpu"),
        RunFolder(folder / "run"),
        Watcher(),
        require,
    )


@pytest.fixture(scope="session")
def new_job() -> Callable[..., Job]:
    return job


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared_cache: Path
) -> tuple[RunRecord, Path]:
    """One finished run that tests may read but not change."""
    folder = tmp_path_factory.mktemp("finished")
    before = os.environ.get("EDGEBENCH_STORE")
    os.environ["EDGEBENCH_STORE"] = str(folder / "history.sqlite")
    try:
        record = job(folder).run()
    finally:
        if before is not None:
            os.environ["EDGEBENCH_STORE"] = before
    return record, folder / "run"
