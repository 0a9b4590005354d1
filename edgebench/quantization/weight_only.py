"""Weight-only quantization of ONNX files: integer weights, float32 activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.int4 import (
    INT4_HIGH,
    INT4_IR,
    INT4_LOW,
    INT4_OPSET,
    int4_tensor,
)
from edgebench.quantization.on_host import Examples, operators_run
from edgebench.quantization.onnx_graph import (
    check_node_names,
    constants_to_initializers,
    counted,
    drop_initializers,
    prepend,
    raise_opset,
    unused,
    uses_of,
)

# The first operator set whose DequantizeLinear takes one scale a channel.
INT8_OPSET = 13
LOWEST = {8: -128, 4: INT4_LOW}
HIGHEST = {8: 127, 4: INT4_HIGH}
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class _Weight:
    """A weight, the axis of its output channels, and that of the inputs each of them sums."""

    tensor: onnx.TensorProto
    channel_axis: int
    input_axis: int


def quantize_weights(
    source: Path,
    destination: Path,
    *,
    bits: Literal[8, 4],
    per_channel: bool,
    group_size: int | None,
    kernel: Literal["dequantize", "matmul-nbits"],
    exclude: Sequence[str],
    opset: int,
    examples: Examples = None,
) -> list[str]:
    """Store the weights of convolutions and dense layers as integers; returns notes for the report.

    `kernel`: "dequantize" writes int8 or INT4 tensors behind DequantizeLinear, which every runtime
    of the operator set reads; "matmul-nbits" writes ONNX Runtime's own MatMulNBits for dense layers
    and leaves convolutions alone. The integers are symmetric, scale = max|w| / 127 or max|w| / 7,
    rounded to nearest even, with one scale a tensor, an output channel (`per_channel`), or a group:
    `group_size` input channels of one output channel and, in a convolution, of one kernel position.
    A layer of fewer input channels than that has one scale an output channel. MatMulNBits always
    has groups, of 32 where none is asked for, and scales the value furthest from zero to −8 or
    −128. `exclude` names nodes that stay float32; `opset` is what the target's runtime reads;
    `examples` are real inputs to run the result on.

    Raises
    ------
    BuildError
        The target reads no such file, the options contradict one another, a node named is not
        there, or nothing was quantized or became smaller.
    """
    if not per_channel and (group_size is not None or kernel == "matmul-nbits"):
        what = "groups lie" if group_size is not None else "the groups of matmul-nbits lie"
        raise BuildError(f"{what} within output channels", hint="leave 'per_channel' on")
    model = onnx.load(source)
    check_node_names(model, exclude)
    if kernel == "matmul-nbits":
        from edgebench.quantization.matmul_nbits import quantize_dense_layers

        return quantize_dense_layers(
            model, destination, bits=bits, group=group_size, skip=exclude, examples=examples
        )
    needed = INT4_OPSET if bits == 4 or group_size is not None else INT8_OPSET
    if opset < needed:
        what = "4-bit weights need" if bits == 4 else "scales of groups need"
        raise BuildError(
            f"{what} opset {needed}, and the target's runtime reads {opset}",
            hint=f"set 'opset: {needed}' in the target if its runtime reads that, or use "
            "'kernel: matmul-nbits' (dense layers, ONNX Runtime only)",
        )
    raise_opset(model, needed, examples)
    constants_to_initializers(model.graph)
    weights, shared, grouped = _weights(model, exclude)
    before = after = short = 0
    nodes, added = [], []
    for weight in weights:
        values = numpy_helper.to_array(weight.tensor)
        if not np.isfinite(values).all():
            raise BuildError(f"the weight '{weight.tensor.name}' is not finite (NaN or infinity)")
        group = group_size
        if group is not None and values.shape[weight.input_axis] < group:
            group, short = None, short + 1
        node, tensors = _behind_dequantize(
            model, weight, values, bits=bits, per_channel=per_channel, group=group
        )
        before += values.nbytes
        after += sum(len(tensor.raw_data) for tensor in tensors)
        nodes.append(node)
        added += tensors
    if not nodes:
        raise BuildError("the model has no convolution or dense layer with weights to quantize")
    check_smaller(before, after)
    drop_initializers(model.graph, {node.output[0] for node in nodes})
    model.graph.initializer.extend(added)
    prepend(model.graph, nodes)
    if bits == 4:
        model.ir_version = max(model.ir_version, INT4_IR)
    onnx.checker.check_model(model)
    onnx.save(model, destination)
    scales = f"a group of {group_size} inputs" if group_size is not None else "an output channel"
    notes = [
        f"{counted(len(nodes), 'weight')} at {bits} bits, one scale "
        f"{scales if per_channel else 'a tensor'}: {bytes_note(before, after)}"
    ]
    if short:
        notes.append(
            f"of fewer than {group_size} inputs, and so with one scale an output channel: {short} "
            "of them"
        )
    for names, why in (
        (shared, "other operators read them too"),
        (grouped, "no axis of theirs is the output channel (transposed convolutions in groups)"),
    ):
        if names:
            notes.append(f"left in float32, since {why}: {', '.join(names)}")
    return [*notes, *_run_as(destination, examples)]


def check_smaller(before: int, after: int) -> None:
    """Raise BuildError where quantized weights take no fewer bytes than the float ones."""
    if after >= before:
        raise BuildError(
            f"the quantized weights and their scales take {after} bytes, the float32 ones {before}",
            hint="use larger groups, or one scale an output channel",
        )


def bytes_note(before: int, after: int) -> str:
    """What quantization did to the bytes of the weights, for a note."""
    return f"{after} bytes with their scales, {before} in float32"


def axes_of(node: onnx.NodeProto, rank: int) -> tuple[int, int]:
    """The axes of a layer's weight: of its output channels, and of the inputs they sum."""
    if node.op_type == "Conv":
        return 0, 1
    if node.op_type == "ConvTranspose":
        return 1, 0
    if node.op_type == "Gemm":
        return (0, 1) if any(a.name == "transB" and a.i for a in node.attribute) else (1, 0)
    return rank - 1, rank - 2


