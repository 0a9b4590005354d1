"""A model's name, and what is said where nothing can be made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.errors import ModelError, UnknownNameError
from edgebench.models.source import ModelSource, check_classifier, find_model

NET = """
import functools
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, hidden=4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, classes)
        )
    def forward(self, x):
        return self.layers(x)

def make(input_shape, classes, **options):
    return Net(classes, **options)

small = functools.partial(Net, hidden=2)

class Maker:
    def __call__(self, classes):
        return Net(classes)

maker = Maker()
number = 3
anything = dict

def raises():
    raise ValueError("the first line\\nthe second line")

def leaves():
    raise SystemExit(3)

def text():
    return "a network"

def fixed():
    return Net()
"""


def find(spec: str, **options: Any) -> ModelSource:
    return find_model(spec, weights=None, options=options)


def build(spec: str, **options: Any) -> nn.Module:
    return find(spec, **options).build((1, 8, 8), 10)


def refused(spec: str, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        build(spec, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "Traceback" not in line
    return line


def test_a_registered_name() -> None:
    source = find("lenet", width=0.5)
    assert source.trainable
    assert source.identity == {"model": "lenet", "options": {"width": 0.5}}
    assert source.build((1, 8, 8), 10)[0].out_channels == 16
    assert source.build((1, 8, 8), 10, width=0.25)[0].out_channels == 8


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'lenett'; did you mean 'lenet'\?"):
        find("lenett")
    with pytest.raises(UnknownNameError, match=r"unknown model 'x'; known: .*lenet"):
        find("x")


@pytest.mark.parametrize("name", ["Net", "make", "small", "maker", "fixed"])
def test_a_factory_in_the_working_folder(project, name: str) -> None:
    project(nets=NET)
    source = find(f"nets:{name}")
    assert source.build((1, 8, 8), 10)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert len(source.identity["source"]) == 64


def test_options_reach_the_factory(project) -> None:
    project(nets=NET)
    assert build("nets:Net", hidden=6).layers[1].out_features == 6
    assert build("nets:make", hidden=7).layers[1].out_features == 7


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        ("nets:Net", {"hiden": 3}, "takes no 'hiden'; it takes: classes, hidden"),
        ("nets:fixed", {"width": 3}, "takes no 'width'; it takes: nothing"),
        ("nets:make", {"hiden": 3}, "the factory failed: TypeError"),
        ("nets:raises", {}, "ValueError: the first line the second line"),
        ("nets:leaves", {}, "the factory failed: SystemExit: 3"),
        ("nets:text", {}, "returned a str, not a torch.nn.Module"),
        ("nets:number", {}, "'number' is not callable"),
        ("nets:anything", {}, "arguments cannot be told"),
        ("nets:nothing", {}, "'nets' has no 'nothing'"),
        ("nets:", {}, "'nets' has no ''"),
        ("nest:Net", {}, "no module named 'nest'; run in the folder"),
        (":Net", {}, "importing '' failed"),
        (".nets:Net", {}, "importing '.nets' failed"),
        ("needs:Net", {}, "no module named 'package_of_nobody'"),
        ("broken:Net", {}, "importing 'broken' failed: SyntaxError"),
        ("script:Net", {}, "ends the program; put what a script does under"),
        ("fails:Net", {}, "importing 'fails' failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_factory_is_refused_in_one_line(
    project, spec: str, options: dict[str, Any], text: str
) -> None:
    project(
        nets=NET,
        needs="import package_of_nobody\n",
        broken="def (:\n",
        script="import sys\nsys.exit(0)\n",
        fails="1 / 0\n",
    )
    line = refused(spec, **options)
    assert text in line
    assert spec in line


def test_the_identity_changes_with_everything_imported_from_beside(project) -> None:
    project(nets="from blocks import make\n", blocks="import sizes\n" + NET, sizes="N = 1\n")
    first = find("nets:make").identity
    assert find("nets:make").identity == first
    project(unrelated="N = 2\n")
    assert find("nets:make").identity == first
    project(sizes="N = 2\n")
    assert find("nets:make").identity != first


def test_the_identity_changes_with_the_weights_content(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"

    def identity() -> dict[str, Any]:
        return find_model("lenet", weights=str(weights), options={}).identity

    weights.write_bytes(b"one")
    first = identity()
    weights.write_bytes(b"two")
    assert identity() != first
    assert str(tmp_path) not in str(first)


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no weights file at this path"):
        find_model("lenet", weights=str(tmp_path / "none.pt"), options={})
    with pytest.raises(ModelError, match=r"cannot be read: Is a directory"):
        find_model("lenet", weights=str(tmp_path), options={})


def test_an_onnx_file_is_not_opened_yet(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"anything")
    source = find(str(path))
    assert not source.trainable
    assert source.onnx_file == path
    assert list(source.identity) == ["onnx"]
    with pytest.raises(ModelError, match="no factory"):
        source.build((1, 8, 8), 10)


def test_an_onnx_file_takes_neither_weights_nor_options(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(ModelError, match="brings its own weights"):
        find_model(str(path), weights="w.pt", options={})
    with pytest.raises(ModelError, match="takes no options, such as 'width'"):
        find(str(path), width=0.5)
    with pytest.raises(ModelError, match="there is no ONNX file at this path"):
        find(str(tmp_path / "none.onnx"))


class Gives(nn.Module):
    """Answers whatever it was made for."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        return self.answer(x) if callable(self.answer) else self.answer


def crash(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("mat1 and mat2 shapes\ncannot be multiplied")


def leave(x: torch.Tensor) -> torch.Tensor:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (torch.zeros(2, 10, 1), "has shape [2, 10, 1] for 2 examples; a classifier gives"),
        (torch.zeros(10), "has shape [10]"),
        (torch.zeros(()), "has shape []"),
        (torch.zeros(1, 10), "has shape [1, 10] for 2 examples"),
        ((torch.zeros(2, 10),), "returns a tuple, not one tensor [N, classes]"),
        ({"logits": torch.zeros(2, 10)}, "returns a dict"),
        (None, "returns a NoneType"),
        (torch.zeros(2, 10).numpy(), "returns a ndarray"),
        (torch.zeros(2, 10, dtype=torch.int64), "answers in torch.int64, not in floats"),
        (torch.zeros(2, 7), "answers 7 classes, the data has 10"),
        (torch.full((2, 10), float("nan")), "not finite"),
        (torch.full((2, 10), float("inf")), "not finite"),
        (crash, "on an input of shape [2, 1, 8, 8]: RuntimeError: mat1 and mat2 shapes cannot be"),
        (leave, "SystemExit"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(answer: Any, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        check_classifier(Gives(answer), (1, 8, 8), 10, where="model 'mine'")
    line = str(caught.value)
    assert line.startswith("model 'mine': ")
    assert text in line
    assert "\n" not in line


@pytest.mark.parametrize("training", [True, False])
def test_a_classifier_is_left_as_it_was(training: bool) -> None:
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(64, 10))
    module.train(training)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.random.get_rng_state()
    check_classifier(module, (1, 8, 8), 10, where="m")
    assert module.training is training
    assert module[0].training is training
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
