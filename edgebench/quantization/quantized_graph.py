"""Turn a float module into one that computes on the integer grid (torch.fx)."""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import cast

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from edgebench.errors import BuildError, one_line
from edgebench.quantization.fake_quant import (
    ActivationQuantizer,
    Grid,
    QuantizedConv2d,
    QuantizedLinear,
)

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
ACTIVATION_FUNCTIONS = (F.relu, F.relu6, F.hardtanh, torch.relu, torch.clamp)
# Modules whose answer lies on no grid, even where their input does.
COMPUTING = (
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm2d,  # those that no convolution stands right before
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Tanh,
)
COMPUTING_FUNCTIONS = (
    operator.add,
    operator.iadd,
    operator.mul,
    torch.add,
    torch.mul,
    torch.cat,
    torch.mean,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.elu,
    F.gelu,
    F.hardsigmoid,
    F.hardswish,
    F.leaky_relu,
    F.mish,
    F.sigmoid,
    F.silu,
    F.tanh,
    torch.sigmoid,
    torch.tanh,
)


def quantized_graph(module: nn.Module, grid: Grid) -> fx.GraphModule:
    """A copy of `module` with batch normalisation folded and fake quantization inserted.

    Quantizers stand after the input, after each convolution or dense layer (behind its ReLU), and
    after additions, concatenations, averages, activations other than ReLU, and normalisation that
    could not be folded. The last layer's answer stays float.

    Raises
    ------
    BuildError
        torch.fx cannot trace the module, or there is nothing to quantize.
    """
    try:
        graph_module = cast("fx.GraphModule", fuse(deepcopy(module).eval()))
    except Exception as error:
        raise BuildError(
            f"qat cannot trace this module: {type(error).__name__}: {one_line(str(error), 200)}",
            hint="torch.fx follows no control flow that depends on values; use ptq, or move the "
            "branch out of forward",
        ) from error
    modules = dict(graph_module.named_modules())
    count = 0
    for node in graph_module.graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" else None
        replacement: nn.Module | None = None
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            replacement = QuantizedConv2d(layer, grid)
        elif type(layer) is nn.Linear:
            replacement = QuantizedLinear(layer, grid)
        if replacement is not None:
            graph_module.add_submodule(str(node.target), replacement)
            count += 1
    if not count:
        raise BuildError("the model has no 2-D convolution or dense layer to quantize")
    _insert_quantizers(graph_module, grid)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _insert_quantizers(graph_module: fx.GraphModule, grid: Grid) -> None:
    modules = dict(graph_module.named_modules())
    graph = graph_module.graph
    answers = {n for node in graph.nodes if node.op == "output" for n in node.all_input_nodes}
    places: list[fx.Node] = []
    for node in graph.nodes:
        if not _computes(node, modules):
            continue
        place = node
        users = list(node.users)
        if len(users) == 1 and _is_activation(users[0], modules):
            place = users[0]
        if place not in answers and place not in places:
            places.append(place)
    for index, node in enumerate(places):
        name = f"quantizer_{index}"
        graph_module.add_submodule(name, ActivationQuantizer(grid))
        with graph.inserting_after(node):
            quantizer = graph.call_module(name, (node,))
        node.replace_all_uses_with(quantizer)
        quantizer.args = (node,)


def _computes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether the node's result lies on no grid yet."""
    if node.op == "placeholder":
        return True
    if node.op == "call_module":
        layer = modules[str(node.target)]
        return isinstance(layer, (QuantizedConv2d, QuantizedLinear, *COMPUTING))
    if node.op == "call_method":
        return node.target in {"mean", "add", "add_", "mul", "sigmoid", "tanh"}
    return node.op == "call_function" and node.target in COMPUTING_FUNCTIONS


def _is_activation(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], ACTIVATIONS)
    if node.op == "call_method":
        return node.target in {"relu", "relu_", "clamp"}
    return node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS
