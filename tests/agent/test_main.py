"""The agent as users start it: the zipapp, on this Python and on the oldest one found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgebench.transports.agent_zip import build_agent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_agent(tmp_path_factory.mktemp("agent") / "agent.pyz")


def python(version: str) -> str:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"needs a Python {version} under ~/.pyenv/versions")
    return str(found[-1])


def start(agent: Path, *arguments: str, program: str = sys.executable, **options: Any) -> Any:
    return subprocess.run(
        [program, str(agent), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_probe_prints_the_device(agent: Path, tmp_path: Path) -> None:
    done = start(agent, "probe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == "edgebench.device/1"


def test_probe_of_a_recorded_tree(agent: Path) -> None:
    done = start(agent, "probe", "--root", str(ROOT / "tests/agent/trees/orin-nano"))
    assert json.loads(done.stdout)["identity"]["jetson"]["l4t"] == "36.3.0"


def test_run_writes_results_and_says_so(agent: Path, bundles: ModuleType, tmp_path: Path) -> None:
    base = bundles.classifier(tmp_path / "base.onnx")
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": base}, processes=1)
    # A file of the runtime's name in the current folder must not be taken for it.
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('shadowed')")
    done = start(agent, "run", str(bundle), "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1] == {"event": "end"}
    assert events[-2]["status"] == "measured"


def test_bad_bundle_is_one_line_and_exit_2(agent: Path, tmp_path: Path) -> None:
    done = start(agent, "run", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "bundle"
    assert done.stderr == ""


def test_unknown_runtime_is_exit_4(agent: Path) -> None:
    done = start(agent, "probe", "--runtime", "onnxruntme")
    assert done.returncode == 4
    assert "there is no runtime 'onnxruntme'; there is onnxruntime" in done.stdout


def test_carried_by_hand(agent: Path, bundles: ModuleType, tmp_path: Path) -> None:
    base = bundles.classifier(tmp_path / "base.onnx")
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": base}, processes=1)
    beside = bundle / "agent.pyz"
    beside.write_bytes(agent.read_bytes())
    done = start(beside, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("base: process 1 of 1, about ")
    assert lines[-2] == "carry results.zip back and run: edgebench ingest results.zip RUN"
    with zipfile.ZipFile(bundle / "results.zip") as archive:
        assert sorted(archive.namelist()) == [
            "base/outputs.npy",
            "base/result.json",
            "base/samples.npz",
            "device.json",
        ]
    again = start(beside, cwd=tmp_path)
    assert "base: measured (already there)" in again.stderr


def test_no_bundle_beside_the_agent(agent: Path, tmp_path: Path) -> None:
    done = start(agent, cwd=tmp_path)
    assert done.returncode == 2
    assert "unpack the bundle and start agent.pyz in it" in done.stderr


def test_all_sources_compile_on_3_8(tmp_path: Path) -> None:
    done = subprocess.run(
        [python("3.8"), "-m", "compileall", "-q", str(ROOT / "edgebench/agent")],
        env={**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_missing_numpy_names_the_python_and_the_command(agent: Path, tmp_path: Path) -> None:
    program = python("3.8")
    done = start(agent, "probe", program=program, cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 4
    event = json.loads(done.stdout)
    assert (event["event"], event["code"]) == ("error", "runtime")
    assert event["problem"].startswith(f"{program} (Python 3.8.")
    assert event["problem"].endswith(f"{program} -m pip install numpy onnxruntime")


def test_missing_runtime_names_the_package(agent: Path, tmp_path: Path) -> None:
    # Stands in for an interpreter that has numpy and no onnxruntime.
    (tmp_path / "numpy.py").write_text("__version__ = '1.24.4'")
    done = start(
        agent, "probe", program=python("3.8"), env={"PYTHONPATH": str(tmp_path), "PATH": "/bin"}
    )
    assert done.returncode == 4
    assert json.loads(done.stdout)["problem"].endswith("-m pip install onnxruntime")


def test_runtime_that_crashes_on_import_does_not_take_the_agent_with_it(
    agent: Path, tmp_path: Path
) -> None:
    # Stands in for a build made for another processor.
    (tmp_path / "onnxruntime.py").write_text("import os; os.kill(os.getpid(), 4)")
    done = start(agent, "probe", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 4
    assert "crashed with SIGILL" in json.loads(done.stdout)["problem"]


@pytest.mark.parametrize("version", ["3.7", "3.6", "2.7"])
def test_python_that_is_too_old_says_so(agent: Path, version: str) -> None:
    done = start(agent, "probe", program=python(version))
    assert done.returncode == 4
    assert "the agent needs 3.8 or later" in json.loads(done.stdout)["problem"]


@pytest.fixture
def bare_python() -> str:
    """An interpreter with numpy and ONNX Runtime alone; `make test` sets it up."""
    found = ROOT / ".venv-agent/bin/python"
    if not found.exists():
        pytest.skip("needs .venv-agent, which 'make test' sets up where packages can be installed")
    return str(found)


def test_whole_plan_with_nothing_but_numpy_and_the_runtime(
    agent: Path, bundles: ModuleType, tmp_path: Path, bare_python: str
) -> None:
    asked = "import importlib.util as u, sys; print(*(m for m in sys.argv[1:] if u.find_spec(m)))"
    absent = ("torch", "onnx", "pydantic", "scipy", "edgebench", "typer", "yaml")
    there = subprocess.run(
        [bare_python, "-c", asked, *absent],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
    )
    assert there.stdout.split() == []
    base = bundles.classifier(tmp_path / "base.onnx")
    other = bundles.classifier(tmp_path / "other.onnx", seed=1)
    bundle = bundles.make_bundle(
        tmp_path / "bundle",
        {"base": base, "other": other},
        processes=6,
        pairs=1,
        inspect=True,
        confirm=True,
        limits={"latency_ratio": {"min": None, "max": 0.001}},
    )
    out = tmp_path / "out"
    done = start(
        agent,
        *("run", str(bundle), "--out", str(out)),
        program=bare_python,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "other/result.json").read_text())
    assert (found["status"], bundles.faults(found)) == ("measured", [])
    assert len(found["cold"]) == 12
    assert found["evidence"]["inspection"]["nodes"]["CPUExecutionProvider"]
    device = json.loads((out / "device.json").read_text())
    asked = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    version = subprocess.run([bare_python, "-c", asked], capture_output=True, text=True, check=True)
    assert device["identity"]["python"] == version.stdout.strip()
