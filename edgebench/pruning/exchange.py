"""Whether channels are where they were followed to: exchanged, they must leave the answer as it is.

What makes channels gives them in another order, and what reads them takes that order back. Whatever
lies between may treat each channel by itself, or all of them alike; where it puts them into an
order of its own (a shuffle, a flattening with the channels last, heads), the answer changes.
Nothing is removed, so that sizes and statistics over channels stay what they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgebench.models.calling import Inputs, as_inputs, named_answers
from edgebench.models.costs import called_part_by_part

# How far answers of the same arithmetic in another order may differ, as a share of their size.
CLOSE = 1e-4
# Layers with their channels along the second axis; others have them along the last.
CHANNELS_SECOND = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.PReLU,
)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a group's channels are in one layer or parameter of `size` channels.

    `indices`: by channel of the group, its places there, ascending. `made`, `read`: whether it
    makes them, reads them, or both, as a normalisation does. `axis`: of a parameter, theirs.
    """

    part: nn.Module | nn.Parameter
    size: int
    indices: Mapping[int, Sequence[int]]
    made: bool
    read: bool
    axis: int = -1

    def order(self, sources: Mapping[int, int]) -> torch.Tensor:
        """At each place, the place it takes its channel from, [size]."""
        order = torch.arange(self.size)
        for channel, source in sources.items():
            if channel in self.indices:
                order[list(self.indices[channel])] = torch.tensor(self.indices[source])
        return order


def answers_of(module: nn.Module, example: Inputs) -> list[torch.Tensor]:
    """The module's answers in evaluation mode, each [N, ...]."""
    with torch.no_grad(), called_part_by_part():
        answer = module.eval()(*as_inputs(example))
    return list(named_answers(answer, where="the module").values())


def same_answers(given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    """Whether answers are the same but for rounding."""
    return all(_close(one, other) for one, other in zip(given, wanted, strict=True))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    # An answer may be whole numbers, or hold infinities, as masked scores do.
    one, other = one.double(), other.double()
    sizes = other[other.isfinite()].abs()
    tolerance = CLOSE * float(sizes.max()) if sizes.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=tolerance, equal_nan=True)


def may_be_exchanged(
    module: nn.Module,
    example: Inputs,
    wanted: Sequence[torch.Tensor],
    places: Sequence[Place],
    *,
    units: int,
    unit: int,
) -> bool:
    """Whether `module` gives the answers `wanted` with a group's channels in another order.

    The channels are [unit, units]; whole units change places, with those in the same layers.
    """
    sources = exchanged(places, units=units, unit=unit)
    parameters = [p.part for p in places if isinstance(p.part, nn.Parameter)]
    before = [parameter.data for parameter in parameters]
    try:
        with ExitStack() as hooks:
            for place in places:
                _reorder(place, place.order(sources), hooks)
            return same_answers(answers_of(module, example), wanted)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def exchanged(places: Sequence[Place], *, units: int, unit: int) -> dict[int, int]:
    """For each channel the one that takes its place: no unit stays that has another like it."""
    alike: dict[Any, list[int]] = defaultdict(list)
    for index in range(units):
        channels = [part * units + index for part in range(unit)]
        alike[tuple(len(p.indices.get(c, ())) for p in places for c in channels)].append(index)
    # Drawn: any regular order may be one that heads or shuffles do not mind.
    draw = torch.Generator().manual_seed(0)
    sources = {}
    for members in alike.values():
        circle = [members[i] for i in torch.randperm(len(members), generator=draw).tolist()]
        for index, source in zip(circle, circle[1:] + circle[:1], strict=True):
            sources.update({part * units + index: part * units + source for part in range(unit)})
    return sources


def _reorder(place: Place, order: torch.Tensor, hooks: ExitStack) -> None:
    part = place.part
    if isinstance(part, nn.Parameter):
        part.data = part.data.index_select(place.axis, order.to(part.device))
        return
    axis = 1 if isinstance(part, CHANNELS_SECOND) else -1
    inputs = 3 if isinstance(part, nn.MultiheadAttention) else 1
    back = order.argsort()

    def taken(tensor: Any, indices: torch.Tensor) -> Any:
        if tensor.shape[axis] != place.size:
            raise ValueError("the channels are not where they were looked for")
        return tensor.index_select(axis, indices.to(tensor.device))

    def before(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = [*args, *named.values()]
        given[:inputs] = [taken(tensor, back) for tensor in given[:inputs]]
        return tuple(given[: len(args)]), dict(zip(named, given[len(args) :], strict=True))

    def after(_: nn.Module, __: Any, answer: Any) -> Any:
        if isinstance(answer, tuple):
            return (taken(answer[0], order), *answer[1:])
        return taken(answer, order)

    if place.read:
        hooks.callback(part.register_forward_pre_hook(before, with_kwargs=True).remove)
    if place.made:
        hooks.callback(part.register_forward_hook(after).remove)
