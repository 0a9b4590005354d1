"""Half precision: half the bytes, float32 at both ends, and what is computed in is said."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.exporters.onnx_file import count_parameters
from edgebench.quantization.on_host import Operator, computed_in_float32
from edgebench.techniques.base import TECHNIQUES

CAST = TECHNIQUES.get("cast")


def cast(tools, source: Path, context, folder: Path, **options):
    path = folder / "half.onnx"
    return path, CAST().apply(source, path, tools.options_of("cast", **options), context)


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_half_the_size_and_the_same_answers(
    data, exported, context, tools, tmp_path: Path, name: str
) -> None:
    path, outcome = cast(tools, exported(name), context(), tmp_path)
    model = onnx.load(path)
    weights = [t for t in model.graph.initializer if len(t.dims) > 1]
    assert {t.data_type for t in weights} >= {TensorProto.FLOAT16}
    assert TensorProto.FLOAT not in {t.data_type for t in model.graph.initializer}
    ends = [*model.graph.input, *model.graph.output]
    assert {e.type.tensor_type.elem_type for e in ends} == {TensorProto.FLOAT}
    assert path.stat().st_size < 0.65 * exported(name).stat().st_size
    wanted, given = (tools.run_onnx(p, data.test_x) for p in (exported(name), path))
    assert given.dtype == np.float32
    gap = np.sqrt(np.mean((given - wanted) ** 2))
    assert 0 < gap < 0.05 * wanted.std()
    assert len(outcome.notes) == 1
    single, computing = computed_in(outcome.notes[0])
    assert 0 < single <= computing
    assert computing >= len([n for n in model.graph.node if n.op_type in {"Conv", "Gemm"}])


def computed_in(note: str) -> tuple[int, int]:
    """The two numbers of the note on what ONNX Runtime computes in."""
    words = "computes (\\d+) of (\\d+) operators in float32 on this host's processor"
    found = re.fullmatch(f"ONNX Runtime {words}", note)
    assert found, note
    return int(found[1]), int(found[2])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have fp16 kernels")
def test_x86_has_no_fp16_kernels(exported, context, tools, tmp_path: Path) -> None:
    _, outcome = cast(tools, exported("resnet8"), context(), tmp_path)
    single, computing = computed_in(outcome.notes[0])
    assert single == computing


def test_what_is_computed_in_counts_arithmetic_alone() -> None:
    ran = [
        Operator("Conv", "float"),
        Operator("Relu", "float16"),
        Operator("Gemm", "bfloat16"),
        Operator("Cast", "float"),
        Operator("Transpose", "float16"),
        Operator("ReorderInput", "float"),
        Operator("ArgMax", "int64"),
        Operator("Softmax", "float"),
    ]
    assert computed_in_float32(ran) == (2, 4)


BF16 = ("fp32", "bf16")


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_bf16_weights_are_half_the_size_and_run_as_float32(
    data, exported, context, tools, tmp_path: Path, name: str
) -> None:
    source = exported(name)
    path, outcome = cast(tools, source, context(precisions=BF16), tmp_path, dtype="bf16")
    model, before = onnx.load(path), onnx.load(source)
    kinds = {t.data_type for t in model.graph.initializer if t.dims}
    assert TensorProto.BFLOAT16 in kinds
    assert TensorProto.FLOAT not in kinds
    assert path.stat().st_size < 0.65 * source.stat().st_size
    assert count_parameters(model)[0] == count_parameters(before)[0]

    # The float32 file whose weights were rounded by hand is the same function, bit by bit.
    for tensor in before.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            values = to_nearest_even(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(before, tmp_path / "rounded.onnx")
    for optimised in (False, True):
        given, wanted = (
            tools.run_onnx(p, data.test_x, optimised=optimised)
            for p in (path, tmp_path / "rounded.onnx")
        )
        np.testing.assert_array_equal(given, wanted)
    assert not np.array_equal(given, tools.run_onnx(source, data.test_x))
    # What runs is the float32 graph: no conversion is left.
    operators = tools.running_operators(path, tmp_path)
    assert operators == tools.running_operators(source, tmp_path)
    assert outcome.notes[0] == (
        "ONNX Runtime converts the bf16 weights to float32 when the file is loaded"
    )
    single, computing = computed_in(outcome.notes[1])
    assert single == computing > 0


def to_nearest_even(values: np.ndarray) -> np.ndarray:
    """float32 rounded to eight bits of precision, halves to the even neighbour."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & 0xFFFF0000).view(np.float32)


