"""Give an exported ONNX graph the form in which runtimes use integer kernels and small weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.quantization.learned_steps import SMALLEST_SCALE

# Smaller tensors would not pay for the operator that casts them.
SMALLEST_HALF_TENSOR = 64

# Operators whose answer holds values of their input, and which have kernels for integers.
MOVES = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def pool_globally(model: onnx.ModelProto) -> int:
    """Write the mean over height and width between quantizers as GlobalAveragePool, in place.

    Torch writes ReduceMean, for which ONNX Runtime has no integer kernel. Returns how many.
    """
    constants = _constants(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "ReduceMean" or len(node.input) != 2:
            continue
        before = made_by.get(node.input[0])
        after = [user for user in model.graph.node if node.output[0] in user.input]
        axes = constants.get(node.input[1])
        if (
            before is None
            or before.op_type != "DequantizeLinear"
            or [user.op_type for user in after] != ["QuantizeLinear"]
            or axes is None
            or sorted(int(a) for a in axes) not in ([-2, -1], [2, 3])
            or _rank(model, node.input[0]) != 4
        ):
            continue
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        node.op_type = "GlobalAveragePool"
        del node.input[1:]
        del node.attribute[:]
        count += 1
        if not keeps:
            name = node.output[0]
            node.output[0] = f"{name}_pooled"
            pair = _quantizer(node.output[0], after[0].input[1:], f"{name}_on_grid")
            nodes += [*pair, helper.make_node("Flatten", [pair[1].output[0]], [name], axis=1)]
    _replace_nodes(model, nodes)
    return count


def quantize_after_moves(model: onnx.ModelProto) -> int:
    """Repeat the quantizer of a value behind each operator that only moves it; returns how many.

    The integers stay as they are. It shows every runtime that these operators can work on them;
    where ONNX Runtime 1.31 finds out by itself, it fails on int8 from opset 21 on (x86).
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        nodes.append(node)
        before = made_by.get(node.input[0]) if node.op_type in MOVES else None
        if before is None or before.op_type != "DequantizeLinear":
            continue
        if made_by.get(before.input[0]) is None:
            continue  # a weight
        name = node.output[0]
        inner = f"{name}_moved"
        node.output[0] = inner
        pair = _quantizer(inner, before.input[1:], name)
        made_by |= {inner: node, pair[0].output[0]: pair[0], name: pair[1]}
        nodes += pair
        count += 1
    _replace_nodes(model, nodes)
    return count


def keep_in_float(model: onnx.ModelProto) -> int:
    """Part layers with float weights from the quantizer before them, in place; returns how many.

    Between quantizers, ONNX Runtime rounds the weights of such layers to int8 itself, one scale a
    layer. A sum of one value is that value, and stands in the way.
    """
    constants = _constants(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        before = made_by.get(node.input[0]) if node.op_type in LAYERS else None
        if (
            before is not None
            and before.op_type == "DequantizeLinear"
            and node.input[1] in constants
            and constants[node.input[1]].dtype == np.float32
        ):
            name = f"{node.output[0]}_input"
            nodes.append(helper.make_node("Sum", [node.input[0]], [name]))
            node.input[0] = name
            count += 1
        nodes.append(node)
    _replace_nodes(model, nodes)
    return count


def fold_weights_at_load(model: onnx.ModelProto) -> int:
    """Write integer weights of layers that compute in float as Cast and Mul; returns how many.

    Runtimes fold both when they load the file. DequantizeLinear they keep, for integer kernels: it
    would run at every inference, or become a kernel that rounds the activations as well.
    """
    constants = _constants(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            nodes.append(node)
            continue
        scale = constants[node.input[1]].astype(np.float32)
        if scale.ndim:
            # One a channel, and the channels are the first axis. A 4-bit weight has a Cast before.
            cast = made_by.get(node.input[0])
            weight = constants[cast.input[0] if cast is not None else node.input[0]]
            scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
        name = node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_factor"))
        nodes += [
            helper.make_node("Cast", [node.input[0]], [f"{name}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_float", f"{name}_factor"], [name]),
        ]
        count += 1
    _replace_nodes(model, nodes)
    _drop_unused(model)
    return count


def quantize_biases(model: onnx.ModelProto) -> int:
    """Store the biases of dense layers between integers as int32, in place; returns how many.

    The scale is that of the products, as the integer kernel needs it. ONNX Runtime does so itself
    where a quantizer follows, and not for the last layer.
    """
    constants = _constants(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in model.graph.node:
        if node.op_type == "Gemm" and len(node.input) == 3 and node.input[2] in constants:
            scales = [_scale(made_by, constants, name) for name in node.input[:2]]
            bias = constants[node.input[2]]
            if scales[0] is not None and scales[1] is not None and bias.dtype == np.float32:
                nodes.append(_integer_bias(model, node, bias, scales[0] * scales[1]))
                count += 1
        nodes.append(node)
    _replace_nodes(model, nodes)
    _drop_unused(model)
    return count


def store_in_half(model: onnx.ModelProto, name: str) -> int:
    """Store every float32 weight that loses nothing by it in half precision, in place.

    A Cast to float32 stands behind each; `name` is one of HALF_TYPES. Returns how many numbers.
    """
    kind = HALF_TYPES[name]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    casts = []
    count = 0
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(dtype)
        if values.size < SMALLEST_HALF_TENSOR or not np.array_equal(
            halves.astype(np.float32), values
        ):
            continue
        original = tensor.name
        stored = numpy_helper.from_array(halves, f"{original}_{name}")
        tensor.CopyFrom(stored)
        casts.append(helper.make_node("Cast", [tensor.name], [original], to=TensorProto.FLOAT))
        count += values.size
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    return count


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """The values that stand in the file, by name."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _rank(model: onnx.ModelProto, name: str) -> int | None:
    """How many dimensions a value has, as far as the file says."""
    for value in [*model.graph.value_info, *model.graph.input]:
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _quantizer(name: str, parameters: Sequence[str], result: str) -> list[onnx.NodeProto]:
    """Quantize a value and dequantize it again; `parameters`: scale and zero point."""
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{result}_stored"]),
        helper.make_node("DequantizeLinear", [f"{result}_stored", *parameters], [result]),
    ]


def _scale(
    made_by: dict[str, onnx.NodeProto], constants: dict[str, NDArray[np.generic]], name: str
) -> NDArray[np.float32] | None:
    """The scale of a value that comes from integers: a scalar, or one a channel; else None."""
    node = made_by.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[1] not in constants:
        return None
    return constants[node.input[1]].astype(np.float32).reshape(-1)


def _integer_bias(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    bias: NDArray[np.generic],
    scale: NDArray[np.float32],
) -> onnx.NodeProto:
    """Make the bias of `node` an int32 tensor; returns the operator that dequantizes it."""
    scale = np.maximum(np.broadcast_to(scale, bias.shape), SMALLEST_SCALE**2).astype(np.float32)
    limit = np.iinfo(np.int32).max
    integers = np.clip(np.rint(bias.astype(np.float64) / scale), -limit, limit).astype(np.int32)
    name = node.input[2]
    names = [f"{name}_int32", f"{name}_scale", f"{name}_zero"]
    for part, values in zip(names, (integers, scale, np.zeros(bias.shape, np.int32)), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(values, part))
    node.input[2] = f"{name}_dequantized"
    return helper.make_node("DequantizeLinear", names, [node.input[2]], axis=0)


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    # Copies: the nodes belong to the list that is emptied.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in model.graph.output}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
