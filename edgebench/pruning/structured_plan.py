"""Structured pruning decided: how many channels of each layer go, and what was achieved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.models.costs import costs
from edgebench.pruning.budget import (
    LARGEST_SHARE,
    SHARE_STEP,
    Counts,
    Rounding,
    heads_that_go,
    one_ranking,
    same_share,
    smallest_measured_share,
    smallest_share,
    step_of,
)
from edgebench.pruning.channels import Group, remove
from edgebench.pruning.layer_names import listed
from edgebench.pruning.sensitivity import (
    ratios_within_loss,
    sensitivity_curves,
    sensitivity_figure,
)
from edgebench.records import Figure

# At these shares of its channels each layer is pruned alone for its sensitivity.
SENSITIVITY_RATIOS = (0.25, 0.5, 0.75, 0.9)
# So much longer than asked for may it take when it is measured once more: the measurement's noise.
MEASURED_AGAIN = 1.05
# Shares closer than this are one.
TOLERANCE = 1e-9
# What is counted, in words.
COSTS = {"parameters": "parameters", "macs": "multiply-accumulates an example"}


class Surroundings(Protocol):
    """What a decision draws on: a technique's Context."""

    @property
    def vector_width(self) -> int:
        """How many float32 channels one vector register of the target holds."""

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""

    @property
    def latency_ratios(self) -> Callable[[Sequence[nn.Module]], list[float]] | None:
        """Measures modules on the target, each over base."""

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples and labels to decide on."""

    def decided_on(self) -> str:
        """Those examples, in words."""

    def examples(self) -> tuple[torch.Tensor, ...]:
        """Two examples of each input, for tracing."""


class Plan:
    """How many units of each group go, and how many heads of each attention."""

    def __init__(
        self, module: nn.Module, groups: Sequence[Group], options: Any, context: Surroundings
    ) -> None:
        self.module, self.options, self.context = module, options, context
        self.before = costs(module, context.examples())
        self.all = groups
        # With heads to go, the channels of those that stay are left alone.
        self.attentions = [g for g in groups if g.attention is not None and options.heads]
        self.groups = [g for g in groups if g not in self.attentions]
        self.rounding = Rounding(
            {"auto": context.vector_width, None: 1}.get(options.round_to, options.round_to),
            strict=options.round_to != "auto",
        )
        self.units: Counts = {}
        # By how much of what is counted two neighbouring plans can differ.
        self.step = 0.0
        self.heads: Counts = {}
        self.notes: list[str] = []
        self.figures: list[Figure] = []

    def decide(self) -> tuple[Counts, Counts]:
        """The units of each group and the heads of each attention that go."""
        options = self.options
        if options.heads:
            self.heads = heads_that_go(
                self.attentions, options.heads, ranked_together=options.allocation == "global"
            )
            if not any(self.heads.values()):
                raise BuildError("each attention has a single head, and none of them can go")
        if options.ratio is None:
            return self.units, self.heads
        if not self.groups:
            raise BuildError(
                "there is no channel to prune beside the heads", hint="set ratio: null"
            )
        allocate, largest = self._allocation()
        if options.of == "channels":
            self.units = allocate(options.ratio)
            self.step = sum(g.unit for g in self.groups) / sum(g.channels for g in self.groups)
        elif options.of == "latency":
            self.units = self._within_latency(allocate, largest)
        else:
            self.units = self._within_cost(allocate, largest)
            self.step = self._cost_of_a_step()
        return self.units, self.heads

    def achieved(self, module: nn.Module) -> list[str]:
        """What went, counted on the pruned module; first, where it is not what was asked for.

        Raises BuildError where it is not what was decided, or further from what was asked for than
        whole units, multiples and heads account for.
        """
        parts: dict[str, Any] = dict(module.named_modules())
        first, notes = self._costs_achieved(module)
        if self.options.ratio is not None:
            left = {g.name: _width(parts[g.name]) // (3 if g.attention else 1) for g in self.groups}
            for group in self.groups:
                wanted = group.channels - self.units.get(group.name, 0) * group.unit
                if left[group.name] != wanted:
                    raise BuildError(
                        f"{left[group.name]} channels of '{group.name}' are left where {wanted} "
                        "were to be"
                    )
            total = sum(g.channels for g in self.groups)
            share = 1 - sum(left.values()) / total
            if self.options.of == "channels":
                first += self._beside(share, "channels")
            notes.append(f"{total - sum(left.values()):,} of {total:,} channels went ({share:.1%})")
            narrow = [g.name for g in self.groups if left[g.name] < self.rounding.step(g)]
            if self.options.round_to == "auto" and narrow:
                notes.append(
                    f"narrower than the {self.rounding.multiple} of a vector, and not rounded: "
                    f"{listed(narrow)}"
                )
        if self.options.heads:
            total = sum(g.unit for g in self.attentions)
            heads = sum(parts[g.attention.name].num_heads for g in self.attentions if g.attention)
            share = 1 - heads / total
            if abs(share - self.options.heads) > TOLERANCE:
                first.append(
                    f"{share:.1%} of the attention heads went where {self.options.heads:.0%} were "
                    "asked for: heads go whole, and one of each attention stays"
                )
            notes.append(f"{total - heads} of {total} attention heads went")
        if self.options.of == "latency":
            notes.append(self._measured_again(module))
        return [*first, *notes]

    def _costs_achieved(self, module: nn.Module) -> tuple[list[str], list[str]]:
        """What is not as asked for, and what went of each cost."""
        after = costs(module, self.context.examples())
        first, notes = [], []
        for of, whole in self.before.items():
            gone = whole - after[of]
            if self.options.of == of:
                if gone / whole < self.options.ratio:
                    raise BuildError(self._said(gone / whole, COSTS[of]))
                first = self._beside(gone / whole, COSTS[of])
            notes.append(f"{gone:,} of {whole:,} {COSTS[of]} went ({gone / whole:.1%})")
        return first, notes

    def _beside(self, share: float, of: str) -> list[str]:
        """What to say of a share that is more than a step from the one asked for.

        Raises BuildError where neither multiples nor heads explain it.
        """
        asked = self.options.ratio
        if share and abs(share - asked) <= self.step + TOLERANCE:
            return []
        if self.rounding.multiple > 1 and share >= asked / 2:
            return [f"{self._said(share, of)}: layers keep multiples of {self.rounding.multiple}"]
        if self.heads and share > asked:
            return [f"{self._said(share, of)}: heads go whole"]
        raise BuildError(self._said(share, of), hint="change ratio or round_to")

    def _said(self, share: float, of: str) -> str:
        return f"{share:.1%} of the {of} went where {self.options.ratio:.0%} were asked for"

    def _allocation(self) -> tuple[Callable[[float], Counts], float]:
        """How many units go at a share of all channels, and the largest such share."""
        groups, rounding = self.groups, self.rounding
        if self.options.allocation == "local":

            def same(share: float) -> Counts:
                shares = dict.fromkeys((g.name for g in groups), share)
                return same_share(groups, shares, rounding)

            return same, LARGEST_SHARE
        if self.options.allocation == "global":
            return lambda share: one_ranking(groups, share, rounding), LARGEST_SHARE

        def alone(name: str, ratio: float) -> nn.Module:
            one = [g for g in groups if g.name == name]
            counts = same_share(one, {name: ratio}, Rounding())
            return self._pruned(counts, {}) if ratio else self.module

        names = [g.name for g in groups]
        curves = sensitivity_curves(names, alone, SENSITIVITY_RATIOS, self.context)
        self.figures.append(sensitivity_figure(curves, "Accuracy with one layer's channels pruned"))
        self.notes.append(f"each layer's sensitivity was found on {self.context.decided_on()}")
        sizes = {g.name: g.channels for g in groups}

        def by_loss(share: float) -> Counts:
            return same_share(groups, ratios_within_loss(curves, sizes, share), rounding)

        return by_loss, max(SENSITIVITY_RATIOS)

    def _pruned(self, units: Counts, heads: Counts) -> nn.Module:
        """A copy with so much taken out."""
        copy = deepcopy(self.module)
        remove(copy, step_of(self.all, units, heads), self.context.examples())
        return copy.eval()

    def _within_cost(self, allocate: Callable[[float], Counts], largest: float) -> Counts:
        """As many units as it takes for a share of the parameters or MACs to go."""
        of, example = self.options.of, self.context.examples()

        def gone(share: float) -> float:
            left = costs(self._pruned(allocate(share), self.heads), example)[of]
            return (self.before[of] - left) / self.before[of]

        if (most := gone(largest)) < self.options.ratio:
            raise self._out_of_reach(f"{most:.1%} of the {COSTS[of]} can go")
        if gone(0.0) >= self.options.ratio:
            return {}
        return allocate(smallest_share(lambda share: gone(share) >= self.options.ratio, largest))

    def _cost_of_a_step(self) -> float:
        """The largest share of the cost by which two neighbouring plans can differ."""
        channels = SHARE_STEP * sum(g.channels for g in self.groups)
        units = {g.name: min(g.units - 1, 1 + math.ceil(channels / g.unit)) for g in self.groups}
        left = costs(self._pruned(units, {}), self.context.examples())[self.options.of]
        return 1 - left / self.before[self.options.of]

    def _within_latency(self, allocate: Callable[[float], Counts], largest: float) -> Counts:
        """As many units as it takes for a share of base's latency to go, as the target says."""
        measured: dict[tuple[int, ...], float] = {}

        def measure(shares: Sequence[float]) -> list[float]:
            plans = [allocate(share) for share in shares]
            keys = [tuple(plan.values()) for plan in plans]
            new = {k: p for k, p in zip(keys, plans, strict=True) if k not in measured}
            if new:
                found = self._ratios([self._pruned(plan, self.heads) for plan in new.values()])
                measured.update(zip(new, found, strict=True))
            return [measured[key] for key in keys]

        share = smallest_measured_share(measure, 1 - self.options.ratio, largest)
        if share is None:
            fastest = min(1.0, *measured.values())
            raise self._out_of_reach(f"{1 - fastest:.1%} of base's latency can go")
        return allocate(share)

    def _out_of_reach(self, what: str) -> BuildError:
        return BuildError(
            f"at most {what} where {self.options.ratio:.0%} were asked for",
            hint="lower the ratio, or let more layers be pruned",
        )

    def _ratios(self, modules: Sequence[nn.Module]) -> list[float]:
        measure = self.context.latency_ratios
        assert measure is not None  # noqa: S101 - `apply` saw to it
        return measure(modules)

    def _measured_again(self, module: nn.Module) -> str:
        (ratio,) = self._ratios([module])
        asked = 1 - self.options.ratio
        if ratio > asked * MEASURED_AGAIN:
            raise BuildError(
                f"measured once more, the latency is {ratio:.2f} of base's where {asked:.2f} was "
                "asked for",
                hint="lower the ratio, or keep the target free of other work",
            )
        return (
            f"measured on the target at the end, the latency is {ratio:.2f} of base's "
            f"({asked:.2f} was asked for)"
        )


def _width(layer: Any) -> int:
    """How many outputs a convolution or dense layer has."""
    return int(getattr(layer, "out_channels", None) or layer.out_features)
