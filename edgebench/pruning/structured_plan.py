"""Structured pruning decided: how many channels of each layer go, and what was achieved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.budget import (
    LARGEST_SHARE,
    Counts,
    Rounding,
    costs,
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
# What is counted, in words.
COSTS = {"parameters": "parameters", "macs": "multiply-accumulates an example"}


class Surroundings(Protocol):
    """What a decision draws on: a technique's Context."""

    @property
    def vector_width(self) -> int:
        """How many float32 channels one vector register of the target holds."""

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
            return {}, self.heads
        if not self.groups:
            raise BuildError(
                "there is no channel to prune beside the heads", hint="set ratio: null"
            )
        allocate, largest = self._allocation()
        if options.of == "channels":
            units = allocate(options.ratio)
        elif options.of == "latency":
            units = self._within_latency(allocate, largest)
        else:
            units = self._within_cost(allocate, largest)
        return units, self.heads

    def achieved(self, module: nn.Module) -> list[str]:
        """What share went, counted on the pruned module; raises BuildError if it is too little."""
        parts: dict[str, Any] = dict(module.named_modules())
        notes = self._costs_achieved(module)
        if self.options.ratio is not None:
            left = {g.name: _width(parts[g.name]) // (3 if g.attention else 1) for g in self.groups}
            total = sum(g.channels for g in self.groups)
            share = 1 - sum(left.values()) / total
            if self.options.of == "channels":
                self._check_share(share, total)
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
            notes.append(f"{total - heads} of {total} attention heads went")
        if self.options.of == "latency":
            notes.append(self._measured_again(module))
        return notes

    def _costs_achieved(self, module: nn.Module) -> list[str]:
        after = costs(module, self.context.examples())
        notes = []
        for of, whole in self.before.items():
            gone = whole - after[of]
            if self.options.of == of and gone / whole < self.options.ratio:
                raise BuildError(
                    f"{gone / whole:.1%} of the {COSTS[of]} went where {self.options.ratio:.0%} "
                    "were asked for"
                )
            notes.append(f"{gone:,} of {whole:,} {COSTS[of]} went ({gone / whole:.1%})")
        return notes

    def _check_share(self, share: float, total: int) -> None:
        """One step of rounding a group may be missing, but not most of what was asked for."""
        asked = self.options.ratio
        slack = sum(self.rounding.step(g) for g in self.groups) / total
        if share < max(asked - slack, asked / 2):
            raise BuildError(
                f"pruning removed {share:.1%} of the channels where {asked:.0%} were asked for",
                hint="change ratio or round_to",
            )

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

    def _within_latency(self, allocate: Callable[[float], Counts], largest: float) -> Counts:
        """As many units as it takes for a share of base's latency to go, as the target says."""
        fastest = 1.0

        def measure(shares: Sequence[float]) -> list[float]:
            nonlocal fastest
            found = self._ratios([self._pruned(allocate(s), self.heads) for s in shares])
            fastest = min(fastest, *found)
            return found

        share = smallest_measured_share(measure, 1 - self.options.ratio, largest)
        if share is None:
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
