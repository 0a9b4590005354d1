"""Take from each layer's bias the mean error that quantization makes in its output.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, the empirical form (appendix D): layer by layer in topological order, measured again
after each, so that a layer is corrected with its predecessors already right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.onnx_graph import counted
from edgebench.quantization.prepare import Prepared
from edgebench.quantization.running import Feed, open_session, with_outputs
from edgebench.quantization.static_int8 import Int8, quantized_layers

Floats = NDArray[np.float64]
# A product without a bias input is no place for a correction.
WITH_BIAS = ("Conv", "ConvTranspose", "Gemm")
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Correction:
    """What bias correction did.

    `before`, `after`: the channels' mean error, as a share of the spread of a layer's output, root
    mean square over channels, averaged over layers. `left`: quantized layers without a bias that
    could be corrected.
    """

    layers: int
    before: float
    after: float
    left: tuple[str, ...]

    def sentence(self) -> str:
        """The correction in words."""
        text = (
            f"bias correction of {counted(self.layers, 'layer')} took the mean error of a channel "
            f"from {self.before:.3%} to {self.after:.3%} of its layer's spread"
        )
        return f"{text}; not corrected: {', '.join(self.left)}" if self.left else text


@dataclass(frozen=True)
class _Channels:
    """The means [channels] of a layer's output, and its standard deviation over everything."""

    means: Floats
    spread: float


def correct_biases(prepared: Prepared, quantized: Path, feed: Feed, int8: Int8) -> Correction:
    """Correct the biases of the QDQ file `quantized` in place, by the outputs of the float file.

    int32 biases are moved by whole steps of their own scale, float biases exactly; a convolution
    or Gemm without a bias gets one.

    Raises
    ------
    BuildError
        No quantized layer can have a bias.
    """
    file = _File(onnx.load(quantized), int8)
    integer = {node.name for node in quantized_layers(file.model)}
    ours = [layer.node for layer in prepared.layers if layer.node in integer]
    float_model = onnx.load(prepared.path)
    outputs = {n.name: n.output[0] for n in float_model.graph.node if n.op_type in WITH_BIAS}
    wanted = _measured(float_model, {n: outputs[n] for n in ours if n in outputs}, feed)
    correctable = [name for name in wanted if file.can_correct(name, len(wanted[name].means))]
    if not correctable:
        raise BuildError("no quantized layer has a bias to correct", hint="bias_correction: false")

    def errors(names: Sequence[str]) -> dict[str, Floats]:
        mine = {name: file.nodes[name].output[0] for name in names}
        found = _measured(file.model, mine, feed)
        return {name: found[name].means - wanted[name].means for name in names}

    before = _size(errors(correctable), wanted)
    for name in correctable:
        file.subtract(name, errors([name])[name])
    after = _size(errors(correctable), wanted)
    onnx.save(file.model, quantized)
    left = tuple(prepared.called(name) for name in ours if name not in correctable)
    return Correction(len(correctable), before, after, left)


def _measured(
    model: onnx.ModelProto, outputs: Mapping[str, str], feed: Feed
) -> dict[str, _Channels]:
    """The statistics of these tensors, by layer, over all examples; channels lie along axis 1."""
    if not outputs:
        return {}
    names = [*outputs.values()]
    session = open_session(with_outputs(model, names).SerializeToString())
    sums: list[Floats] = []
    squares = np.zeros(len(names))
    counts = np.zeros(len(names))
    for batch in feed:
        for index, values in enumerate(session.run(names, batch)):
            rows = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
            if len(sums) <= index:
                sums.append(np.zeros(len(rows)))
            sums[index] += rows.sum(axis=1)
            squares[index] += (rows**2).sum()
            counts[index] += rows.shape[1]
    found = {}
    for index, layer in enumerate(outputs):
        means = sums[index] / counts[index]
        whole = counts[index] * len(means)
        variance = squares[index] / whole - (sums[index].sum() / whole) ** 2
        found[layer] = _Channels(means, float(np.sqrt(max(variance, 0.0))))
    return found


def _size(errors: Mapping[str, Floats], wanted: Mapping[str, _Channels]) -> float:
    shares = [
        float(np.sqrt((error**2).mean())) / wanted[name].spread
        for name, error in errors.items()
        if wanted[name].spread > 0
    ]
    return float(np.mean(shares)) if shares else 0.0


