"""The report family: one renderer a file, and how reports reach the run folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import StorageError
from edgebench.records import RunRecord
from edgebench.registry import Registry

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
    """Replace `path` in one step, so that a reader or a killed run never meets half a file."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            hint="free space there or choose another folder with --out",
        ) from error
    return path


def _umask() -> int:
    """The process's umask; mkstemp ignores it and would leave reports for the owner alone."""
    current = os.umask(0)
    os.umask(current)
    return current
