"""Turn a float module into one that computes on the integer grid (torch.fx)."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from edgebench.errors import BuildError, one_line
from edgebench.quantization.fake_quant import (
    PLAIN,
    ActivationQuantizer,
    Grid,
    QuantizedConv2d,
    QuantizedLinear,
    Rounding,
)

RELU_FUNCTIONS = (F.relu, torch.relu)
RELU_METHODS = ("relu", "relu_")
Ends = tuple[float | None, float | None]
# Where these clip from below and from above, unless their arguments say so.
CLIPPING: dict[Any, Ends] = {
    F.relu6: (0.0, 6.0),
    F.hardtanh: (-1.0, 1.0),
    torch.clamp: (None, None),
    "clamp": (None, None),
}

# What only moves or picks values: its answer lies on the grid its input lies on.
MOVING = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.MaxPool2d)
MOVING_FUNCTIONS = (
    F.dropout,
    F.max_pool2d,
    torch.flatten,
    torch.max_pool2d,
    torch.permute,
    torch.reshape,
    torch.squeeze,
    torch.transpose,
    torch.unsqueeze,
)
MOVING_METHODS = (
    "contiguous",
    "flatten",
    "permute",
    "reshape",
    "squeeze",
    "transpose",
    "unsqueeze",
    "view",
)

# What the runtimes have integer kernels for, where every input lies on a grid as well.
INTEGER = (nn.AdaptiveAvgPool2d, nn.AvgPool2d)
INTEGER_FUNCTIONS = (torch.cat, F.adaptive_avg_pool2d, F.avg_pool2d)
# Of two tensors, that is: not of a tensor and a number or a parameter.
BINARY_FUNCTIONS = (
    operator.add,
    operator.iadd,
    operator.imul,
    operator.mul,
    torch.add,
    torch.mul,
)
BINARY_METHODS = ("add", "add_", "mul", "mul_")
# Over height and width, that is, where it is an average pooling.
MEAN_FUNCTIONS = (torch.mean,)
MEAN_METHODS = ("mean",)

# Products that stay float, for the notes.
FLOAT_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.Bilinear,
    nn.MultiheadAttention,
    nn.RNNBase,
)
FLOAT_FUNCTIONS = (
    F.bilinear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
    F.linear,
)
PRODUCTS = (
    F.scaled_dot_product_attention,
    operator.matmul,
    torch.baddbmm,
    torch.bmm,
    torch.einsum,
    torch.matmul,
)
PRODUCT_METHODS = ("bmm", "matmul")


def folded_graph(module: nn.Module) -> fx.GraphModule:
    """A copy of `module` as a graph, its batch normalisation folded into the convolutions before.

    Raises
    ------
    BuildError
        torch.fx cannot trace the module: which operation, in which line of its forward.
    """
    try:
        return cast("fx.GraphModule", fuse(deepcopy(module).eval()))
    except Exception as error:
        raise BuildError(
            f"qat cannot trace this module{_where_it_failed(error)}: {type(error).__name__}: "
            f"{one_line(str(error), 160)}",
            hint="torch.fx follows no control flow that depends on values; move it out of forward, "
            "mark a helper with torch.fx.wrap, or use ptq",
        ) from error


def _where_it_failed(error: Exception) -> str:
    """The line of the user's code in which tracing stopped."""
    inner = Path(torch.__file__).parent
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if inner not in Path(frame.filename).parents and frame.filename != __file__
    ]
    if not own:
        return ""
    last = own[-1]
    line = f" `{one_line(last.line, 80)}`" if last.line else ""
    return f" at{line} ({Path(last.filename).name}, line {last.lineno}, in {last.name})"


def quantized_graph(
    module: nn.Module, grid: Grid, rounding: Rounding = PLAIN, exclude: Sequence[str] = ()
) -> fx.GraphModule:
    """A copy of `module` with batch normalisation folded and fake quantization inserted.

    Quantizers stand where an integer kernel needs them: on the inputs of every quantized layer,
    behind every quantized convolution (after its ReLU), and around additions, products,
    concatenations and averages whose answer a quantized layer takes. What else there is computes in
    float, and so do the layers named in `exclude` and the last layer's answer.

    Raises
    ------
    BuildError
        torch.fx cannot trace the module, or there is nothing to quantize.
    """
    graph_module = folded_graph(module)
    modules = dict(graph_module.named_modules())
    count = 0
    for node in graph_module.graph.nodes:
        name = str(node.target)
        layer = modules.get(name) if node.op == "call_module" else None
        if layer is None or name in exclude:
            continue
        replacement: nn.Module | None = None
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            replacement = QuantizedConv2d(layer, grid, rounding)
        elif type(layer) is nn.Linear:
            replacement = QuantizedLinear(layer, grid, rounding)
        if replacement is not None:
            graph_module.add_submodule(name, replacement)
            count += 1
    if not count:
        raise BuildError(
            "the model has no 2-D convolution or dense layer to quantize"
            + (" that is not excluded" if exclude else "")
        )
    if rounding.activations:
        _Placement(graph_module).insert(grid, learned=rounding.learned)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