def _weights(
    model: onnx.ModelProto, exclude: Sequence[str]
) -> tuple[list[_Weight], list[str], list[str]]:
    """The weights to quantize, and the names of those that cannot be.

    Because other operators read them too; or because a transposed convolution works in groups.
    """
    uses, tensors = uses_of(model.graph), {t.name: t for t in model.graph.initializer}
    found: list[_Weight] = []
    shared: list[str] = []
    grouped: list[str] = []
    for node in model.graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        tensor = tensors.get(name)
        if node.op_type not in LAYERS or node.name in exclude or tensor is None:
            continue
        rank = len(tensor.dims)
        if tensor.data_type != TensorProto.FLOAT or rank < 2 or 0 in tensor.dims:
            continue
        if node.op_type == "ConvTranspose" and any(
            a.name == "group" and a.i > 1 for a in node.attribute
        ):
            grouped.append(name)
            continue
        axes = axes_of(node, rank)
        # All its readers must be such layers, with the channels on the same axis.
        alike = all(
            other is not None
            and place == 1
            and other.op_type in LAYERS
            and other.name not in exclude
            and axes_of(other, rank) == axes
            for other, place in uses[name]
        )
        if not alike:
            shared += [name] if name not in shared else []
        elif all(weight.tensor.name != name for weight in found):
            found.append(_Weight(tensor, *axes))
    return found, shared, grouped


def _behind_dequantize(
    model: onnx.ModelProto,
    weight: _Weight,
    values: NDArray[np.float32],
    *,
    bits: int,
    per_channel: bool,
    group: int | None,
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """A DequantizeLinear that gives the weight under its old name, and the tensors it reads."""
    settings: dict[str, Any] = {}
    magnitude = np.abs(values)
    if group is not None:
        axis = weight.input_axis
        starts = np.arange(0, values.shape[axis], group)
        largest = np.maximum.reduceat(magnitude, starts, axis=axis)
        settings = {"axis": axis, "block_size": group}
    elif per_channel:
        axis = weight.channel_axis
        others = tuple(i for i in range(values.ndim) if i != axis)
        largest = magnitude.max(axis=others, keepdims=True)
        settings = {"axis": axis}
    else:
        largest = magnitude.max(keepdims=True)
    scale = (largest / np.float32(HIGHEST[bits])).astype(np.float32)
    # Weights that are all zero have any scale.
    scale[scale == 0] = 1
    spread = scale
    if group is not None:
        spread = np.repeat(scale, group, axis=axis).take(range(values.shape[axis]), axis=axis)
    integers = np.rint(values / spread).clip(LOWEST[bits], HIGHEST[bits]).astype(np.int8)
    if group is None:
        scale = scale.reshape(-1 if per_channel else ())
    name = weight.tensor.name
    stored = unused(f"{name}_int{bits}", model)
    tensor = (
        int4_tensor(stored, integers) if bits == 4 else numpy_helper.from_array(integers, stored)
    )
    scales = numpy_helper.from_array(scale, unused(f"{name}_scale", model))
    node = helper.make_node(
        "DequantizeLinear",
        [stored, scales.name],
        [name],
        name=f"{name}_dequantize",
        **settings,
    )
    return node, [tensor, scales]


def _run_as(path: Path, examples: Examples) -> list[str]:
    """What ONNX Runtime makes of the weights on this host's processor, for the notes."""
    counts: Counter[Any] = Counter(operator.name for operator in operators_run(path, examples))
    notes = []
    if counts["DequantizeLinear"]:
        notes.append(
            f"ONNX Runtime converts {counts['DequantizeLinear']} of the weights to float32 at each "
            "inference on this host's processor"
        )
    if counts["MatMulNBits"]:
        notes.append(
            f"ONNX Runtime runs {counts['MatMulNBits']} of the layers as MatMulNBits on this "
            "host's processor, which by default rounds the activations to int8 as well"
        )
    return notes
