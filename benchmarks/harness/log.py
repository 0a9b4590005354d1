"""The trials as a file of JSON lines: each is there as soon as it is over, so a kill loses none."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from edgebench import __version__

SCHEMA = "edgebench.harness/2"
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("numpy", "onnxruntime", "pytest-benchmark", "pyperf")

_FOLDERS = ("--out", "--report")

Row = dict[str, Any]


class Log:
    """`trials.jsonl` in a folder, to which this process appends."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "trials.jsonl"
        self._versions = versions()

    def rows(self) -> list[Row]:
        """All rows; a last line that a kill cut off is left out."""
        return read_rows(self.file)

    def done(self, **settings: Any) -> list[Row]:
        """The rows whose settings are these; those are compared as JSON writes them."""
        wanted = json.loads(json.dumps(settings))
        return [r for r in self.rows() if all(r.get(k) == v for k, v in wanted.items())]

    def append(self, settings: Row, device: Row | None, result: Row) -> Row:
        """Add one trial, on disk when this returns."""
        row = {
            "schema": SCHEMA,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **settings,
            "versions": self._versions,
            "machine": None if device is None else machine_of(device),
            "result": result,
        }
        with self.file.open("ab") as file:
            if file.tell() and not _ends_with_newline(self.file):
                file.write(b"\n")
            # What a tool says when it fails may name files: where the repository lies is nobody's.
            line = json.dumps(row, allow_nan=False).replace(f"{ROOT}/", "")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return row


def read_rows(file: Path) -> list[Row]:
    """The rows of a log that may not be there yet, or end in half a line."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("schema") == SCHEMA:
            rows.append(row)
    return rows


def versions() -> dict[str, str]:
    """Of Python, edgebench and the packages that take part."""
    found = {"python": platform.python_version(), "edgebench": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine_of(device: Row) -> Row:
    """What a reader needs to know of the device, from the agent's device.json."""
    identity = device["identity"]
    return {
        "fingerprint": device["fingerprint"],
        "grade": device["grade"],
        "grade_reasons": device["grade_reasons"],
        **{k: identity.get(k) for k in ("machine", "system", "cpu_model", "cores", "memory_mib")},
    }


def command_line(arguments: Sequence[str]) -> str:
    """How this process was called, as a reader would call it.

    The folders of `--out` and `--report` are told relative to the repository, and left out where
    they lie elsewhere.
    """
    words, left = ["python -m benchmarks.harness"], list(arguments)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if option not in _FOLDERS:
            words.append(word or "''")
            continue
        folder = Path(value if equals or not left else left.pop(0)).resolve()
        if folder.is_relative_to(ROOT):
            words.append(f"{option} {folder.relative_to(ROOT)}")
    return " ".join(words)


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