def test_bf16_rounds_halves_to_even_and_clips_nothing(context, tools, tmp_path: Path) -> None:
    weight = np.ones((64, 10))
    # Between 1 and 1 + 2⁻⁷, and between 1 + 2⁻⁷ and 1 + 2⁻⁶; then what fp16 cannot hold.
    weight[0] = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1e6, -1e30, 1e-30, 0, 2, 3, 4]
    source = linear(tmp_path, weight)
    path, outcome = cast(tools, source, context(precisions=BF16), tmp_path, dtype="bf16")
    (tensor,) = onnx.load(path).graph.initializer
    assert len(tensor.raw_data) == 2 * 640
    stored = numpy_helper.to_array(tensor).astype(np.float32)[0]
    assert stored[:3].tolist() == [1, 1 + 2**-6, 1 + 2**-7]
    np.testing.assert_allclose(stored[3:6], [1e6, -1e30, 1e-30], rtol=2**-8)
    assert len(outcome.notes) == 2


def test_bf16_leaves_sizes_and_scales_as_they_are(context, tools, tmp_path: Path) -> None:
    # 1.3 is 1.296875 in bf16, and ten pixels times that would be twelve, not thirteen.
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Resize", ["c", "", "scales"], ["r"]),
            helper.make_node("Flatten", ["r"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 169])],
        [
            numpy_helper.from_array(np.full((1, 1, 1, 1), 0.3, np.float32), "w"),
            numpy_helper.from_array(np.float32([1, 1, 1.3, 1.3]), "scales"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "resize.onnx")
    used = context(precisions=BF16, train_x=np.zeros((2, 1, 10, 10), np.float32))
    path, _ = cast(tools, tmp_path / "resize.onnx", used, tmp_path, dtype="bf16")
    kinds = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    assert kinds == {"w_bf16": TensorProto.BFLOAT16, "scales": TensorProto.FLOAT}
    assert tools.run_onnx(path, np.ones((2, 1, 10, 10), np.float32)).shape == (2, 169)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_weights_that_are_constants_are_cast_too(
    context, tools, tmp_path: Path, dtype: str
) -> None:
    source = linear(tmp_path, np.full((64, 10), 1.5))
    model = onnx.load(source)
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    onnx.save(model, source)
    path, _ = cast(tools, source, context(precisions=(dtype,)), tmp_path, dtype=dtype)
    assert path.stat().st_size < 0.65 * source.stat().st_size
    given = tools.run_onnx(path, np.ones((2, 1, 8, 8), np.float32))
    np.testing.assert_allclose(given, 96)


@pytest.mark.parametrize(("dtype", "opset"), [("fp16", 17), ("bf16", 17), ("bf16", 12)])
def test_a_free_size_that_only_the_data_knows(
    context, tools, tmp_path: Path, dtype: str, opset: int
) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        "g (float[N, 1, H, W] x) => (float[N, 10] y) { f = Flatten(x) y = MatMul(f, w) }"
    )
    weight = np.full((64, 10), 1.5, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "free.onnx")
    path, _ = cast(
        tools, tmp_path / "free.onnx", context(precisions=(dtype,)), tmp_path, dtype=dtype
    )
    np.testing.assert_allclose(tools.run_onnx(path, np.ones((2, 1, 8, 8), np.float32)), 96)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_model_without_float_weights(context, tools, tmp_path: Path, dtype: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "f")
    with pytest.raises(BuildError, match="no float32 weights to cast"):
        cast(tools, tmp_path / "f", context(precisions=(dtype,)), tmp_path, dtype=dtype)


def linear(folder: Path, weight: np.ndarray) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "linear.onnx")
    return folder / "linear.onnx"


def test_weights_fp16_cannot_hold_are_counted(context, tools, tmp_path: Path, recwarn) -> None:
    weight = np.full((64, 10), 0.5)
    weight[0, :2] = 1e6, -1e6
    weight[1, 0] = 1e-12
    path, outcome = cast(tools, linear(tmp_path, weight), context(), tmp_path)
    assert outcome.notes[0] == "2 weights were beyond ±65504 and were clipped"
    assert len(outcome.notes) == 2
    assert not recwarn.list
    assert np.isfinite(tools.run_onnx(path, np.full((2, 1, 8, 8), 1e-3, np.float32))).all()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_target_without_it(exported, context, tools, tmp_path: Path, dtype: str) -> None:
    with pytest.raises(BuildError, match=f"the target runs no {dtype}; see 'precisions'"):
        cast(tools, exported("lenet"), context(precisions=("fp32",)), tmp_path, dtype=dtype)


def test_what_cannot_be_cast_is_one_line(context, tools, tmp_path: Path) -> None:
    path = linear(tmp_path, np.ones((64, 10)))
    model = onnx.load(path)
    model.graph.node[1].op_type = "Vonc"
    onnx.save(model, path)
    with pytest.raises(BuildError, match="the model cannot be cast to fp16: ") as caught:
        cast(tools, path, context(), tmp_path)
    assert "\n" not in str(caught.value)
