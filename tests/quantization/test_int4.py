"""Four bits on disk, and the integer kernels and answers of the int8 file all the same."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import compare_files
from edgebench.quantization.int4 import int4_tensor, pack_int4
from edgebench.quantization.onnx_graph import raise_opset

value = helper.make_tensor_value_info
node = helper.make_node


@pytest.mark.parametrize(
    ("numbers", "raw"),
    [
        # The first of two lies in the lower half; a lone last one has zeros above it.
        ([1, 2], b"\x21"),
        ([-8, -1, 7], b"\xf8\x07"),
        ([0, -2, 3, -7, 5], b"\xe0\x93\x05"),
    ],
)
def test_two_numbers_a_byte(numbers: list[int], raw: bytes) -> None:
    tensor = int4_tensor("w", np.array(numbers))
    assert tensor.data_type == TensorProto.INT4
    assert tensor.raw_data == raw
    assert numpy_helper.to_array(tensor).astype(int).tolist() == numbers


def quantized(opset: int = 21, largest: int = 7, extra=()) -> onnx.ModelProto:
    """Two convolutions whose activations and weights are quantized, as training exports them."""
    rng = np.random.default_rng(3)
    tensors = [
        numpy_helper.from_array(np.float32(0.02), "scale"),
        numpy_helper.from_array(np.uint8(128), "zero"),
    ]
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        node("DequantizeLinear", ["x_q", "scale", "zero"], ["a0"]),
    ]
    for layer, (channels, inputs) in enumerate([(8, 3), (5, 8)]):
        weight = rng.integers(-8, 8, (channels, inputs, 3, 3)).astype(np.int8)
        weight[0, 0, 0, 0] = largest
        scales = rng.uniform(0.01, 0.03, channels).astype(np.float32)
        tensors += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(scales, f"w{layer}_scale"),
            numpy_helper.from_array(np.zeros(channels, np.int8), f"w{layer}_zero"),
            numpy_helper.from_array(
                rng.integers(-900, 900, channels).astype(np.int32), f"b{layer}"
            ),
            numpy_helper.from_array(scales * np.float32(0.02), f"b{layer}_scale"),
        ]
        nodes += [
            node(
                "DequantizeLinear",
                [f"w{layer}", f"w{layer}_scale", f"w{layer}_zero"],
                [f"wf{layer}"],
                axis=0,
            ),
            node("DequantizeLinear", [f"b{layer}", f"b{layer}_scale"], [f"bf{layer}"], axis=0),
            node("Conv", [f"a{layer}", f"wf{layer}", f"bf{layer}"], [f"c{layer}"]),
            node("QuantizeLinear", [f"c{layer}", "scale", "zero"], [f"q{layer}"]),
            node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"a{layer + 1}"]),
        ]
    nodes += [node("Flatten", ["a2"], ["y"]), *extra]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 80])],
        tensors,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10
    )
    onnx.checker.check_model(model, full_check=True)
    return model


X = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


def saved(model: onnx.ModelProto, folder: Path, name: str) -> Path:
    onnx.save(model, folder / name)
    return folder / name


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_the_same_kernels_and_the_same_bits_of_the_answers(
    tools, tmp_path: Path, opset: int
) -> None:
    model = quantized(opset)
    before = saved(model, tmp_path, "int8.onnx")
    assert pack_int4(model) == 2
    after = saved(model, tmp_path, "int4.onnx")

    assert next(o.version for o in model.opset_import if o.domain == "") == max(opset, 21)
    packed = [t for t in onnx.load(after).graph.initializer if t.data_type == TensorProto.INT4]
    assert [len(t.raw_data) for t in packed] == [8 * 3 * 9 // 2, 5 * 8 * 9 // 2]
    int8 = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    assert all(len(t.dims) == 1 for t in int8)

    for optimised in (False, True):
        np.testing.assert_array_equal(
            tools.run_onnx(after, X, optimised=optimised),
            tools.run_onnx(before, X, optimised=optimised),
        )
    kernels = tools.running_operators(after, tmp_path)
    assert kernels == tools.running_operators(before, tmp_path)
    assert kernels["QLinearConv"] == 2
    assert not kernels["Cast"]
    assert compare_files(before, after, X) == "answers as before on 16 examples"


def test_openvino_runs_the_same_integer_kernels(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = quantized()
    files = [saved(model, tmp_path, "int8.onnx")]
    pack_int4(model)
    files.append(saved(model, tmp_path, "int4.onnx"))
    seen = []
    for file in files:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(file)), "CPU")
        kernels = Counter(
            (str(part.get_rt_info()["layerType"]), str(part.get_rt_info()["runtimePrecision"]))
            for part in compiled.get_runtime_model().get_ordered_ops()
        )
        seen.append((kernels, compiled({"x": X})[compiled.output(0)]))
    assert seen[0][0] == seen[1][0]
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("largest", [8, -9])
def test_weights_that_need_more_bits_stay(largest: int) -> None:
    model = quantized(18, largest=largest)
    before = deepcopy(model)
    assert pack_int4(model) == 0
    assert model == before


@pytest.mark.parametrize(
    "other",
    [
        node("Cast", ["w0"], ["also"], to=TensorProto.FLOAT),
        # As a zero point, not as a weight.
        node("QuantizeLinear", ["x", "w1_scale", "w0"], ["also"]),
    ],
)
def test_a_tensor_that_others_read_too_stays(other: onnx.NodeProto) -> None:
    model = quantized()
    model.graph.node.append(other)
    assert pack_int4(model) == 1
    kept = {t.name: t.data_type for t in model.graph.initializer}
    assert kept["w0"] == TensorProto.INT8
    assert kept["w1_int4"] == TensorProto.INT4


def test_a_tensor_that_an_inner_graph_reads_stays() -> None:
    model = quantized()
    inner = helper.make_graph(
        [node("Identity", ["w0"], ["i"])], "i", [], [value("i", TensorProto.INT8, None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner))
    assert pack_int4(model) == 1


def test_a_name_that_is_taken() -> None:
    model = quantized()
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2]), "w0_int4"))
    assert pack_int4(model) == 2
    names = [t.name for t in model.graph.initializer]
    assert len(names) == len(set(names))
    onnx.checker.check_model(model, full_check=True)


def test_a_weight_listed_among_the_inputs(tools, tmp_path: Path) -> None:
    model = quantized()
    model.graph.input.append(value("w0", TensorProto.INT8, [8, 3, 3, 3]))
    before = saved(model, tmp_path, "int8.onnx")
    assert pack_int4(model) == 2
    assert [entry.name for entry in model.graph.input] == ["x"]
    np.testing.assert_array_equal(
        tools.run_onnx(saved(model, tmp_path, "int4.onnx"), X), tools.run_onnx(before, X)
    )


def test_an_opset_that_changes_the_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized(18)
    wrong = quantized(21, largest=3)
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *_: wrong)
    with pytest.raises(BuildError, match="answers otherwise when raised from opset 18 to 21"):
        raise_opset(model, 21)


def test_an_opset_that_cannot_be_raised_is_one_line() -> None:
    model = quantized(18)
    graph = model.graph
    graph.node.append(node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    graph.output[0].name = "z"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.functions.append(
        helper.make_function(
            "local", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], model.opset_import
        )
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    graph.node.append(node("F", ["z"], ["f"], domain="local"))
    graph.output[0].name = "f"
    with pytest.raises(BuildError, match="cannot be raised from opset 18 to 21: ") as caught:
        raise_opset(model, 21)
    assert str(caught.value).endswith("; export it with opset 21")
