"""`edgebench compare` from the command line: one real comparison, and what a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgebench.__main__ import run as command

QUICK = [
    "protocol.processes=1",
    "protocol.pairs=1",
    "protocol.block_s=0.001",
    "protocol.warmup_s=0",
    "protocol.warmup_cap_s=0.5",
    "protocol.single_s=0.001",
    "protocol.inspect=false",
]
SET = [part for setting in QUICK for part in ("--set", setting)]


def model(path: Path, graph: str) -> Path:
    text = f'<ir_version: 9, opset_import: ["" : 18]> agraph {graph}'
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relu = "(float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
    model(tmp_path / "a.onnx", relu)
    model(tmp_path / "b.onnx", relu)
    model(tmp_path / "wide.onnx", "(float[N,5] x) => (float[N,5] y) { y = Relu(x) }")
    model(tmp_path / "two.onnx", "(float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    model(tmp_path / "three.onnx", "(float[3,4] x) => (float[3,4] y) { y = Relu(x) }")
    model(
        tmp_path / "wrong.onnx",
        "(float[N,4] x) => (float[M,4] y) { y = Concat<axis=0>(x, x) }",
    )


def test_two_models_are_compared_and_the_command_goes_on_being_the_same(capsys) -> None:
    assert command(["compare", "a.onnx", "b.onnx", "--target", "cpu", *SET]) == 3
    out = capsys.readouterr().out
    assert out.startswith("INCONCLUSIVE")
    assert "Answers on the same inputs: identical" in out
    assert "runs/compare-a-b-cpu/comparison.md" in out
    assert Path("runs/compare-a-b-cpu/comparison.json").is_file()
    values = ["compare", "a.onnx", "two.onnx", "--json", "--out", "other", *SET]
    np.savez("in.npz", x=np.ones((3, 4), np.float32))
    assert command([*values, "--data", "in.npz"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "edgebench.comparison/1"
    assert content["protocol"]["batch"] == 2
    assert content["inputs"] == "in.npz: x float32 [3, 4]"
    assert json.loads(Path("other/comparison.json").read_text()) == content


def test_a_model_that_answers_wrongly_is_one_line(capsys) -> None:
    assert command(["compare", "a.onnx", "wrong.onnx", *SET]) == 4
    error = capsys.readouterr().err.strip().splitlines()
    assert "wrong.onnx: the model was not measured: output 'y' has shape" in error[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["a.onnx", "none.onnx"], 2, "there is no ONNX file at this path"),
        (["a.onnx", "runs/b"], 2, "one is an ONNX file, the other is not"),
        (["runs/a", "runs/b"], 2, "holds no finished run"),
        (["runs/a", "runs/b", "--target", "cpu"], 2, "--target: two finished runs"),
        (["a.onnx", "wide.onnx"], 4, "the input 'x' is [N, 4] and [N, 5]"),
        (["two.onnx", "three.onnx"], 4, "their batches are fixed at 2 and 3"),
        (["a.onnx", "two.onnx", "--set", "protocol.batch=4"], 2, "fixes its batch at 2, not 4"),
        (["a.onnx", "b.onnx", "--target", "cpuu"], 2, "did you mean 'cpu'"),
        (["a.onnx", "b.onnx", "--protocol", "quik"], 2, "did you mean 'quick'"),
        (["a.onnx", "b.onnx", "--set", "protocol.pears=1"], 2, "did you mean 'pairs'"),
        (["a.onnx", "b.onnx", "--set", "sede=1"], 2, "did you mean 'seed'"),
        (["a.onnx", "b.onnx", "--set", "dim.seq=0"], 2, "a whole number of 1 or more"),
        (["a.onnx", "b.onnx", "--set", "dim.seq=3"], 2, "no input has a free dimension 'seq'"),
        (["a.onnx", "b.onnx", "--data", "none.npz"], 2, "there is no file at this path"),
        (["a.onnx", "b.onnx", "--data", "digits"], 2, "'x' is"),
        (["a.onnx", "b.onnx", "--limit", "-1"], 2, "--limit"),
        (["a.onnx", "b.onnx", "--max-disagreement", "2"], 2, "--max-disagreement"),
        (["a.onnx", "b.onnx", "--out", "full"], 2, "the folder holds files that are no run's"),
        (["a.onnx", "b.onnx", "--host", "me@there"], 2, "--host"),
        (["a.onnx"], 2, "Missing argument 'B'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, said: str, capsys) -> None:
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("mine")
    assert command(["compare", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_file_that_is_no_model_is_one_line(capsys) -> None:
    Path("broken.onnx").write_bytes(b"\x08\x07broken")
    assert command(["compare", "a.onnx", "broken.onnx"]) == 2
    assert "broken.onnx: the ONNX file cannot be read" in capsys.readouterr().err
