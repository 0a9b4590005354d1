"""Bad models, data and files: one line, the right exit code, and nothing lost or run."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from edgebench.__main__ import run

MODELS = """
import time
import torch
from torch import nn

class Good(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.head = nn.Linear(64, classes)
    def forward(self, x):
        return self.head(x.flatten(1))

class Wide(Good):
    def forward(self, x):
        return x

class Two(Good):
    def forward(self, x):
        return super().forward(x), x

class Eleven(Good):
    def __init__(self):
        super().__init__(11)

class Nan(Good):
    def forward(self, x):
        return super().forward(x) / 0 * 0

class Crash(Good):
    def forward(self, x):
        raise RuntimeError("the model's own fault")

def not_a_module():
    return 3

class Softmax(Good):
    def forward(self, x):
        return super().forward(x).softmax(1)
"""

RECIPE = """
model: nets:Good
data: digits
training: {epochs: 2, batch_size: 32, learning_rate: 1.0e-2}
variants:
  int8: [{technique: ptq}]
  fp16: [{technique: cast}]
controls: {independent: 0}
protocol: {processes: 1, pairs: 6, block_s: 0.01, warmup_s: 0.01, warmup_cap_s: 0.05}
gates:
  - {metric: size_bytes, max: 100000}
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nets.py").write_text(MODELS)
    (tmp_path / "r.yaml").write_text(RECIPE)
    # The same module name in every test's own folder: no test may meet another's.
    sys.modules.pop("nets", None)
    yield
    sys.modules.pop("nets", None)


def one_line(capsys: pytest.CaptureFixture[str], code: int, said: str, *arguments: str) -> None:
    assert run(["run", "r.yaml", *arguments]) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("Wide", "a classifier gives [N, classes]"),
        ("Two", "returns a tuple, not one tensor"),
        ("Eleven", "answers 11 classes, the data has 10"),
        ("Nan", "not finite"),
        ("Crash", "the model's own fault"),
        ("not_a_module", "returned a int, not a torch.nn.Module"),
        ("Godo", "has no 'Godo'"),
    ],
)
def test_models(capsys: pytest.CaptureFixture[str], model: str, said: str) -> None:
    one_line(capsys, 2, said, "--model", f"nets:{model}")


def test_a_pickle_that_wants_to_run_code(capsys: pytest.CaptureFixture[str]) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path("ran"),)

    torch.save({"head.weight": Attack()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Attack()))
    for name in ("evil.pt", "plain.pt"):
        one_line(capsys, 2, "would run code, and is refused", "--weights", name)
    assert not Path("ran").exists()


