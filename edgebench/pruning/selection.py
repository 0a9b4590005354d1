"""Which weights of a model can be pruned, and which of them a user means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.layer_names import listed, resolved, within


@dataclass
class PrunableWeight:
    """The weight of a convolution, a dense layer or an attention's input projection.

    `path`: the parameter's, as in `named_parameters`. `layers`: every name that leads to it; more
    than one where layers share it. `parameter` is None where the weight is computed from others.
    """

    path: str
    parameter: nn.Parameter | None
    layers: list[str] = field(default_factory=list)

    def within(self, chosen: Sequence[str]) -> bool:
        """Whether one of those chosen is a layer of this weight, or a part of the model with it."""
        return any(within(layer, chosen) for layer in self.layers)


def prunable_weights(module: nn.Module) -> dict[str, PrunableWeight]:
    """All weights that can be pruned, by the name of their layer; a shared one stands once."""
    found: dict[str, PrunableWeight] = {}
    labels: dict[int, str] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        for attribute in _weights_of(layer):
            parameter = layer._parameters.get(attribute)
            label = _label(module, name, attribute)
            if parameter is not None:
                label = labels.setdefault(id(parameter), label)
            path = f"{name}.{attribute}" if name else attribute
            found.setdefault(label, PrunableWeight(path, parameter)).layers.append(name)
    return found


def chosen_weights(
    module: nn.Module, layers: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """The weights of `layers` (none: of all) without those of `exclude`, by layer.

    Names are those of `named_modules`; a block's name stands for all the layers within. A weight
    that several layers share is chosen with any of them, and left alone with any of them.

    Raises
    ------
    BuildError
        A name that is not there, or has no weight to prune; a weight that is computed from others;
        nothing left to prune.
    """
    found = prunable_weights(module)
    if not found:
        raise BuildError("the model has no convolution or dense layer to prune")
    names = [name for weight in found.values() for name in weight.layers]
    wanted = None if layers is None else resolved(layers, names, module)
    spared = resolved(exclude, names, module)
    chosen = {
        label: weight
        for label, weight in found.items()
        if (wanted is None or weight.within(wanted)) and not weight.within(spared)
    }
    if not chosen:
        raise BuildError("'exclude' leaves no layer to prune", hint=f"layers: {listed(found)}")
    for label, weight in chosen.items():
        if weight.parameter is None:
            raise BuildError(
                f"the weight of '{label}' is computed from other parameters (a parametrization): "
                "zeros set in it would not last",
                hint="remove the parametrization, or exclude the layer",
            )
    return {label: cast("nn.Parameter", weight.parameter) for label, weight in chosen.items()}


def transposed_weights(module: nn.Module) -> set[int]:
    """The ids of the weights of transposed convolutions, whose input channels come first."""
    kind = nn.modules.conv._ConvTransposeNd
    return {id(layer.weight) for layer in module.modules() if isinstance(layer, kind)}


def left_dense(module: nn.Module) -> list[str]:
    """The names of parameters of two and more dimensions that no layer known here holds."""
    known = {id(weight.parameter) for weight in prunable_weights(module).values()}
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in known
    ]


def _weights_of(layer: nn.Module) -> Iterator[str]:
    """The attributes of a layer that hold weights to prune."""
    if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
        yield "weight"
    elif isinstance(layer, nn.MultiheadAttention):
        joint = layer.in_proj_weight is not None
        # With keys or values of another width, torch keeps three weights in place of one.
        separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        yield from ("in_proj_weight",) if joint else separate


def _label(module: nn.Module, name: str, attribute: str) -> str:
    """What a weight is called: by its layer, where that holds no other."""
    name = name or type(module).__name__
    return name if attribute in {"weight", "in_proj_weight"} else f"{name}.{attribute}"
