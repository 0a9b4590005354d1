"""The report family: one renderer a file, and how reports reach the run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebench.records import RunRecord
from edgebench.registry import Registry
from edgebench.store import write_atomically

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Renderer:
    """One form of the report: the file's name, and the function that writes its text."""

    filename: str
    render: Callable[[RunRecord], str]


RENDERERS: Registry[Renderer] = Registry("report", "edgebench.report")


def write_reports(run: RunRecord, folder: Path) -> list[Path]:
    """Write every registered report into `folder`; raises StorageError where that fails."""
    return [
        _write(folder / renderer.filename, renderer.render(run))
        for _, renderer in RENDERERS.items()
    ]


def write_run_json(run: RunRecord, folder: Path) -> Path:
    """Write the record itself as `run.json`; raises StorageError where that fails."""
    return _write(folder / RUN_FILE, run.model_dump_json(by_alias=True, indent=2) + "\n")


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path
