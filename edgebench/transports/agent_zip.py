"""Makes agent.pyz: the measuring agent as one file that any Python from 3.8 on can run."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import storage_error

if TYPE_CHECKING:
    # Its place at run time is another one before Python 3.11.
    from importlib.resources.abc import Traversable

_PACKAGE = "edgebench_agent"
_EPOCH = (1980, 1, 1, 0, 0, 0)

# Read by whatever Python the device has, so that an old one can say so.
_MAIN = f"""\
import json
import sys

if sys.version_info < (3, 8):
    version = ".".join(str(v) for v in sys.version_info[:3])
    problem = "%s is Python %s; the agent needs 3.8 or later" % (sys.executable, version)
    print(json.dumps({{"event": "error", "problem": problem, "code": "runtime"}}))
    sys.exit(4)

from {_PACKAGE}.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def build_agent(path: Path) -> Path:
    """Write the agent to `path`; the same sources give the same bytes. Raises StorageError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w") as archive:
                _add(archive, "__main__.py", _MAIN.encode())
                for name, source in _sources(files("edgebench.agent"), _PACKAGE):
                    _add(archive, name, source)
        temporary.chmod(0o755)
        os.replace(temporary, path)
    except OSError as error:
        raise storage_error(error, path) from error
    return path


def _sources(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _sources(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_bytes()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
