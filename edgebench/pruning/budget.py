"""How many channels of each group go: by one share, by one ranking, or until a cost is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from edgebench.pruning.channels import Group
from edgebench.pruning.heads import heads_to_channels

# Under one ranking of all layers, each keeps a tenth of its channels, rounded down.
FLOOR = 0.1
# Shares of the channels closer than this are one.
SHARE_STEP = 2.0**-10
# Beyond this, every layer is left with a single channel.
LARGEST_SHARE = 0.999
# Candidates that are measured at once, on the target, between two shares that are known.
AT_ONCE = 5
MEASURED_STEP = 0.005

# The name of a group, and how many of its units go.
Counts = dict[str, int]


@dataclass(frozen=True)
class Rounding:
    """What the number of channels that stay in a group is rounded down to a multiple of.

    `strict`: a group keeps one multiple at least; else one that keeps fewer is not rounded.
    """

    multiple: int = 1
    strict: bool = True

    def units(self, group: Group, gone: int) -> int:
        """How many units go where `gone` were to: one unit at least stays."""
        if gone <= 0:
            return 0
        kept = max(group.units - gone, 1) * group.unit
        step = self.step(group)
        if kept >= step:
            kept -= kept % step
        elif self.strict:
            kept = min(step, group.channels)
        return group.units - kept // group.unit

    def step(self, group: Group) -> int:
        """The channels by which the width of a group can change."""
        return math.lcm(self.multiple, group.unit)


def same_share(groups: Sequence[Group], shares: Mapping[str, float], rounding: Rounding) -> Counts:
    """Of each group the share of its name, rounded up to whole units."""
    return {
        group.name: rounding.units(group, _at_least(shares[group.name], group.units))
        for group in groups
    }


def one_ranking(groups: Sequence[Group], share: float, rounding: Rounding) -> Counts:
    """The units worth least in all groups together, until their channels are `share` of all.

    Each group keeps a tenth of its units, rounded down (less only where `share` or `rounding`
    leaves less), and at least one.
    """
    floor = min(FLOOR, 1 - share)
    room = [min(g.units - 1, g.units - math.floor(floor * g.units)) for g in groups]
    owners = [index for index, group in enumerate(groups) for _ in range(group.units)]
    order = torch.argsort(torch.cat([group.scores() for group in groups]), stable=True)
    left = _at_least(share, sum(group.channels for group in groups))
    gone = [0] * len(groups)
    for unit in order.tolist():
        owner = owners[unit]
        if left <= 0:
            break
        if gone[owner] < room[owner]:
            gone[owner] += 1
            left -= groups[owner].unit
    return {
        group.name: rounding.units(group, count) for group, count in zip(groups, gone, strict=True)
    }


def heads_that_go(groups: Sequence[Group], share: float, *, ranked_together: bool) -> Counts:
    """How many heads of each attention go, rounded up; one at least stays in each."""
    if not ranked_together:
        return {g.name: min(_at_least(share, g.unit), g.unit - 1) for g in groups}
    owners = [group for group in groups for _ in range(group.unit)]
    order = torch.argsort(torch.cat([group.head_scores() for group in groups]), stable=True)
    gone: Counts = dict.fromkeys((group.name for group in groups), 0)
    left = _at_least(share, len(owners))
    for head in order.tolist():
        owner = owners[head]
        if left and gone[owner.name] < owner.unit - 1:
            gone[owner.name] += 1
            left -= 1
    return gone


def step_of(groups: Sequence[Group], units: Counts, heads: Counts) -> dict[str, Any]:
    """What `channels.remove` takes out for so many units and heads of each group."""
    channels: list[list[Any]] = []
    attention: list[dict[str, Any]] = []
    for group in groups:
        count = units.get(group.name, 0)
        if group.attention is None:
            if count:
                channels.append([group.name, group.weakest(count)])
            continue
        going, left = group.weakest(count), group.attention.heads
        if fewer := heads.get(group.name, 0):
            weakest = torch.argsort(group.head_scores(), stable=True)[:fewer].tolist()
            going, left = heads_to_channels(group.attention, weakest), left - fewer
        if going:
            attention.append({**asdict(group.attention), "channels": going, "left": left})
    return {"channels": channels, "attention": attention}


def smallest_share(reaches: Callable[[float], bool], largest: float) -> float:
    """The smallest share of the channels that reaches a target, by bisection; `largest` does."""
    low, high = 0.0, largest
    while high - low > SHARE_STEP:
        middle = (low + high) / 2
        if reaches(middle):
            high = middle
        else:
            low = middle
    return high


def smallest_measured_share(
    measure: Callable[[Sequence[float]], Sequence[float]], target: float, largest: float
) -> float | None:
    """The smallest share of the channels at which `measure` gives `target` or less, or None.

    Shares are measured several at once, first all over [0, `largest`], then between the last that
    misses the target and the first that reaches it.
    """
    low, high = 0.0, largest
    shares = [*_between(low, high), largest]
    while True:
        values = measure(shares)
        first = next((i for i, value in enumerate(values) if value <= target), None)
        if first is not None:
            low, high = (shares[first - 1] if first else low), shares[first]
        elif shares[-1] == largest:
            return None
        else:
            low = shares[-1]
        if high - low <= MEASURED_STEP:
            return high
        shares = _between(low, high)


def _between(low: float, high: float) -> list[float]:
    return [low + (high - low) * k / (AT_ONCE + 1) for k in range(1, AT_ONCE + 1)]


def _at_least(share: float, whole: int) -> int:
    """The least whole number that is `share` of `whole` or more, but for float's own error."""
    return math.ceil(share * whole - 1e-9)
