"""How long a user waits, as whole processes: `make bench`.

Figures are printed, never asserted: machines differ. The targets they are read against are in
docs/speed.md.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

EDGEBENCH = [sys.executable, "-m", "edgebench"]


def call(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        [*EDGEBENCH, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        check=True,
    )


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """An empty cache and an empty history."""
    return {
        "EDGEBENCH_CACHE": str(tmp_path / "cache"),
        "EDGEBENCH_STORE": str(tmp_path / "history.sqlite"),
    }


@pytest.mark.parametrize("command", ["--help", "--version"])
def test_start(benchmark, tmp_path: Path, command: str) -> None:
    benchmark.pedantic(call, (command,), {"cwd": tmp_path}, rounds=10, warmup_rounds=2)


def test_python_alone(benchmark) -> None:
    """The interpreter's own start, for the ratio."""
    benchmark.pedantic(
        subprocess.run, ([sys.executable, "-c", ""],), {"check": True}, rounds=10, warmup_rounds=2
    )


def test_quickstart_from_an_empty_cache(benchmark, tmp_path: Path, own: dict[str, str]) -> None:
    benchmark.pedantic(call, ("run",), {"cwd": tmp_path, "env": own}, rounds=1)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    benchmark.extra_info["peak_memory_mib"] = peak
    print(f"\nlargest process of the quickstart: {peak:.0f} MiB")


def test_quickstart_again(benchmark, tmp_path: Path, own: dict[str, str]) -> None:
    call("run", cwd=tmp_path, env=own)
    benchmark.pedantic(call, ("run",), {"cwd": tmp_path, "env": own}, rounds=1)
