"""Sensitivity analysis: how much accuracy pruning each layer alone costs, and ratios from that.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2; Han et al.,
"Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015, figure 6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Protocol

from edgebench.errors import BuildError
from edgebench.records import Figure

if TYPE_CHECKING:
    import torch
    from torch import nn

# By layer: (ratio, accuracy) of the network with that layer alone pruned; rising ratios from 0 on.
Curves = dict[str, list[tuple[float, float]]]

# A mean of ratios is a sum of products: so far may it lie beside the target.
ROUNDING = 1e-9


class Validation(Protocol):
    """Whoever has examples to decide on: a technique's Context."""

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples [N, ...] and their labels, int64 [N]."""


def sensitivity_curves(
    layers: Sequence[str],
    pruned: Callable[[str, float], nn.Module],
    ratios: Sequence[float],
    context: Validation,
) -> Curves:
    """The accuracy on the validation examples with one layer pruned, for each layer and ratio.

    `pruned(layer, ratio)` makes the network with that one layer pruned, and for the ratio 0 the
    network as it is, which is judged once for all layers. `ratios` lie within (0, 1]. Raises
    BuildError where there are no labels.
    """
    if not context.labelled:
        raise BuildError(
            "there are no labels to judge each layer's sensitivity by",
            where="the data",
            hint="set allocation: global",
        )
    x, y = context.validation()
    if not layers:
        return {}
    whole = _accuracy(pruned(layers[0], 0.0), x, y)
    steps = sorted(set(ratios) - {0.0})
    return {
        layer: [(0.0, whole), *((ratio, _accuracy(pruned(layer, ratio), x, y)) for ratio in steps)]
        for layer in layers
    }


def ratios_within_loss(curves: Curves, sizes: Mapping[str, int], target: float) -> dict[str, float]:
    """A ratio for each layer, so that their mean weighted by `sizes` is `target`, within [0, 1].

    Every layer is pruned as far as one and the same loss of accuracy allows, read off its curve:
    linear between the ratios tried, and never falling (where more pruning happens to do better,
    the larger loss before it counts). Where that loss leaves a choice, since a curve is flat there,
    all layers go the same share of their way. `sizes`: what a layer weighs, e.g. its weights.

    Raises
    ------
    BuildError
        The target lies beyond pruning every layer by its largest ratio.
    """
    envelopes = {layer: _envelope(curve) for layer, curve in curves.items()}
    total = sum(sizes[layer] for layer in curves)

    def at(loss: float) -> dict[str, float]:
        return {layer: _largest_ratio(envelope, loss) for layer, envelope in envelopes.items()}

    def mean(ratios: dict[str, float]) -> float:
        return sum(sizes[layer] * ratio for layer, ratio in ratios.items()) / total

    low, high = 0.0, max(envelope[-1][1] for envelope in envelopes.values())
    most = mean(at(high))
    if most < target - ROUNDING:
        raise BuildError(
            f"a ratio of {target:.1%} is out of reach: with every layer at the largest ratio its "
            f"sensitivity was tried at, it is {most:.1%}",
            hint="lower the ratio",
        )
    if mean(at(low)) >= target:
        # Even without any loss there is a choice.
        low, high = -1.0, 0.0
    else:
        while low < (middle := (low + high) / 2) < high:
            if mean(at(middle)) < target:
                low = middle
            else:
                high = middle
    # Between two neighbouring losses only flat stretches are left to choose from.
    below, above = at(low), at(high)
    gap = mean(above) - mean(below)
    share = min(1.0, (target - mean(below)) / gap) if gap > 0 else 0.0
    return {layer: below[layer] + share * (above[layer] - below[layer]) for layer in curves}


def sensitivity_figure(curves: Curves, title: str) -> Figure:
    """The curves for the report: accuracy against the ratio, one line a layer."""
    return Figure(
        title=title,
        x="share pruned of this layer alone",
        y="accuracy",
        series={layer: tuple(curve) for layer, curve in curves.items()},
    )


def _accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    from edgebench.training.loop import predict

    return float((predict(network, x).argmax(1) == y).double().mean())


def _envelope(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(ratio, largest loss of accuracy up to it): the first is (0, 0), and none falls."""
    whole = curve[0][1]
    losses = accumulate((whole - accuracy for _, accuracy in curve), max)
    return [(ratio, loss) for (ratio, _), loss in zip(curve, losses, strict=True)]


def _largest_ratio(envelope: Sequence[tuple[float, float]], loss: float) -> float:
    """The largest ratio that costs no more than `loss`; zero for a negative loss."""
    if loss < 0:
        return 0.0
    for (ratio, cost), (next_ratio, next_cost) in pairwise(envelope):
        if next_cost > loss:
            return ratio + (next_ratio - ratio) * (loss - cost) / (next_cost - cost)
    return envelope[-1][0]
