"""Find the layers of a module that can be factorized, where they work, and replace them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from edgebench.errors import BuildError, one_line
from edgebench.factorization.base import Ranks, Use
from edgebench.models.calling import Inputs, as_inputs
from edgebench.models.costs import called_part_by_part

FACTORIZED = (nn.Conv2d, nn.Linear)


def uses(module: nn.Module, example: Inputs) -> dict[nn.Module, Use]:
    """Where each 2-D convolution and dense layer works, for one example of `example` [N, ...].

    Those that never run are not in it. A layer whose weight is read without calling it does not
    run, and cannot be replaced. Raises BuildError where the model cannot be run.
    """
    found: dict[nn.Module, Use] = {}
    count = len(as_inputs(example)[0])

    def see(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], answer: Any) -> None:
        given: torch.Tensor = [*args, *named.values()][0]
        use = found.setdefault(layer, Use())
        if isinstance(layer, nn.Linear):
            vectors = answer.numel() // answer.shape[-1] // count
            use.inputs += vectors
            use.outputs += vectors
        else:
            # Not height × width: a model may fold part of an example into the batch.
            rows = answer.numel() // answer.shape[-3] // answer.shape[-1]
            use.inputs += given.numel() // given.shape[-3] // count
            use.outputs += rows * answer.shape[-1] // count
            use.between += rows * given.shape[-1] // count

    training = {part: part.training for part in module.modules()}
    hooks = [
        part.register_forward_hook(see, with_kwargs=True)
        for part in module.modules()
        if isinstance(part, FACTORIZED)
    ]
    try:
        with called_part_by_part(), torch.no_grad():
            module.eval()(*as_inputs(example))
    except Exception as error:
        raise BuildError(
            f"the model cannot be run: {type(error).__name__}: {one_line(str(error), 200)}"
        ) from error
    finally:
        for one in hooks:
            one.remove()
        for part, before in training.items():
            part.training = before
    return found


def read_by_the_model(
    module: nn.Module, layers: Mapping[str, nn.Module], example: Inputs
) -> list[str]:
    """Those of `layers` of which the model reads weights or sizes itself, as no chain has them.

    torch's own transformer layers do so, in evaluation alone.
    """
    if _runs_without(module, list(layers.values()), example):
        return []
    return [name for name, one in layers.items() if not _runs_without(module, [one], example)]


def _runs_without(module: nn.Module, layers: Sequence[nn.Module], example: Inputs) -> bool:
    """Whether the model runs with each of these layers inside of a chain of one."""
    chains = [nn.Sequential(layer) for layer in layers]
    for layer, chain in zip(layers, chains, strict=True):
        replace(module, layer, chain)
    try:
        with torch.no_grad():
            module.eval()(*as_inputs(example))
    except AttributeError:
        return False
    finally:
        for layer, chain in zip(layers, chains, strict=True):
            replace(module, chain, layer)
    return True


def why_not(layer: nn.Module, tied: Counter[int]) -> str | None:
    """Why a layer is not one to factorize; None where it is. `tied`: `owners` of its module."""
    if type(layer) not in {nn.Conv2d, nn.Linear}:
        return "is no plain 2-D convolution or dense layer"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return "is grouped or depthwise, which is a factor already"
    if tied[id(layer.weight)] > 1:
        return "shares its weight with another layer"
    return None


def owners(module: nn.Module) -> Counter[int]:
    """How many layers hold each parameter, by its id."""
    return Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))


def empty_layers(layer: nn.Conv2d | nn.Linear, kind: str, ranks: Ranks) -> nn.Sequential:
    """The chain of layers that `kind` makes of `layer`, its weights not set.

    Stride, padding and dilation stand in the layer that has the kernel. Zero padding stays exact,
    and so do the other modes: no layer before the last has a bias, so that each commutes with them.
    """
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first = _made(nn.Linear, layer, layer.in_features, ranks[0], bias=False)
        return nn.Sequential(
            first, _made(nn.Linear, layer, ranks[0], layer.out_features, bias=bias)
        )
    inputs, outputs = layer.in_channels, layer.out_channels
    if kind == "svd":
        return nn.Sequential(
            _kernel(layer, inputs, ranks[0], bias=False),
            _made(nn.Conv2d, layer, ranks[0], outputs, 1, bias=bias),
        )
    if kind == "spatial":
        return nn.Sequential(
            _kernel(layer, inputs, ranks[0], bias=False, axes=(0,)),
            _kernel(layer, ranks[0], outputs, bias=bias, axes=(1,)),
        )
    if kind == "cp":
        rank = ranks[0]
        return nn.Sequential(
            _made(nn.Conv2d, layer, inputs, rank, 1, bias=False),
            _kernel(layer, rank, rank, bias=False, groups=rank),
            _made(nn.Conv2d, layer, rank, outputs, 1, bias=bias),
        )
    r_out, r_in = ranks
    parts: list[nn.Module] = []
    if r_in < inputs:
        parts.append(_made(nn.Conv2d, layer, inputs, r_in, 1, bias=False))
    parts.append(_kernel(layer, r_in, r_out, bias=bias and r_out == outputs))
    if r_out < outputs:
        parts.append(_made(nn.Conv2d, layer, r_out, outputs, 1, bias=bias))
    return nn.Sequential(*parts)


def _made(kind: type[nn.Module], like: nn.Module, *sizes: Any, **options: Any) -> nn.Module:
    """A layer with unset weights: nothing is drawn, since they are all to be set."""
    weight = like.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - a convolution or dense layer
    place = {"device": weight.device, "dtype": weight.dtype}
    made: nn.Module = skip_init(kind, *sizes, **place, **options)  # type: ignore[no-untyped-call]
    return made.train(like.training)


def _kernel(
    layer: nn.Conv2d,
    inputs: int,
    outputs: int,
    *,
    bias: bool,
    axes: tuple[int, ...] = (0, 1),
    groups: int = 1,
) -> nn.Module:
    """A convolution like `layer` along `axes` (0: rows, 1: columns), and pointwise along others."""

    def along(value: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if axis in axes else neutral for axis, v in enumerate(value))

    return _made(
        nn.Conv2d,
        layer,
        inputs,
        outputs,
        along(layer.kernel_size, 1),
        stride=along(layer.stride, 1),
        padding=layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0),
        dilation=along(layer.dilation, 1),
        padding_mode=layer.padding_mode,
        groups=groups,
        bias=bias,
    )


def filled(chain: nn.Sequential, weights: list[torch.Tensor], layer: nn.Module) -> nn.Sequential:
    """`chain` with these weights, and the bias of `layer` in its last part."""
    with torch.no_grad():
        for part, weight in zip(chain, weights, strict=True):
            held = part.weight
            assert isinstance(held, nn.Parameter)  # noqa: S101 - a convolution or dense layer
            held.copy_(weight)
        if isinstance(layer.bias, torch.Tensor) and isinstance(chain[-1].bias, torch.Tensor):
            chain[-1].bias.copy_(layer.bias)
    return chain


def replace(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` stands in `module`, under each of its names."""
    # Listed first: `new` may hold `old`, which is to stay there.
    for part in list(module.modules()):
        # named_children gives a child once, whatever its names.
        for name, child in list(part._modules.items()):
            if child is old:
                setattr(part, name, new)