class _Placement:
    """Which values must lie on a grid, found from the layers that need them backwards."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.graph_module = graph_module
        self.modules = dict(graph_module.named_modules())
        self.wanted: set[fx.Node] = set()
        nodes = graph_module.graph.nodes
        answers = {n for node in nodes if node.op == "output" for n in node.all_input_nodes}
        for node in nodes:
            layer = self._layer(node)
            if isinstance(layer, (QuantizedConv2d, QuantizedLinear)):
                self._want(node.all_input_nodes[0])
                # An integer convolution answers in integers; a dense layer can answer in float.
                if isinstance(layer, QuantizedConv2d) and self._place(node) not in answers:
                    self.wanted.add(self._place(node))

    def insert(self, grid: Grid, *, learned: bool) -> None:
        """Put the quantizers into the graph."""
        graph = self.graph_module.graph
        places = [node for node in graph.nodes if node in self.wanted]
        for index, node in enumerate(places):
            name = f"quantizer_{index}"
            ceiling = self._ends(node)[1] if self._is_activation(node) else None
            quantizer = ActivationQuantizer(grid, learned=learned, ceiling=ceiling)
            self.graph_module.add_submodule(name, quantizer)
            with graph.inserting_after(node):
                call = graph.call_module(name, (node,))
            node.replace_all_uses_with(call)
            call.args = (node,)

    def _want(self, node: fx.Node) -> None:
        """Ask for `node`'s value on a grid, and for what an integer kernel for it needs."""
        while self._is(node, MOVING, MOVING_FUNCTIONS, MOVING_METHODS):
            node = node.all_input_nodes[0]
        if node in self.wanted:
            return
        self.wanted.add(node)
        if self._is_activation(node) and len(node.all_input_nodes[0].users) == 1:
            # The kernel before clips by itself.
            node = node.all_input_nodes[0]
        if self._has_integer_kernel(node):
            for other in node.all_input_nodes:
                self._want(other)

    def _has_integer_kernel(self, node: fx.Node) -> bool:
        if self._is(node, (), BINARY_FUNCTIONS, BINARY_METHODS):
            operands = node.args[:2]
            return len(operands) == 2 and all(
                isinstance(o, fx.Node) and o.op != "get_attr" for o in operands
            )
        if self._is(node, (), MEAN_FUNCTIONS, MEAN_METHODS):
            axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
            return isinstance(axes, (list, tuple)) and set(axes) in ({2, 3}, {-1, -2})
        return self._is(node, INTEGER, INTEGER_FUNCTIONS, ())

    def _place(self, node: fx.Node) -> fx.Node:
        """Behind the ReLU that alone takes the answer of `node`, if there is one."""
        users = list(node.users)
        return users[0] if len(users) == 1 and self._is_activation(users[0]) else node

    def _ends(self, node: fx.Node) -> Ends:
        """Where an operation clips from below and from above, as far as it says so."""
        if self._is(node, (nn.ReLU,), RELU_FUNCTIONS, RELU_METHODS):
            return 0.0, None
        layer = self._layer(node)
        if isinstance(layer, nn.Hardtanh):  # ReLU6 is one
            return float(layer.min_val), float(layer.max_val)
        if node.op not in {"call_method", "call_function"} or node.target not in CLIPPING:
            return None, None
        low, high = CLIPPING[node.target]
        given: list[Any] = [
            node.kwargs.get("min_val", node.kwargs.get("min", low)),
            node.kwargs.get("max_val", node.kwargs.get("max", high)),
        ]
        given[: len(node.args) - 1] = node.args[1:3]
        # With one end alone torch writes Max or Min, which no kernel takes in.
        if not all(isinstance(end, (int, float)) for end in given):
            return None, None
        return float(given[0]), float(given[1])

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _is_activation(self, node: fx.Node) -> bool:
        """Whether a kernel computes it along with the layer before: it clips at zero from below.

        ONNX Runtime drops a clipping that covers all integers of the quantizer behind it. Those end
        at zero where all values do, and nowhere else exactly.
        """
        return self._ends(node)[0] == 0

    def _is(
        self,
        node: fx.Node,
        kinds: tuple[type[nn.Module], ...],
        functions: tuple[Any, ...],
        methods: tuple[str, ...],
    ) -> bool:
        if node.op == "call_module":
            return isinstance(self._layer(node), kinds)
        if node.op == "call_method":
            return node.target in methods
        return node.op == "call_function" and node.target in functions


def left_in_float(graph_module: fx.GraphModule, exclude: Sequence[str] = ()) -> list[str]:
    """What `quantized_graph` could not quantize, in sentences for the report."""
    modules = dict(graph_module.named_modules())
    layers: dict[str, str] = {}
    functions: list[str] = []
    products = 0
    for node in graph_module.graph.nodes:
        name = str(node.target)
        if node.op == "call_module":
            if isinstance(modules[name], FLOAT_LAYERS) and name not in exclude:
                layers[name] = type(modules[name]).__name__
        elif node.op == "call_function" and node.target in FLOAT_FUNCTIONS:
            functions.append(f"F.{node.target.__name__}")
        elif (node.op == "call_function" and node.target in PRODUCTS) or (
            node.op == "call_method" and name in PRODUCT_METHODS
        ):
            products += 1
    notes = []
    if layers:
        named = ", ".join(f"{name} ({kind})" for name, kind in layers.items())
        notes.append(
            f"{len(layers)} layers stay in float: {one_line(named, 200)}; quantized are Conv2d "
            "padded with zeros, and Linear"
        )
    if functions:
        named = ", ".join(sorted(set(functions)))
        notes.append(
            f"{len(functions)} convolutions or dense layers called as functions stay in float: "
            f"{named}; as modules (nn.Conv2d, nn.Linear) they would be quantized"
        )
    if products:
        notes.append(f"{products} products of two activations (as in attention) stay in float")
    return notes
