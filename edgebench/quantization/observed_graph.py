"""Turn a graph with observers, as PT2E quantizers prepare it, into one on an integer grid."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from edgebench.errors import BuildError
from edgebench.quantization.fake_quant import (
    ActivationQuantizer,
    Grid,
    QuantizedConv2d,
    QuantizedLinear,
)

ATEN = torch.ops.aten
CONVOLUTIONS = (ATEN.conv2d.default, ATEN.conv2d.padding)
LAYERS = (*CONVOLUTIONS, ATEN.linear.default)
# What ONNX Runtime joins with the layer before it.
RECTIFYING = (
    ATEN.relu.default,
    ATEN.relu_.default,
    ATEN.relu6.default,
    ATEN.relu6_.default,
)
# And these, where they clip at zero from below.
CLIPPING = (ATEN.hardtanh.default, ATEN.hardtanh_.default)
# What a call leaves out of its arguments, behind the input, the weight and the bias.
REST = ((1, 1), (0, 0), (1, 1), 1)


def observe_layers(prepared: fx.GraphModule) -> int:
    """Add an observer after each observed layer that has none behind it; returns how many.

    The quantizer for PyTorch's own compiler leaves a layer before an addition without one, since
    that compiler computes both in one kernel. ONNX Runtime does not, and would run it in float.
    """
    added = 0
    for node in list(_layers(prepared)):
        end = node
        if len(node.users) == 1 and _joined(next(iter(node.users))):
            end = next(iter(node.users))
        behind = [user for user in end.users if user.op == "output" or _observer(prepared, user)]
        before, weight = (_observer(prepared, given) for given in node.args[:2])
        if behind or before is None or weight is None:
            continue
        name = f"added_observer_{added}"
        prepared.add_submodule(name, deepcopy(before))
        with prepared.graph.inserting_after(end):
            observer = prepared.graph.call_module(name, (end,))
        end.replace_all_uses_with(observer)
        observer.args = (end,)
        added += 1
    prepared.recompile()
    return added


def on_grid(prepared: fx.GraphModule, grid: Grid, *, calibrated: bool) -> fx.GraphModule:
    """`prepared` with layers and activations on `grid` in place of its observers.

    Activations get the observed ranges with `calibrated`, else none yet. Weights are rounded anew,
    one scale an output channel, since observers know eight bits alone. `prepared` is used up.

    Raises
    ------
    BuildError
        Nothing is observed, or what was is not finite.
    """
    graph = prepared.graph
    layers: dict[Any, str] = {}
    for node in list(_layers(prepared)):
        weight = node.args[1]
        assert isinstance(weight, fx.Node)  # noqa: S101 - so says the operator's signature
        if _observer(prepared, weight) is None:
            # The quantizer left this layer in float.
            continue
        # A layer that is called twice is one layer.
        key = (node.target, weight.args, node.args[2:], tuple(node.kwargs.items()))
        if key not in layers:
            layers[key] = f"layer_{len(layers)}"
            prepared.add_submodule(layers[key], _layer(prepared, node, grid))
        with graph.inserting_before(node):
            call = graph.call_module(layers[key], (node.args[0],))
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    if not layers:
        raise BuildError("the model has no 2-D convolution or dense layer to quantize")
    quantizers: dict[int, str] = {}
    for node in list(graph.nodes):
        observer = _observer(prepared, node)
        if not node.users and node.op == "call_module":
            # The observers of weights, and the checks of the input's shape.
            graph.erase_node(node)
        elif observer is not None:
            if id(observer) not in quantizers:
                quantizers[id(observer)] = f"quantizer_{len(quantizers)}"
                made = ActivationQuantizer(grid)
                if calibrated:
                    _set_range(made, observer, grid)
                prepared.add_submodule(quantizers[id(observer)], made)
            node.target = quantizers[id(observer)]
    output = next(node for node in graph.nodes if node.op == "output")
    if len(output.args[0]) == 1:
        # One tensor in and one out need none of the exporter's packing of arguments.
        graph.set_codegen(fx.graph.CodeGen())
        output.args = (output.args[0][0],)
    graph.eliminate_dead_code()
    graph.lint()
    # A module of its own: an exported one refuses train() and eval().
    return fx.GraphModule(prepared, graph).eval()


def _layers(prepared: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in prepared.graph.nodes if node.target in LAYERS)


def _joined(node: fx.Node) -> bool:
    """Whether ONNX Runtime computes an operation along with the layer before it."""
    if node.target in CLIPPING:
        return len(node.args) > 1 and bool(node.args[1] == 0)
    return node.target in RECTIFYING


def _observer(prepared: fx.GraphModule, node: Any) -> Any:
    """The observer that a node calls, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    return module if hasattr(module, "calculate_qparams") else None


def _layer(prepared: fx.GraphModule, node: fx.Node, grid: Grid) -> nn.Module:
    weight, bias = _tensor(prepared, node.args[1]), None
    if len(node.args) > 2 and node.args[2] is not None:
        bias = _tensor(prepared, node.args[2])
    # On no device: the tensors are put in next.
    unset: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    made: nn.Conv2d | nn.Linear
    if node.target in CONVOLUTIONS:
        given: list[Any] = list(node.args[3:])
        stride, padding, dilation, groups = given + list(REST[len(given) :])
        kernel = tuple(weight.shape[2:])
        made = nn.Conv2d(
            weight.shape[1] * int(str(groups)),
            weight.shape[0],
            kernel,  # type: ignore[arg-type] # two of them
            stride=_pair(stride),
            padding=padding if isinstance(padding, str) else _pair(padding),
            dilation=_pair(dilation),
            groups=int(str(groups)),
            **unset,
        )
        made.weight = nn.Parameter(weight)
        made.bias = None if bias is None else nn.Parameter(bias)
        return QuantizedConv2d(made, grid)
    made = nn.Linear(weight.shape[1], weight.shape[0], **unset)
    made.weight = nn.Parameter(weight)
    made.bias = nn.Parameter(bias) if bias is not None else None  # type: ignore[assignment] # torch's own way
    return QuantizedLinear(made, grid)


def _tensor(prepared: fx.GraphModule, node: Any) -> torch.Tensor:
    """The parameter that a node reads, or that the observer it calls watches."""
    source = node.args[0] if node.op == "call_module" else node
    path, _, name = str(source.target).rpartition(".")
    found: torch.Tensor = getattr(prepared.get_submodule(path), name).detach()
    return found


def _pair(value: Any) -> tuple[int, int]:
    return int(value[0]), int(value[-1])


def _set_range(quantizer: ActivationQuantizer, observer: Any, grid: Grid) -> None:
    """The range whose scale and zero point are the observer's."""
    scale, zero = (float(part.reshape(-1)[0]) for part in observer.calculate_qparams())
    low, high = (grid.low - zero) * scale, (grid.high - zero) * scale
    if grid.symmetric:
        low = -high
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise BuildError(
            "an activation is not finite on the calibration examples",
            hint="are the weights and the data sound?",
        )
    quantizer.lowest.fill_(low)
    quantizer.highest.fill_(high)
    quantizer.seen.fill_(True)