def test_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    state = {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    torch.save(state, "good.pt")
    whole = Path("good.pt").read_bytes()
    Path("cut.pt").write_bytes(whole[: len(whole) // 2])
    Path("cut.safetensors").write_bytes(b"\x10\x00")
    torch.save({"head.weight": torch.zeros(9, 64), "head.bias": torch.zeros(9)}, "nine.pt")
    torch.save({"other": torch.zeros(1)}, "other.pt")
    one_line(capsys, 2, "cut.pt", "--weights", "cut.pt")
    one_line(capsys, 2, "cut.safetensors", "--weights", "cut.safetensors")
    one_line(capsys, 2, "do not fit", "--weights", "nine.pt")
    one_line(capsys, 2, "lack 'head.", "--weights", "other.pt")
    assert run(["run", "r.yaml", "--weights", "good.pt"]) == 0


def classifier(
    path: str, *, classes: int = 10, kind: str = "plain", side: int = 8, ir_version: int = 10
) -> None:
    weight = np.random.default_rng(0).normal(size=(side * side, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    if kind == "nan":
        nodes[-1] = helper.make_node("MatMul", ["f", "w"], ["z"])
        nodes += [
            helper.make_node("Sub", ["z", "z"], ["o"]),
            helper.make_node("Div", ["o", "o"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = helper.make_opsetid("", 18)
    # onnx itself would write a version that ONNX Runtime does not read yet.
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=ir_version), path)


def test_onnx_files(capsys: pytest.CaptureFixture[str]) -> None:
    classifier("good.onnx")
    whole = Path("good.onnx").read_bytes()
    Path("cut.onnx").write_bytes(whole[: len(whole) // 2])
    Path("text.onnx").write_text("no model")
    Path("empty.onnx").touch()
    classifier("seven.onnx", classes=7)
    classifier("large.onnx", side=9)
    for name in ("cut.onnx", "text.onnx", "empty.onnx"):
        one_line(capsys, 2, name, "--model", name)
    one_line(capsys, 2, "answers 7 classes, the data has 10", "--model", "seven.onnx")
    one_line(capsys, 2, "takes inputs [N, 1, 9, 9]", "--model", "large.onnx")
    one_line(capsys, 2, "brings its own weights", "--model", "good.onnx", "--weights", "x.pt")


def test_a_file_of_a_later_format(capsys: pytest.CaptureFixture[str]) -> None:
    classifier("later.onnx", ir_version=onnx.IR_VERSION)
    code = run(["run", "r.yaml", "--model", "later.onnx"])
    shown = capsys.readouterr()
    if code == 0:
        pytest.skip("this ONNX Runtime reads all that this onnx writes")
    assert code == 5
    assert "/onnxruntime_src" not in shown.out + shown.err
    assert "Traceback" not in shown.err
    assert "IR version" in shown.out + shown.err


def test_an_onnx_file_with_a_control_file(capsys: pytest.CaptureFixture[str]) -> None:
    classifier("good.onnx")
    classifier("other.onnx")
    settings = ["--set", "controls.files=[other.onnx]", "--json"]
    assert run(["run", "r.yaml", "--model", "good.onnx", *settings]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [v["name"] for v in record["variants"]] == ["base", "independent-1", "int8", "fp16"]
    one_line(capsys, 2, "none.onnx", "--model", "good.onnx", "--set", "controls.files=[none.onnx]")


def test_a_base_whose_answers_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    classifier("nan.onnx", kind="nan")
    assert run(["run", "r.yaml", "--model", "nan.onnx"]) == 5
    shown = capsys.readouterr()
    assert "not finite" in shown.out
    assert "base failed" in shown.err
    record = json.loads(Path("runs/r-cpu/run.json").read_text())
    assert record["verdict"] is None
    assert record["exit_code"] == 5


def test_a_hang_is_stopped_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    # A limit no start of Python can meet: for the agent, the same as a runtime that hangs.
    short = {"pairs": 1, "block_s": 0.001, "single_s": 0.001, "warmup_s": 0.001}
    short |= {"warmup_cap_s": 0.002, "timeout_s": 0.01}
    settings = [part for key in short for part in ("--set", f"protocol.{key}={short[key]}")]
    assert run(["run", "r.yaml", *settings]) == 5
    record = json.loads(Path("runs/r-cpu/run.json").read_text())
    assert all(v["status"] in {"failed", "not_measured"} for v in record["variants"])
    assert "did not answer within 0.01 s" in record["variants"][0]["problem"]
    capsys.readouterr()
    assert run(["run", "r.yaml"]) == 0


def image_folder(classes: int, size: int = 8) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(classes):
            folder = Path("images") / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 255, (size, size), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(1)
    one_line(capsys, 2, "class", "--data", "images")
    Path("empty").mkdir()
    one_line(capsys, 2, "empty", "--data", "empty")
    Path("cut.parquet").write_bytes(b"PAR1 and then nothing")
    one_line(capsys, 2, "cut.parquet", "--data", "cut.parquet")
    one_line(capsys, 2, "nowhere", "--data", "./nowhere")


def test_a_folder_of_class_folders(capsys: pytest.CaptureFixture[str]) -> None:
    image_folder(3)
    assert run(["run", "r.yaml", "--data", "images", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["class_names"] == ["class0", "class1", "class2"]
    assert record["data"]["test"] == 12


def test_a_model_that_ends_in_a_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "r.yaml", "--model", "nets:Softmax", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["variants"][0]["metrics"]["accuracy"] > 0.7


def test_a_gpu_this_machine_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has a GPU")
    one_line(capsys, 4, "CUDAExecutionProvider", "--target", "gpu")
