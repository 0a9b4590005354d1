"""Make a float ONNX file ready for quantization: normalisation folded, every operator named."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgebench.errors import BuildError, nearest, one_line
from edgebench.quantization.on_host import Examples
from edgebench.quantization.onnx_graph import forget_inputs, raise_opset

# The operators that hold weights, and which axis of the weight is the output channel's.
LAYERS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
INTEGER = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger")
# The first operator set whose DequantizeLinear takes one scale a channel.
OLDEST_OPSET = 13
# The first IR version in which a weight need not be an input.
CONSTANT_WEIGHTS_IR = 4
# What ONNX Runtime appends to the name of a product that it joins with its bias.
FUSED = "/MatMulAddFusion"


@dataclass(frozen=True)
class Layer:
    """A convolution or dense layer: its operator's name in the file, and its name for people.

    `name` is the module's name where the file kept it (the weight is NAME.weight), else `node`.
    """

    name: str
    node: str
    operator: str
    weight: str


@dataclass(frozen=True)
class Prepared:
    """A float file whose operators all have names, and its layers in topological order."""

    path: Path
    layers: tuple[Layer, ...]

    def nodes(self, names: Sequence[str]) -> list[str]:
        """The operators of these layers; a name may be a layer's or an operator's.

        Raises
        ------
        BuildError
            There is no such layer; it names the nearest one.
        """
        graph = onnx.load(self.path, load_external_data=False).graph
        operators = [node.name for node in graph.node]
        found: list[str] = []
        for name in names:
            mine = [layer.node for layer in self.layers if name == layer.name]
            mine = mine or [operator for operator in operators if operator == name]
            if not mine:
                known = [*dict.fromkeys(layer.name for layer in self.layers)]
                near = nearest(name, [*known, *operators])
                hint = f"did you mean '{near}'?" if near else f"its layers: {', '.join(known)}"
                raise BuildError(f"the model has no layer '{name}' to leave in float", hint=hint)
            found += mine
        return list(dict.fromkeys(found))

    def called(self, node: str) -> str:
        """The name for people of an operator."""
        return next((layer.name for layer in self.layers if layer.node == node), node)

    def describe(self, quantized: Path) -> str:
        """How many layers have integer weights in the file made of this one, and which do not."""
        graph = onnx.load(quantized, load_external_data=False).graph
        left = [self.called(layer.node.removesuffix(FUSED)) for layer in _layers(graph, {})]
        count = len(self.layers)
        text = f"{count - len(left)} of {count} convolutions and dense layers have integer weights"
        return f"{text}; left in float: {one_line(', '.join(left), 200)}" if left else text


def named_copy(source: Path, destination: Path) -> Prepared:
    """Write `source` to `destination` with a name for every operator, and nothing else changed.

    Raises
    ------
    BuildError
        The file is quantized already.
    """
    model = onnx.load(source)
    quantized = next((n.op_type for n in model.graph.node if n.op_type in INTEGER), None)
    if quantized is not None:
        raise BuildError(
            f"the model is quantized already (it has {quantized} operators)",
            hint="give the float model",
        )
    _name_all(model.graph)
    onnx.save(model, destination)
    return Prepared(destination, _layers(model.graph, {}))


def prepare(source: Path, destination: Path, examples: Examples = None) -> Prepared:
    """Write `source` to `destination` with normalisation folded and shapes inferred.

    `examples`: real inputs, to check on that raising old operators changes no answer.

    Raises
    ------
    BuildError
        The file is quantized already, or its operators are too old to quantize and cannot be
        raised.
    """
    with tempfile.TemporaryDirectory(prefix="edgebench-prepare-") as folder:
        named = named_copy(source, Path(folder) / "named.onnx")
        model = onnx.load(named.path)
        raise_opset(model, OLDEST_OPSET, examples)
        # Files of old IR versions list weights as inputs, and what is an input is not folded.
        forget_inputs(model.graph, {tensor.name for tensor in model.graph.initializer})
        model.ir_version = max(model.ir_version, CONSTANT_WEIGHTS_IR)
        onnx.save(model, named.path)
        quant_pre_process(str(named.path), str(destination), skip_symbolic_shape=True)
    model = onnx.load(destination)
    for node in model.graph.node:
        node.name = node.name.removesuffix(FUSED)
    # Fusions may leave operators without a name; the quantizer leaves out by name.
    _name_all(model.graph)
    _drop_unused_domains(model)
    onnx.save(model, destination)
    return Prepared(
        destination, _layers(model.graph, {layer.node: layer.name for layer in named.layers})
    )


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that its output channels lie along."""
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return 0
    return LAYERS[node.op_type]


def _layers(graph: onnx.GraphProto, known: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers of a graph; `known`: names from before folding, which renames weights."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for n in graph.node if n.op_type == "Constant" for name in n.output}
    found = []
    for node in graph.node:
        if node.op_type in LAYERS and node.input[1] in constants:
            weight = str(node.input[1])
            name = weight.removesuffix(".weight") if weight.endswith(".weight") else node.name
            found.append(Layer(known.get(node.name, name), node.name, node.op_type, weight))
    return tuple(found)


def _name_all(graph: onnx.GraphProto) -> None:
    """Give every operator a name of its own."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """ONNX Runtime's optimiser declares every domain it knows; other parsers refuse some."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
