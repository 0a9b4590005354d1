"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgebench.__main__ import run

SMALL = """
model: lenet
model_options: {width: 0.25}
data: digits
training: {epochs: 3, batch_size: 32, learning_rate: 3.0e-3}
variants:
  sparse: [{technique: prune-unstructured, ratio: 0.5}]
  int8: [{technique: ptq}]
controls: {independent: 1}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: size_ratio, max: 0.9}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return "small.yaml"


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, edgebench, edgebench.__main__ as m\n"
        "m.run(['--help']); m.run(['run', '--help'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'sklearn', 'pandas', 'scipy', 'matplotlib',\n"
        "         'sqlalchemy', 'pyarrow', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: edgebench" in done.stdout


def test_go(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", recipe, "--target", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "GO" in shown.out
    assert "runs/small-cpu/report.html" in shown.out
    assert "\x1b" not in shown.out
    assert shown.err == ""
    assert run(["gate", "runs/small-cpu"]) == 0
    assert run(["gate", "runs/small-cpu", "--require", "sparse"]) == 1
    Path("policy.yaml").write_text("gates: [{metric: functional_preservation, min: 1.1}]")
    assert run(["gate", "runs/small-cpu", "--policy", "policy.yaml"]) == 1
    assert run(["report", "runs/small-cpu/run.json"]) == 0
    suite = ET.parse("runs/small-cpu/junit.xml")
    # The run's verdict, and one gate for each of two variants; nothing red, since the run is GO.
    assert len(suite.findall(".//testcase")) == 3
    assert suite.findall(".//failure") == []
    capsys.readouterr()
    assert run(["history", "list"]) == 0
    listed = capsys.readouterr().out
    run_id = json.loads(Path("runs/small-cpu/run.json").read_text())["run_id"]
    assert run_id in listed
    assert run(["history", "show", run_id[:17]]) == 0
    assert "int8" in capsys.readouterr().out


def test_json_is_all_there_is(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", recipe, "--json", "--require", "sparse"]) == 1
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["schema"] == "edgebench.run/1"
    assert record["exit_code"] == 1
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--target", "cpx"], 2, "did you mean 'cpu'?"),
        (["run", "nowhere.yaml"], 2, "nowhere.yaml: there is no recipe"),
        (["run", "quikstart"], 2, "did you mean 'quickstart'?"),
        (["run", "--model", "lnet"], 2, "did you mean 'lenet'?"),
        (["run", "--model", "lenet", "--data", "digitz"], 2, "did you mean 'digits'?"),
        (["run", "--model", "none.onnx"], 2, "none.onnx"),
        (["run", "--model", "no.such:thing"], 2, "no module named 'no'"),
        (["run", "--weights", "none.pt"], 2, "none.pt"),
        (["run", "--set", "gates.0.metric=latency"], 2, "unknown metric 'latency'"),
        (["run", "--set", "sede=3"], 2, "did you mean 'seed'?"),
        (["run", "--set", "target.transprt=ssh"], 2, "did you mean 'transport'?"),
        (["run", "--require", "int9"], 2, "did you mean 'int8'?"),
        (["run", "--host", "me@there"], 2, "not over ssh"),
        (["run", "--targt", "cpu"], 2, "--target"),
        (["rum"], 2, "rum"),
        (["gate", "nowhere"], 2, "holds no finished run"),
        (["report", "nowhere"], 2, "holds no finished run"),
        (["ingest", "results.zip", "nowhere"], 2, "holds no prepared run"),
        (["history", "show", "xyz"], 2, "unknown run 'xyz'"),
        (["list", "technique"], 2, "did you mean 'techniques'?"),
        (["targets", "show", "jetsno"], 2, "did you mean 'jetson'?"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_jetson_without_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["run", "--target", "jetson"]) == 4
    shown = capsys.readouterr().err
    for way in ("--host user@host[:port]", "EDGEBENCH_JETSON_HOST", "'host:'", "edgebench bundle"):
        assert way in shown
    assert shown.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "edgebench", "run", "none.yaml", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("kind", ["techniques", "models", "metrics", "data", "recipes"])
def test_lists(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", kind]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 1


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "list"]) == 0
    assert "jetson" in capsys.readouterr().out
    assert run(["targets", "show", "jetson"]) == 0
    assert "transport: ssh" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from edgebench import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"edgebench {__version__}\n"


def test_no_history_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["history", "list"]) == 0
    assert "no runs yet" in capsys.readouterr().out


def test_the_bundle_way(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Build here, carry the zip, run the agent with nothing else, carry the results back."""
    assert run(["bundle", recipe, "--target", "cpu"]) == 0
    assert "python3 agent.pyz" in capsys.readouterr().out
    device = Path("device")
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", "runs/small-cpu/bundle.zip", device], check=True
    )
    subprocess.run([sys.executable, "agent.pyz"], cwd=device, check=True, capture_output=True)
    results = next(device.rglob("results.zip"))
    assert run(["ingest", str(results), "runs/small-cpu"]) == 0
    record = json.loads(Path("runs/small-cpu/run.json").read_text())
    assert record["verdict"] == "GO"
    assert record["target"]["int8_reason"].startswith("the device could not be asked")
    broken = Path("broken.zip")
    broken.write_bytes(results.read_bytes()[:1000])
    capsys.readouterr()
    assert run(["ingest", str(broken), "runs/small-cpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert json.loads(Path("runs/small-cpu/run.json").read_text()) == record
