from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from edgebench.errors import StorageError
from edgebench.transports.agent_zip import build_agent


def test_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = build_agent(tmp_path / "a.pyz").read_bytes()
    assert first == build_agent(tmp_path / "b.pyz").read_bytes()
    assert first.startswith(b"#!/usr/bin/env python3\n")


def test_holds_the_agent_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_agent(tmp_path / "a.pyz")) as archive:
        names = archive.namelist()
        sources = "".join(archive.read(n).decode() for n in names)
    assert "__main__.py" in names
    assert "edgebench_agent/runtimes/onnxruntime.py" in names
    assert {n.split("/")[0] for n in names} == {"__main__.py", "edgebench_agent"}
    assert "import edgebench" not in sources
    assert "from edgebench." not in sources


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        build_agent(tmp_path / "none" / "agent.pyz")
