"""Made-up inputs fit any model, and what ran is read from ONNX Runtime's own profile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.on_host import answers, operators_run

value = helper.make_tensor_value_info
node = helper.make_node


def two_inputs() -> onnx.ModelProto:
    """Rows of a table by int64 numbers, and an image of a free size; two outputs."""
    graph = helper.make_graph(
        [
            node("Gather", ["table", "rows"], ["a"]),
            node("GlobalAveragePool", ["image"], ["b"]),
        ],
        "g",
        [
            value("rows", TensorProto.INT64, ["N"]),
            value("image", TensorProto.FLOAT, ["N", 3, "H", "W"]),
        ],
        [
            value("a", TensorProto.FLOAT, ["N", 4]),
            value("b", TensorProto.FLOAT, ["N", 3, 1, 1]),
        ],
        [numpy_helper.from_array(np.float32([[1, 2, 3, 4]]), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_inputs_of_any_number_type_and_size() -> None:
    first, second = (answers(two_inputs().SerializeToString()) for _ in range(2))
    assert [a.shape for a in first] == [(2, 4), (2, 3, 1, 1)]
    # A row of any other number than zero is not there.
    assert first[0].tolist() == [[1, 2, 3, 4]] * 2
    assert first[1].std() > 0
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_ran(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(two_inputs(), path)
    assert Counter((o.name, o.dtype) for o in operators_run(path)) == {
        ("Gather", "float"): 1,
        ("GlobalAveragePool", "float"): 1,
    }
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("batch", "count"), [("N", 2), (1, 1), (5, 5)])
def test_real_examples_as_many_as_the_model_takes(
    tmp_path: Path, batch: str | int, count: int
) -> None:
    """Only a whole image has the table's 3 × 4 values for each row."""
    graph = helper.make_graph(
        [node("Flatten", ["image"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
        "g",
        [value("image", TensorProto.FLOAT, [batch, "C", "H"])],
        [value("y", TensorProto.FLOAT, [batch, 1])],
        [numpy_helper.from_array(np.ones((12, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    examples = [np.arange(36, dtype=np.float32).reshape(3, 3, 4)]
    (given,) = answers(model.SerializeToString(), examples)
    sums = [66.0, 210.0, 354.0]
    assert given.ravel().tolist() == [sums[i % 3] for i in range(count)]
    onnx.save(model, tmp_path / "m.onnx")
    assert [o.name for o in operators_run(tmp_path / "m.onnx", examples)][-1] == "MatMul"
    for none in (None, [], [examples[0][:0]]):
        with pytest.raises(BuildError, match="cannot run the file"):
            answers(model.SerializeToString(), none)


def test_a_file_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    model = two_inputs()
    model.graph.node[0].op_type = "Gahter"
    with pytest.raises(BuildError, match="ONNX Runtime cannot run the file: ") as caught:
        answers(model.SerializeToString())
    assert "\n" not in str(caught.value)
