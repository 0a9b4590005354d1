"""Which weights of a model can be pruned, and which of them a user means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from edgebench.errors import BuildError, nearest

# Shown where no known name comes close.
MOST_SHOWN = 8


@dataclass
class PrunableWeight:
    """The weight of a convolution, a dense layer or an attention's input projection.

    `path`: the parameter's, as in `named_parameters`. `layers`: every name that leads to it; more
    than one where layers share it. `parameter` is None where the weight is computed from others.
    """

    path: str
    parameter: nn.Parameter | None
    layers: list[str] = field(default_factory=list)

    def within(self, name: str) -> bool:
        """Whether `name` is a layer of this weight, or a block around one."""
        return any(layer == name or layer.startswith(f"{name}.") for layer in self.layers)


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
    for name in [*(layers or ()), *exclude]:
        _check_name(module, name, found)
    chosen = {
        label: weight
        for label, weight in found.items()
        if (layers is None or any(weight.within(name) for name in layers))
        and not any(weight.within(name) for name in exclude)
    }
    if not chosen:
        raise BuildError(
            "'exclude' leaves no layer to prune", hint=f"layers: {_shown(list(found))}"
        )
    for label, weight in chosen.items():
        if weight.parameter is None:
            raise BuildError(
                f"the weight of '{label}' is computed from other parameters (a parametrization): "
                "zeros set in it would not last",
                hint="remove the parametrization, or exclude the layer",
            )
    return {label: cast("nn.Parameter", weight.parameter) for label, weight in chosen.items()}


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
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
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


def _check_name(module: nn.Module, name: str, found: dict[str, PrunableWeight]) -> None:
    if any(weight.within(name) for weight in found.values()):
        return
    parts = dict(module.named_modules(remove_duplicate=False))
    if name in parts:
        raise BuildError(
            f"'{name}' ({type(parts[name]).__name__}) has no weight to prune",
            hint=f"layers: {_shown(list(found))}",
        )
    near = nearest(name, [p for p in parts if p and any(w.within(p) for w in found.values())])
    raise BuildError(
        f"there is no layer '{name}' in the model",
        hint=f"did you mean '{near}'?" if near else f"layers: {_shown(list(found))}",
    )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:MOST_SHOWN]) + more
