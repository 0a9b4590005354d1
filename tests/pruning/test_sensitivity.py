"""Accuracy against ratio for each layer, and ratios that cost every layer the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.sensitivity import (
    Curves,
    ratios_within_loss,
    sensitivity_curves,
    sensitivity_figure,
)

LABELS = torch.tensor([0, 1, 2, 3] * 5)


class RightOn(nn.Module):
    """Right on the first `count` examples, whose input is their label; wrong on all others."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answers = x.long()
        answers[self.count :] = (answers[self.count :] + 1) % 4
        return nn.functional.one_hot(answers, 4).float()


def validation():
    return SimpleNamespace(validation=lambda: (LABELS.float(), LABELS), labelled=True)


def test_each_layer_is_judged_at_each_ratio_and_the_whole_network_once() -> None:
    asked = []

    def pruned(layer: str, ratio: float) -> nn.Module:
        asked.append((layer, ratio))
        return RightOn(round(20 - ratio * {"a": 10, "b": 20}[layer]))

    curves = sensitivity_curves(["a", "b"], pruned, [0.8, 0.4], validation())
    assert curves == {
        "a": [(0.0, 1.0), (0.4, 0.8), (0.8, 0.6)],
        "b": [(0.0, 1.0), (0.4, 0.6), (0.8, 0.2)],
    }
    assert asked == [("a", 0.0), ("a", 0.4), ("a", 0.8), ("b", 0.4), ("b", 0.8)]
    assert sensitivity_curves([], pruned, [0.5], validation()) == {}


# Of b, twice as much can go for the same loss.
STRAIGHT: Curves = {"a": [(0.0, 1.0), (1.0, 0.0)], "b": [(0.0, 1.0), (1.0, 0.5)]}


@pytest.mark.parametrize(
    ("sizes", "target", "wanted"),
    [
        ((1, 1), 0.5, (1 / 3, 2 / 3)),
        ((3, 1), 0.5, (0.4, 0.8)),
        # Beyond a loss of a half, b is pruned wholly.
        ((1, 1), 0.9, (0.8, 1.0)),
        ((1, 1), 1.0, (1.0, 1.0)),
        ((1, 1), 0.0, (0.0, 0.0)),
    ],
)
def test_all_layers_lose_the_same(
    sizes: tuple[int, int], target: float, wanted: tuple[float, float]
) -> None:
    found = ratios_within_loss(STRAIGHT, dict(zip("ab", sizes, strict=True)), target)
    assert tuple(found.values()) == pytest.approx(wanted)


def test_what_costs_nothing_is_shared_in_proportion() -> None:
    curves = {
        "a": [(0.0, 0.9), (0.8, 0.9), (0.9, 0.2)],
        # More pruning that does better costs nothing, and gains nothing either.
        "b": [(0.0, 0.9), (0.4, 0.95), (0.9, 0.1)],
    }
    assert ratios_within_loss(curves, {"a": 5, "b": 5}, 0.3) == pytest.approx({"a": 0.4, "b": 0.2})


def test_a_curve_that_rises_again_counts_as_flat() -> None:
    curves = {
        "a": [(0.0, 0.9), (0.2, 0.8), (0.4, 0.9), (0.6, 0.5)],
        "b": [(0.0, 0.9), (1.0, 0.4)],
    }
    # A loss of .1 lets b go to .2, and leaves a anywhere from .2 to .4.
    for target, wanted in ((0.2, 0.2), (0.25, 0.3), (0.3, 0.4)):
        found = ratios_within_loss(curves, {"a": 1, "b": 1}, target)
        assert found == pytest.approx({"a": wanted, "b": 0.2})


def test_a_target_beyond_the_curves_is_refused() -> None:
    curves = {"a": [(0.0, 1.0), (0.9, 1.0)], "b": [(0.0, 1.0), (0.5, 0.7)]}
    most = ratios_within_loss(curves, {"a": 1, "b": 1}, 0.7)
    assert most == pytest.approx({"a": 0.9, "b": 0.5})
    with pytest.raises(BuildError, match=r"71.0% is out of reach.* it is 70.0%; lower the ratio"):
        ratios_within_loss(curves, {"a": 1, "b": 1}, 0.71)


shares = st.floats(0, 1)
curve = st.lists(shares, min_size=4, max_size=4).map(
    lambda ys: list(zip((0.0, 0.3, 0.7, 0.95), ys, strict=True))
)
some_curves = st.lists(curve, min_size=1, max_size=4).map(
    lambda all_curves: {str(index): found for index, found in enumerate(all_curves)}
)


@given(some_curves, st.lists(st.integers(1, 10**6), min_size=4, max_size=4), shares, shares)
def test_the_mean_is_the_target_and_a_higher_target_spares_no_layer(
    curves: Curves, weights: list[int], one: float, other: float
) -> None:
    sizes = dict(zip(curves, weights, strict=False))
    total = sum(sizes.values())
    found = []
    for target in sorted((0.95 * one, 0.95 * other)):
        ratios = ratios_within_loss(curves, sizes, target)
        mean = sum(sizes[layer] * ratio for layer, ratio in ratios.items()) / total
        assert mean == pytest.approx(target, abs=1e-9)
        assert all(0 <= ratio <= 0.95 for ratio in ratios.values())
        found.append(ratios)
    assert all(found[0][layer] <= found[1][layer] + 1e-9 for layer in curves)


def test_the_figure_has_a_line_for_each_layer() -> None:
    figure = sensitivity_figure(STRAIGHT, "Sensitivity")
    assert (figure.title, figure.kind, figure.y) == ("Sensitivity", "line", "accuracy")
    assert figure.series == {"a": ((0.0, 1.0), (1.0, 0.0)), "b": ((0.0, 1.0), (1.0, 0.5))}
