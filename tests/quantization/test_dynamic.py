"""Dynamic int8: integer operators that are counted, and a library's silences that are not kept."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.exporters.onnx_file import count_parameters, read_onnx
from edgebench.exporters.onnx_from_torch import compare_files
from edgebench.quantization.dynamic import quantize_dynamically

value = helper.make_tensor_value_info
node = helper.make_node
FLOAT = TensorProto.FLOAT


def quantize(source: Path, folder: Path, **changes) -> tuple[Path, list[str]]:
    options = {"per_channel": False, "reduce_range": True, "exclude": [], **changes}
    path = folder / "dynamic.onnx"
    return path, quantize_dynamically(source, path, **options)


def weights_of(path: Path, operator: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The integer weights of the operators of one kind, and their zero points."""
    model = onnx.load(path)
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    parts = [part for part in model.graph.node if part.op_type == operator]
    return [(tensors[part.input[1]], tensors[part.input[3]]) for part in parts]


@pytest.mark.parametrize(
    ("name", "dense", "convolutions"), [("lenet", 2, 2), ("resnet8", 1, 9), ("mobilenetv1", 2, 27)]
)
def test_every_layer_becomes_an_integer_operator(
    data, exported, tools, tmp_path: Path, name: str, dense: int, convolutions: int
) -> None:
    source = exported(name)
    path, notes = quantize(source, tmp_path)
    operators = tools.operators(path)
    assert operators["MatMulInteger"] == dense
    assert operators["ConvInteger"] == convolutions
    assert not {"Conv", "Gemm", "MatMul"} & set(operators)
    assert notes[0].startswith(f"{dense} MatMulInteger")
    assert f" and {convolutions} ConvIntegers, " in notes[0]
    assert f" {operators['DynamicQuantizeLinear']} DynamicQuantizeLinears" in notes[0]
    assert len(notes) == 1
    assert "SQNR" in compare_files(source, path, data.test_x[:16])
    assert path.stat().st_size < 0.6 * source.stat().st_size
    assert count_parameters(read_onnx(path))[0] == count_parameters(read_onnx(source))[0]


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_it_answers_as_the_float_model_does(
    data, exported, tools, tmp_path: Path, name: str
) -> None:
    path, _ = quantize(exported(name), tmp_path)
    wanted, given = (tools.run_onnx(p, data.test_x) for p in (exported(name), path))
    assert (given.argmax(1) == wanted.argmax(1)).mean() >= 0.95
    gap = np.sqrt(np.mean((given - wanted) ** 2))
    assert 0 < gap < 0.1 * wanted.std()


def test_the_range_is_found_at_each_inference(data, exported, tools, tmp_path: Path) -> None:
    # Inputs a thousand times as large would saturate any range found beforehand.
    path, _ = quantize(exported("lenet"), tmp_path)
    wanted, given = (tools.run_onnx(p, 1000 * data.test_x) for p in (exported("lenet"), path))
    assert np.sqrt(np.mean((given - wanted) ** 2)) < 0.1 * wanted.std()


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
def test_reduced_weights_have_seven_bits(
    exported, tmp_path: Path, reduce_range: bool, largest: int
) -> None:
    path, _ = quantize(exported("lenet"), tmp_path, reduce_range=reduce_range)
    for operator in ("ConvInteger", "MatMulInteger"):
        for weight, _ in weights_of(path, operator):
            assert weight.dtype == np.int8
            assert largest - 1 <= np.abs(weight.astype(int)).max() <= largest + 1


def test_a_scale_a_channel_is_for_dense_layers_and_that_is_said(exported, tmp_path: Path) -> None:
    path, notes = quantize(exported("lenet"), tmp_path, per_channel=True)
    layers = weights_of(path, "MatMulInteger")
    assert len(layers) == 2
    assert all(zero.shape == (weight.shape[1],) for weight, zero in layers)
    assert all(zero.size == 1 for _, zero in weights_of(path, "ConvInteger"))
    assert notes[1:] == [
        "ConvInteger has one weight scale a tensor: one scale a channel holds for dense layers"
    ]
    before = count_parameters(read_onnx(exported("lenet")))[0]
    assert count_parameters(read_onnx(path))[0] == before


def dense(folder: Path, names=("first", "second")) -> Path:
    """Two layers of MatMul and Add, which ONNX Runtime would fuse into others."""
    rng = np.random.default_rng(0)
    nodes = [node("Flatten", ["x"], ["a0"])]
    tensors = []
    for layer, name in enumerate(names):
        inputs, outputs = ((64, 32), (32, 10))[layer]
        last = "y" if layer else "a1"
        nodes += [
            node("MatMul", [f"a{layer}", f"w{layer}"], [f"m{layer}"], name=name),
            node("Add", [f"m{layer}", f"b{layer}"], [last], name=f"{name}_bias"),
        ]
        tensors += [
            numpy_helper.from_array(array.astype(np.float32), tensor)
            for tensor, array in (
                (f"w{layer}", rng.standard_normal((inputs, outputs))),
                (f"b{layer}", rng.standard_normal(outputs)),
            )
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, ["N", 1, 8, 8])],
        [value("y", FLOAT, ["N", 10])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "dense.onnx")
    return folder / "dense.onnx"


def test_excluded_layers_stay_float(tools, tmp_path: Path) -> None:
    source = dense(tmp_path)
    path, notes = quantize(source, tmp_path, exclude=["second"])
    operators = tools.operators(path)
    assert (operators["MatMul"], operators["MatMulInteger"]) == (1, 1)
    tensors = {t.name: t for t in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(
        numpy_helper.to_array(tensors["w1"]),
        numpy_helper.to_array(onnx.load(source).graph.initializer[2]),
    )
    assert notes[0].startswith("1 MatMulInteger and 0 ConvIntegers, ")


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no node 'secnod' to exclude; did you mean 'second'"):
        quantize(dense(tmp_path), tmp_path, exclude=["secnod"])


def test_nothing_to_quantize(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="found no operator to quantize dynamically"):
        quantize(dense(tmp_path), tmp_path, exclude=["first", "second"])


def test_what_onnx_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    path = dense(tmp_path)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Flaten"
    onnx.save(model, path)
    with pytest.raises(BuildError, match="cannot quantize this model dynamically: ") as caught:
        quantize(path, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_the_same_file_every_time_and_a_quiet_log(
    exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, root.manager.disable)
    content = exported("lenet").read_bytes()
    path, notes = quantize(exported("lenet"), tmp_path)
    first = path.read_bytes()
    assert quantize(exported("lenet"), tmp_path)[1] == notes
    assert path.read_bytes() == first
    assert exported("lenet").read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["dynamic.onnx"]
    assert (list(root.handlers), root.level, root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
