"""A small int8 network whose eight-bit weights saturate where a kernel adds in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def feed() -> np.ndarray:
    """Bright inputs [16, 64]: close to the largest number of eight bits."""
    return (0.6 + 0.4 * np.random.default_rng(0).random((16, 64))).astype(np.float32)


def write(path: Path, *, reduce_range: bool, weight_only: bool = False) -> Path:
    """A dense layer [64 → 10] with neighbours of one sign, so that products add up.

    `reduce_range` gives the weights seven bits. `weight_only` leaves the activations in floats.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    signs = rng.choice([-1.0, 1.0], (10, 32)).repeat(2, axis=1)
    weights = signs * rng.uniform(0.8, 1.0, (10, 64))
    steps = 63 if reduce_range else 127
    scale = (np.abs(weights).max(axis=1) / steps).astype(np.float32)
    whole = np.round(weights / scale[:, None]).astype(np.int8)
    tensors = {
        "w": whole,
        "w_scale": scale,
        "w_zero": np.zeros(10, np.int8),
        "x_scale": np.float32(1 / 255),
        "x_zero": np.uint8(0),
        "y_scale": np.float32(0.5),
        "y_zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_d"], axis=0),
        helper.make_node("Gemm", ["x" if weight_only else "x_d", "w_d"], ["z"], transB=1),
        helper.make_node("QuantizeLinear", ["z", "y_scale", "y_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"]),
    ]
    if weight_only:
        nodes = [*nodes[2:4], helper.make_node("Identity", ["z"], ["y"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "int8",
        [value("x", TensorProto.FLOAT, ["N", 64])],
        [value("y", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path