class _File:
    """A QDQ file, and how the biases in it are stored."""

    def __init__(self, model: onnx.ModelProto, int8: Int8) -> None:
        self.model = model
        self.int8 = int8
        self.nodes = {node.name: node for node in model.graph.node}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}

    def can_correct(self, name: str, channels: int) -> bool:
        """Whether a layer has, or can get, a bias of one value a channel."""
        node = self.nodes[name]
        if not self.int8.symmetric and _attribute(node, "alpha") != 1.0:
            # ONNX Runtime's integer Gemm scales its bias by alpha, the float one does not.
            return False
        if len(node.input) < 3 or not node.input[2]:
            return True
        bias = self.constants.get(self.stored_bias(node))
        return bias is not None and int(np.prod(bias.dims)) == channels

    def subtract(self, name: str, error: Floats) -> None:
        """Take `error` [channels] from the bias of a layer."""
        node = self.nodes[name]
        if len(node.input) < 3 or not node.input[2]:
            self.add_bias(node, -error)
            return
        stored_name = self.stored_bias(node)
        stored = numpy_helper.to_array(self.constants[stored_name])
        if stored_name != node.input[2]:
            scale = self.value(self.producers[node.input[2]].input[1]).astype(np.float64)
            steps = np.round(error.reshape(stored.shape) / scale)
            moved = np.clip(stored - steps, INT32.min, INT32.max).astype(np.int32)
            self.constants[stored_name].CopyFrom(numpy_helper.from_array(moved, stored_name))
            return
        share = error / (_attribute(node, "beta") or 1.0)
        corrected = (stored - share.reshape(stored.shape)).astype(stored.dtype)
        # A tensor of its own: the float bias may serve other layers too.
        own = f"{node.name}_corrected_bias"
        self.add_constants({own: corrected})
        node.input[2] = own

    def add_bias(self, node: onnx.NodeProto, bias: Floats) -> None:
        """Give a layer a bias: float, or int32 in steps of its input's scale times its weight's."""
        name = f"{node.name}_corrected_bias"
        del node.input[2:]
        node.input.append(name)
        if self.int8.symmetric:
            share = bias / (_attribute(node, "beta") or 1.0)
            self.add_constants({name: share.astype(np.float32)})
            return
        entry, weight = (self.producers[value] for value in node.input[:2])
        scale = (self.value(entry.input[1]) * self.value(weight.input[1])).astype(np.float32)
        steps = np.round(bias / scale.astype(np.float64))
        tensors = {
            f"{name}_quantized": np.clip(steps, INT32.min, INT32.max).astype(np.int32),
            f"{name}_scale": scale,
            f"{name}_zero_point": np.zeros(scale.shape, dtype=np.int32),
        }
        self.add_constants(tensors)
        dequantize = onnx.helper.make_node(
            "DequantizeLinear",
            [*tensors],
            [name],
            f"{name}_DequantizeLinear",
            axis=0 if scale.size > 1 else None,
        )
        position = next(i for i, n in enumerate(self.model.graph.node) if n.name == node.name)
        self.model.graph.node.insert(position, dequantize)
        self.producers[name] = dequantize

    def add_constants(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Store tensors in the file."""
        for name, values in tensors.items():
            self.model.graph.initializer.append(numpy_helper.from_array(values, name))
            self.constants[name] = self.model.graph.initializer[-1]

    def stored_bias(self, node: onnx.NodeProto) -> str:
        """The name of a layer's bias: the int32 tensor behind its DequantizeLinear, or floats."""
        name = str(node.input[2])
        producer = self.producers.get(name)
        integer = producer is not None and producer.op_type == "DequantizeLinear"
        return str(producer.input[0]) if producer is not None and integer else name

    def value(self, name: str) -> NDArray[Any]:
        """The values of a stored tensor."""
        values: NDArray[Any] = numpy_helper.to_array(self.constants[name])
        return values


def _attribute(node: onnx.NodeProto, name: str) -> float:
    """Gemm's alpha or beta; 1 by default."""
    return next((float(a.f) for a in node.attribute if a.name == name), 1.0)
