"""Small ONNX models of known speed, made node by node with weights from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Subject:
    """A model to be timed: `shape` of one example, how `about_us` long a call takes, its maker."""

    name: str
    about_us: float
    shape: tuple[int, ...]
    write: Callable[[Path], None]


def identity(path: Path) -> None:
    """One operator on 16 numbers: all that is left is the runtime's own call."""
    _save(path, [_node("Relu", ["x"], ["y"])], {}, (16,), (16,))


def dense(path: Path) -> None:
    """Three dense layers of 32."""
    nodes = []
    for i, (start, end) in enumerate((("x", "b0"), ("b0", "b1"), ("b1", "y"))):
        nodes += [_node("MatMul", [start, f"w{i}"], [f"a{i}"]), _node("Relu", [f"a{i}"], [end])]
    _save(path, nodes, {f"w{i}": (32, 32) for i in range(3)}, (32,), (32,))


def lenet(path: Path) -> None:
    """Two convolutions and two dense layers on [N, 1, 8, 8], like edgebench's LeNet."""
    shapes = {"c1": (16, 1, 3, 3), "c2": (64, 16, 3, 3), "d1": (1024, 64), "d2": (64, 10)}
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        _node("Conv", ["x", "c1"], ["a"], **pads),
        _node("Relu", ["a"], ["b"]),
        _node("Conv", ["b", "c2"], ["c"], **pads),
        _node("Relu", ["c"], ["d"]),
        _node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        _node("Flatten", ["e"], ["f"]),
        _node("MatMul", ["f", "d1"], ["g"]),
        _node("Relu", ["g"], ["h"]),
        _node("MatMul", ["h", "d2"], ["y"]),
    ]
    _save(path, nodes, shapes, (1, 8, 8), (10,))


def separable(channels: int, size: int, blocks: int) -> Callable[[Path], None]:
    """A MobileNet-like network: a stem, `blocks` depthwise and pointwise convolutions, a head.

    On [N, 3, `size`, `size`], `channels` wide, ten classes.
    """

    def write(path: Path) -> None:
        shapes: dict[str, tuple[int, ...]] = {"head": (channels, 10), "stem": (channels, 3, 1, 1)}
        nodes, last = [_node("Conv", ["x", "stem"], ["s"], kernel_shape=[1, 1])], "s"
        for i in range(blocks):
            shapes[f"d{i}"] = (channels, 1, 3, 3)
            shapes[f"p{i}"] = (channels, channels, 1, 1)
            depthwise = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "group": channels}
            nodes += [
                _node("Conv", [last, f"d{i}"], [f"a{i}"], **depthwise),
                _node("Relu", [f"a{i}"], [f"b{i}"]),
                _node("Conv", [f"b{i}", f"p{i}"], [f"c{i}"], kernel_shape=[1, 1]),
                _node("Relu", [f"c{i}"], [f"r{i}"]),
            ]
            last = f"r{i}"
        nodes += [
            _node("GlobalAveragePool", [last], ["pooled"]),
            _node("Flatten", ["pooled"], ["flat"]),
            _node("MatMul", ["flat", "head"], ["y"]),
        ]
        _save(path, nodes, shapes, (3, size, size), (10,))

    return write


# The times are those of one AVX-512 core; elsewhere they differ, and nothing depends on them.
SUBJECTS = {
    s.name: s
    for s in (
        Subject("identity", 3, (16,), identity),
        Subject("dense-5us", 5, (32,), dense),
        Subject("lenet", 16, (1, 8, 8), lenet),
        Subject("separable-200us", 200, (3, 24, 24), separable(32, 24, 12)),
        Subject("separable-1ms", 1200, (3, 32, 32), separable(64, 32, 16)),
        Subject("separable-10ms", 10_000, (3, 40, 40), separable(128, 40, 21)),
        Subject("separable-50ms", 50_000, (3, 56, 56), separable(128, 56, 49)),
    )
}


def examples(subject: Subject, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """`count` normal random examples, float32 [count, ...]."""
    rng = np.random.default_rng([seed, count])
    return rng.normal(size=(count, *subject.shape)).astype("float32")


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, **attributes)


def _save(
    path: Path,
    nodes: list[Any],
    weights: dict[str, tuple[int, ...]],
    shape: tuple[int, ...],
    answer: tuple[int, ...],
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    scaled = {
        name: rng.normal(scale=1 / np.sqrt(np.prod(size[1:]) or 1), size=size)
        for name, size in weights.items()
    }
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *answer])],
        [numpy_helper.from_array(w.astype("float32"), n) for n, w in scaled.items()],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), str(path))
