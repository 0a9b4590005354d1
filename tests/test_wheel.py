"""The built wheel, installed in an empty environment outside the checkout, does the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent


def call(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and (
        "No matching distribution found for hatchling" in done.stderr
        or "Temporary failure in name resolution" in done.stderr
    ):
        pytest.skip("no package index within reach to install from")
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", CHECKOUT, "-w", folder, cwd=folder
    )
    return next(folder.glob("edgebench-*.whl"))


def test_the_wheel_carries_what_is_not_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "edgebench/shipped/targets/jetson.yaml" in names
    assert "edgebench/shipped/recipes/quickstart.yaml" in names
    assert "edgebench/agent/__main__.py" in names
    assert any(n.startswith("edgebench/report/templates/") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert not any(n.startswith(("tests/", "reports/")) for n in names)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    empty = tmp_path / "venv"
    call(sys.executable, "-m", "venv", empty, cwd=tmp_path)
    python = empty / "bin" / "python"
    constraints = CHECKOUT / "constraints.txt"
    call(
        *(python, "-m", "pip", "install", "-q", "--no-compile", "-c", constraints, wheel),
        cwd=tmp_path,
    )
    home = tmp_path / "home"
    work = tmp_path / "work"
    for folder in (home, work):
        folder.mkdir()
    env = {"HOME": str(home), "PATH": f"{empty / 'bin'}:/usr/bin:/bin"}
    env |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "LANG"))}
    # The quickstart as shipped, measured in less time than `quick` takes.
    brief = {"pairs": 3, "warmup_s": 0.02, "single_s": 0.02, "inspect": "false"}
    settings = [part for k, v in brief.items() for part in ("--set", f"protocol.{k}={v}")]
    call("edgebench", "run", "--target", "cpu", *settings, cwd=work, env=env)
    folder = work / "runs" / "quickstart-cpu"
    record = json.loads((folder / "run.json").read_text())
    assert record["verdict"] == "GO"
    assert [v["status"] for v in record["variants"]] == ["measured"] * 11
    for name in ("report.html", "report.md", "junit.xml", "metrics.csv"):
        assert (folder / name).stat().st_size > 0
    assert "quickstart" in call("edgebench", "history", "list", cwd=work, env=env)
