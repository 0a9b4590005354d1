"""Weights at four bits in an ONNX file, two a byte, that integer kernels still read."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.quantization.onnx_graph import (
    Use,
    forget_inputs,
    prepend,
    raise_opset,
    unused,
    uses_of,
)

# The first operator set whose DequantizeLinear reads INT4 and blocks, and its IR version.
INT4_OPSET = 21
INT4_IR = 10
INT4_LOW, INT4_HIGH = -8, 7


def int4_tensor(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    """An INT4 tensor of integers in [−8, 7], two a byte, the first in the lower half.

    Source: the ONNX specification, "4 bit types".
    """
    halves = values.astype(np.int8).reshape(-1).view(np.uint8) & 0xF
    if len(halves) % 2:
        halves = np.append(halves, np.uint8(0))
    # As raw data: the field `int32_data` takes two bytes for every pair from 128 up.
    packed = (halves[0::2] | (halves[1::2] << 4)).tobytes()
    return helper.make_tensor(name, TensorProto.INT4, values.shape, packed, raw=True)


def pack_int4(model: onnx.ModelProto) -> int:
    """Store int8 weights that use four bits in four bits, in place; returns how many tensors.

    A weight is an int8 initializer that only DequantizeLinear reads, with all values in [−8, 7]. It
    becomes an INT4 initializer behind a Cast to int8. Runtimes fold the Cast when they load the
    file, and so see the int8 weight their integer kernels ask for; DequantizeLinear right on INT4
    would keep ONNX Runtime and OpenVINO from them, and convolutions would run in float32.

    Raises
    ------
    BuildError
        The operator set of the model is below 21 and cannot be raised.
    """
    uses = uses_of(model.graph)
    packed: dict[str, onnx.TensorProto] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.INT8 or not tensor.dims:
            continue
        if not all(_is_weight_of(use) for use in uses[tensor.name]) or not uses[tensor.name]:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size > 1 and values.min() >= INT4_LOW and values.max() <= INT4_HIGH:
            packed[tensor.name] = int4_tensor(unused(f"{tensor.name}_int4", model), values)
    if not packed:
        return 0
    raise_opset(model, INT4_OPSET)
    for tensor in model.graph.initializer:
        if tensor.name in packed:
            tensor.CopyFrom(packed[tensor.name])
    forget_inputs(model.graph, packed)
    casts = [
        helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=TensorProto.INT8)
        for name, tensor in packed.items()
    ]
    prepend(model.graph, casts)
    model.ir_version = max(model.ir_version, INT4_IR)
    onnx.checker.check_model(model)
    return len(packed)


def _is_weight_of(use: Use) -> bool:
    node, place = use
    return node is not None and node.op_type == "DequantizeLinear" and place == 0
