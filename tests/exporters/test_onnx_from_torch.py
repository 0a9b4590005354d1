"""The exported file answers as torch does, at any batch, and says nothing of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_file import classifier_of, read_onnx
from edgebench.exporters.onnx_from_torch import check_parity, compare_files, export_onnx


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_it_answers_as_torch_at_every_batch(data, network, exported, tools, name: str) -> None:
    wanted = tools.run_module(network(name), data.test_x)
    for batch in (1, 2, 5, 100):
        given = tools.run_onnx(exported(name), data.test_x[:batch])
        np.testing.assert_allclose(given, wanted[:batch], atol=1e-4 * wanted.std())


def test_the_parity_is_put_in_words(data, network, tmp_path: Path) -> None:
    note = export_onnx(network("lenet"), data.test_x[:7], tmp_path / "m.onnx", opset=20)
    gap = note.removeprefix("ONNX Runtime within ").removesuffix(" of torch on 7 examples")
    assert 0 <= float(gap) < 1e-5


def test_the_file_is_one_classifier(exported) -> None:
    classifier = classifier_of(read_onnx(exported("lenet")), where="")
    assert (classifier.input_name, classifier.output_name) == ("input", "logits")
    assert classifier.input_shape == (None, 1, 8, 8)
    assert classifier.output_shape == (None, 10)
    assert classifier.opset == 20


def test_the_opset_is_the_one_asked_for(data, network, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(network("lenet"), data.test_x[:4], path, opset=18)
    assert {o.domain: o.version for o in onnx.load(path).opset_import}[""] == 18


def test_an_opset_torch_cannot_write_is_an_error(data, network, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"torch wrote opset 18 where the target asks for 13; set"):
        export_onnx(network("lenet"), data.test_x[:4], tmp_path / "m.onnx", opset=13)


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_nothing_of_this_machine_is_in_the_file(exported, name: str) -> None:
    content = exported(name).read_bytes()
    for trace in (b".py", b"/lib/", b'File "', b"site-packages", b"forward", b"stack"):
        assert trace not in content, trace
    assert str(Path(__file__).parents[2]).encode() not in content
    graph = onnx.load(exported(name)).graph
    holders = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    assert not any(holder.metadata_props or holder.doc_string for holder in holders)


def test_the_module_itself_stays_as_it_was(data, network, tmp_path: Path) -> None:
    module = network("resnet8").train()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    export_onnx(module, data.test_x[:4], tmp_path / "m.onnx", opset=20)
    assert not module.training
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


class Odd(nn.Module):
    """A dense layer and then something else."""

    def __init__(self, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.then = then

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.then(self.head(x.flatten(1)))


def branch(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def coloured(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("\x1b[31mthe first line\x1b[0m\nthe second line")


def number(x: torch.Tensor) -> torch.Tensor:
    return x * [1.0, 2.0][int(x.sum().tolist() % 2)]


def singular(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(x[:, None] * torch.ones(1, 10, 1))


def bessel(x: torch.Tensor) -> torch.Tensor:
    return torch.special.bessel_j0(x)


def example_by_example(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([row * 2 for row in x])


def fixed(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(32, 10)


BRANCH = (
    "it cannot be traced at `return x if x.sum() > 0 else -x` (test_onnx_from_torch.py:",
    ": it branches on values",
    "; use torch.where in place of the branch",
)
NUMBER = (
    "it cannot be traced at `return x * [1.0, 2.0][int(x.sum().tolist() % 2)]` (test_onnx_",
    ": it makes a Python number of a tensor",
    "; compute with tensors alone, without item(), int(), float() or tolist()",
)
BATCH = ("the batch size was taken for a constant", "; do not loop over the batch")
OPERATOR = "; write it with other operators, or use the target cpu-torch"


@pytest.mark.parametrize(
    ("then", "texts"),
    [
        (branch, BRANCH),
        (number, NUMBER),
        (singular, ("ONNX has no operator for 'aten._linalg_svd'", OPERATOR)),
        (bessel, ("ONNX has no operator for 'prims.bessel_j0'", OPERATOR)),
        (example_by_example, BATCH),
        (fixed, ("; torch.export has to follow its forward pass: tensors in, tensors out",)),
        (coloured, ("RuntimeError: the first line (test_onnx_from_torch.py:", "; torch.export")),
    ],
)
def test_what_cannot_be_exported_is_one_line_with_the_cause_and_nothing_else_is_printed(
    data,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    then: Callable[[torch.Tensor], torch.Tensor],
    texts: tuple[str, ...],
) -> None:
    with pytest.raises(BuildError) as caught:
        export_onnx(Odd(then), data.test_x[:32], tmp_path / "m.onnx", opset=20)
    line = str(caught.value)
    assert line.startswith("the model cannot be exported to ONNX: ")
    assert all(text in line for text in texts), line
    assert caught.value.hint
    assert str(Path(__file__).parent) not in line
    assert "\n" not in line
    assert "\x1b" not in line
    assert "second line" not in line
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_a_file_that_answers_otherwise_is_refused(data, tmp_path: Path) -> None:
    # The exporter takes the value it saw while tracing for a constant of the network.
    def frozen(x: torch.Tensor) -> torch.Tensor:
        return x + float(np.asarray(x.detach().sum().tolist())) * torch.arange(10)

    with pytest.raises(BuildError, match=r"answers differ|cannot be exported"):
        export_onnx(Odd(frozen), data.test_x[:32], tmp_path / "m.onnx", opset=20)


def test_parity_is_judged_at_batch_one_and_more(data, network, exported, tmp_path: Path) -> None:
    examples = data.test_x[:32]
    other = network("lenet")
    with torch.no_grad():
        other[-1].bias += 1.0
    for quantized in (False, True):
        check_parity(network("lenet"), exported("lenet"), examples, quantized=quantized)
        with pytest.raises(BuildError, match=r"answers differ from torch's by up to 1 "):
            check_parity(other, exported("lenet"), examples, quantized=quantized)


def test_answers_that_are_not_finite_are_not_alike(data, network, exported) -> None:
    other = network("lenet")
    with torch.no_grad():
        other[-1].bias[0] = float("nan")
    with pytest.raises(BuildError, match="answers differ"):
        check_parity(other, exported("lenet"), data.test_x[:8], quantized=False)


def test_a_file_for_one_example_alone_is_refused_in_one_line(
    data, network, exported, tmp_path: Path
) -> None:
    model = onnx.load(exported("lenet"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(BuildError, match="cannot run the exported file") as caught:
        check_parity(network("lenet"), tmp_path / "one.onnx", data.test_x[:8], quantized=False)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_fault_of_the_model(
    data, network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device (a fake)")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="a fake"):
        export_onnx(network("lenet"), data.test_x[:4], tmp_path / "m.onnx", opset=20)


def test_files_before_and_after_a_technique(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def file(name: str, *, factor: float, batch: int | str = "N", side: int = 3) -> Path:
        weight = np.eye(side, dtype=np.float32)[:, :2] * np.float32(factor)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, side])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
            [onnx.numpy_helper.from_array(weight, "w")],
        )
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / name)
        return tmp_path / name

    examples = np.random.default_rng(0).random((7, 3), dtype=np.float32)
    base = file("base.onnx", factor=1)
    assert compare_files(base, base, examples) == "answers as before on 7 examples"
    tenth = file("tenth.onnx", factor=1.1)
    assert compare_files(base, tenth, examples).startswith("SQNR 20.0 dB")
    by_two = file("two.onnx", factor=1, batch=2)
    assert compare_files(by_two, by_two, examples) == "answers as before on 6 examples"
    for broken, said in (
        (file("nan.onnx", factor=float("nan")), "not finite"),
        (file("wide.onnx", factor=1, side=4), "cannot run"),
        (file("vast.onnx", factor=1, batch=64), "fixed at 64"),
    ):
        with pytest.raises(BuildError, match=said):
            compare_files(base, broken, examples)
