"""A disk that is full says so in one line, whatever library met it first."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebench.__main__ import run
from edgebench.errors import BuildError, is_disk_full, storage_error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_however_it_is_said() -> None:
    plain = OSError(errno.ENOSPC, "No space left on device")
    wrapped = BuildError("the model cannot be exported")
    wrapped.__cause__ = plain
    numpys = OSError("57536 requested and 50144 written")
    rusts = RuntimeError("I/O error: No space left on device (os error 28)")
    for error in (plain, wrapped, numpys, rusts):
        assert is_disk_full(error)
        assert "the disk is full" in storage_error(error, "x").line()
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(None)


@pytest.mark.parametrize("full", ["cache", "out", "history"])
def test_a_run_on_a_full_disk(
    small_disk: Path,
    tmp_path: Path,
    full: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    if full == "cache":
        monkeypatch.setenv("EDGEBENCH_CACHE", str(small_disk / "cache"))
    elif full == "history":
        (small_disk / "filler").write_bytes(bytes(90_000))
        monkeypatch.setenv("EDGEBENCH_STORE", str(small_disk / "history.sqlite"))
    else:
        out = small_disk / "run"
    settings = [
        "training.epochs=1",
        "variants={int8: [{technique: ptq}]}",
        "controls.independent=0",
    ]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert run(["run", "--out", str(out), *arguments]) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "defect" not in said
    assert full == "history" or "the disk is full" in said
