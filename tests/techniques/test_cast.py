"""Half precision: half the bytes, float32 at both ends, and a word on what did not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES

CAST = TECHNIQUES.get("cast")


def cast(tools, source: Path, context, folder: Path, **options):
    path = folder / "fp16.onnx"
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
    assert outcome.notes == []


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
    assert outcome.notes == ["2 weights were beyond ±65504 and were clipped"]
    assert not recwarn.list
    assert np.isfinite(tools.run_onnx(path, np.full((2, 1, 8, 8), 1e-3, np.float32))).all()


def test_a_target_without_fp16(exported, context, tools, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the target runs no fp16; see 'precisions'"):
        cast(tools, exported("lenet"), context(precisions=("fp32", "int8")), tmp_path)


def test_what_cannot_be_cast_is_one_line(context, tools, tmp_path: Path) -> None:
    path = linear(tmp_path, np.ones((64, 10)))
    model = onnx.load(path)
    model.graph.node[1].op_type = "Vonc"
    onnx.save(model, path)
    with pytest.raises(BuildError, match="the model cannot be cast to fp16: ") as caught:
        cast(tools, path, context(), tmp_path)
    assert "\n" not in str(caught.value)
