"""Write a float ONNX file as static int8 in a target's format, and count what really is int8."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import quantization

from edgebench.errors import BuildError
from edgebench.quantization.calibration import (
    Calibration,
    Limits,
    activation_ranges,
    clip_weights,
    save_ranges,
    weight_limits,
)
from edgebench.quantization.exported_graph import keep_in_float
from edgebench.quantization.onnx_graph import counted
from edgebench.quantization.optimised_session import open_optimised
from edgebench.quantization.prepare import LAYERS, Prepared
from edgebench.quantization.running import Feed

# What stands between a stored weight and its layer.
UNPACKING = ("Cast", "DequantizeLinear", "Transpose")
# Each integer operator of ONNX Runtime, and which input of it is the weight.
KERNELS = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "MatMulIntegerToFloat": 1}


@dataclass(frozen=True)
class Int8:
    """A quantization format: QDQ operators with int8 weights, symmetric about zero.

    `unsigned`: activations are uint8, else int8. `symmetric`: so are activations, and biases stay
    float, since TensorRT's parser takes nothing else. `weight_limit`: the largest integer of a
    weight; 64 for x86 without VNNI, which adds pairs of products in 16 bits.
    """

    unsigned: bool
    symmetric: bool
    weight_limit: int


FORMATS = {
    "u8s8-reduced": Int8(True, False, 64),
    "u8s8": Int8(True, False, 127),
    "s8s8": Int8(False, False, 127),
    "s8s8-symmetric": Int8(False, True, 127),
}


@dataclass(frozen=True)
class StaticQuantizer:
    """Quantizes one prepared file, calibrated once, as often as asked.

    `ranges`: the calibration cache. `limits`: where the weights of the layers to quantize end.
    """

    prepared: Prepared
    ranges: Path
    format: Int8
    per_channel: bool
    limits: Limits

    def quantize(
        self, destination: Path, *, leave: Sequence[str] = (), only: Sequence[str] = ()
    ) -> None:
        """Write the quantized file; operators in `leave` stay float, or all but those in `only`."""
        extra: dict[str, Any] = {
            "ActivationSymmetric": self.format.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not self.format.symmetric,
        }
        activations = (
            quantization.QuantType.QUInt8 if self.format.unsigned else quantization.QuantType.QInt8
        )
        quantization.quantize_static(
            str(self._clipped(leave, only) if self.limits else self.prepared.path),
            str(destination),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=self.per_channel,
            reduce_range=self.format.weight_limit == 64,
            activation_type=activations,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(leave),
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=self.ranges,
            extra_options=extra,
        )
        model = onnx.load(destination)
        if self.format.symmetric:
            keep_in_float(model)
        else:
            _keep_float_layers_float(model)
        onnx.save(model, destination)

    def _clipped(self, leave: Sequence[str], only: Sequence[str]) -> Path:
        """The prepared file with the weights clipped that are quantized."""
        layers = {layer.node for layer in self.prepared.layers} - set(leave)
        model = onnx.load(self.prepared.path)
        clip_weights(model, self.limits, layers & set(only) if only else layers)
        path = self.ranges.with_name("clipped.onnx")
        onnx.save(model, path)
        return path


def calibrated(
    prepared: Prepared,
    feed: Feed,
    calibration: Calibration,
    int8: Int8,
    *,
    per_channel: bool,
    folder: Path,
) -> StaticQuantizer:
    """Calibrate a prepared file; what the quantizer needs is left in `folder`."""
    ranges = activation_ranges(prepared.path, feed, calibration, symmetric=int8.symmetric)
    cache = folder / "ranges.json"
    save_ranges(ranges, cache)
    limits: Limits = {}
    if calibration.method == "mse":
        limits = weight_limits(prepared, limit=int8.weight_limit, per_channel=per_channel)
    return StaticQuantizer(prepared, cache, int8, per_channel, limits)


def _keep_float_layers_float(model: onnx.ModelProto) -> None:
    """Stop ONNX Runtime from quantizing by itself what was left in float, in place.

    Between a DequantizeLinear and a QuantizeLinear its optimiser (WeightBiasQuantization) gives a
    float Conv or Gemm 8-bit weights of one scale a tensor, but only where its input has one scale.
    So such a layer reads its input through a DequantizeLinear with that same scale once a channel:
    the values are the same, bit for bit. That costs less than the sum of `keep_in_float`, but
    TensorRT refuses such scales.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for node in list(graph.node):
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm"} or node.input[1] not in constants:
            continue
        source = producers.get(node.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            continue
        channels = _input_channels(node, list(constants[node.input[1]].dims))
        name = f"{node.name}_float_input"
        scale, zero = (numpy_helper.to_array(constants[value]) for value in source.input[1:3])
        for suffix, value in (("scale", scale), ("zero_point", zero)):
            repeated = np.full(channels, value.item(), value.dtype)
            graph.initializer.append(numpy_helper.from_array(repeated, f"{name}_{suffix}"))
        own = onnx.helper.make_node(
            "DequantizeLinear",
            [source.input[0], f"{name}_scale", f"{name}_zero_point"],
            [name],
            f"{name}_DequantizeLinear",
            axis=1,
        )
        position = next(i for i, other in enumerate(graph.node) if other.name == node.name)
        graph.node.insert(position, own)
        node.input[0] = name
        if not any(source.output[0] in other.input for other in graph.node):
            graph.node.remove(next(n for n in graph.node if n.name == source.name))


def _input_channels(node: onnx.NodeProto, weight: list[int]) -> int:
    """How many channels a layer with a weight of this shape reads."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Gemm":
        return weight[1] if attributes.get("transB") else weight[0]
    return weight[0] if node.op_type == "ConvTranspose" else weight[1] * attributes.get("group", 1)


def quantized_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers of a QDQ file whose input and weight are both integers."""
    producers = {name: node for node in model.graph.node for name in node.output}
    return [
        node
        for node in integer_weight_layers(model)
        if node.input[0] in producers and producers[node.input[0]].op_type == "DequantizeLinear"
    ]


def integer_weight_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The layers of a QDQ file whose weight is stored as integers, whatever their input."""
    producers = {name: node for node in model.graph.node for name in node.output}

    def stored(name: str) -> bool:
        dequantized = False
        while name in producers and producers[name].op_type in UNPACKING:
            dequantized = dequantized or producers[name].op_type == "DequantizeLinear"
            name = producers[name].input[0]
        return dequantized and name not in producers

    return [node for node in model.graph.node if node.op_type in LAYERS and stored(node.input[1])]


def integer_kernels(path: Path, *, unsigned: bool) -> int:
    """How many layers of a QDQ file ONNX Runtime runs as integer kernels.

    On this host's processor; or on ARM for int8 activations (not `unsigned`), which x86 runs in
    part alone.
    """
    with tempfile.TemporaryDirectory(prefix="edgebench-kernels-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        # What ARM processors do by default.
        config = {} if unsigned else {"session.qdqisint8allowed": "1"}
        open_optimised(path, level="ORT_ENABLE_EXTENDED", config=config, optimised=optimised)
        graph = onnx.load(optimised).graph
    constants = {tensor.name for tensor in graph.initializer}
    return sum(
        node.op_type in KERNELS and node.input[KERNELS[node.op_type]] in constants
        for node in graph.node
    )


def describe_achieved(path: Path, prepared: Prepared, int8: Int8) -> str:
    """How many layers of the file are int8, as a sentence.

    Raises
    ------
    BuildError
        None is; or none of those runs as an integer kernel where it should.
    """
    count = len(quantized_layers(onnx.load(path)))
    if not count:
        raise BuildError(
            "ONNX Runtime found no operator to quantize in this model"
            if not prepared.layers
            else f"none of the model's {len(prepared.layers)} layers is quantized",
            hint=None if not prepared.layers else "leave fewer layers in float",
        )
    text = f"{count} of {len(prepared.layers)} convolutions and dense layers are quantized"
    if int8.symmetric:
        return f"{text}, in the form that TensorRT reads"
    kernels = integer_kernels(path, unsigned=int8.unsigned)
    where = _where(unsigned=int8.unsigned)
    if not kernels:
        raise BuildError(
            f"{text}, but none of them is an integer kernel {where}",
            hint="mode: weight-only makes the file as small",
        )
    if kernels == count:
        return f"{text}, each of them an integer kernel {where}"
    return f"{text}, {kernels} of them integer kernels {where}"


def describe_kernels(path: Path, *, unsigned: bool) -> str:
    """How many layers with integer weights run as integer kernels, as a sentence.

    Raises
    ------
    BuildError
        None does.
    """
    count = len(integer_weight_layers(onnx.load(path)))
    kernels = integer_kernels(path, unsigned=unsigned)
    where = _where(unsigned=unsigned)
    if not kernels:
        raise BuildError(
            f"none of the {counted(count, 'layer')} with integer weights is an integer kernel "
            f"{where}",
            hint="activations: float makes the file as small",
        )
    return f"{kernels} of {counted(count, 'layer')} run as integer kernels {where}"


def _where(*, unsigned: bool) -> str:
    return "in ONNX Runtime" if unsigned else "in ONNX Runtime on ARM"
