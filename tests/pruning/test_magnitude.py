"""Masks of the smallest weights: exactly as many as asked for, whatever ties there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.pruning.magnitude import (
    global_masks,
    layer_masks,
    scores_of,
    share_of_zeros,
    smallest,
    with_one_pruned,
)

# A layer of small weights and one of weights a hundred times as large.
WEIGHTS = {
    "small": torch.tensor([[0.01, -0.02], [0.03, -0.04]]),
    "large": torch.tensor([[-1.0, 2.0], [-3.0, 4.0]]),
}
NOTHING = {name: torch.zeros(2, 2, dtype=torch.bool) for name in WEIGHTS}


def counts(masks: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_the_smallest_of_several_tensors_together() -> None:
    one, other = smallest([torch.tensor([[5.0, 1.0], [3.0, 7.0]]), torch.tensor([2.0, 6.0])], 3)
    assert one.tolist() == [[False, True], [True, False]]
    assert other.tolist() == [True, False]


@pytest.mark.parametrize("count", range(7))
def test_ties_are_broken_by_their_place(count: int) -> None:
    (mask,) = smallest([torch.tensor([2.0, 1.0, 2.0, 2.0, 1.0, 2.0])], count)
    wanted = [1, 4, 0, 2, 3, 5][:count]
    assert mask.nonzero().flatten().tolist() == sorted(wanted)


def test_the_choice_does_not_depend_on_how_memory_is_laid_out() -> None:
    weight = torch.ones(4, 3, 3, 3)
    plain = smallest([weight], 50)[0]
    last = smallest([weight.to(memory_format=torch.channels_last)], 50)[0]
    assert torch.equal(plain, last)


def test_more_weights_than_quantile_takes() -> None:
    weight = torch.arange(2**24 + 10, dtype=torch.float64)
    (mask,) = smallest([weight], 7)
    assert mask.nonzero().flatten().tolist() == list(range(7))


def test_one_threshold_for_all_or_for_each() -> None:
    together = global_masks(WEIGHTS, NOTHING, 0.5, None)
    assert counts(together) == {"small": 4, "large": 0}
    each = layer_masks(WEIGHTS, NOTHING, {"small": 0.25, "large": 0.75})
    assert each["small"].tolist() == [[True, False], [False, False]]
    assert each["large"].tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_normalised_magnitudes_do_not_depend_on_a_layers_scale(norm: str) -> None:
    masks = global_masks(WEIGHTS, NOTHING, 0.5, norm)
    assert counts(masks) == {"small": 2, "large": 2}
    # Nor on how many weights it has.
    wide = {**WEIGHTS, "large": WEIGHTS["large"].repeat(1, 10)}
    held = {**NOTHING, "large": torch.zeros(2, 20, dtype=torch.bool)}
    assert counts(global_masks(wide, held, 0.5, norm)) == {"small": 2, "large": 20}


def test_the_norms_differ_where_magnitudes_are_normalised() -> None:
    # One large weight raises the root mean square more than the mean.
    weights = {
        "even": torch.tensor([[1.0, 1.0, 1.0, 1.0]]),
        "spiky": torch.tensor([[1.1, 0, 0, 9]]),
    }
    held = {name: weight == 0 for name, weight in weights.items()}
    # l1: even 1, spiky 1.1/2.525 = .44; l2: spiky 1.1/4.53 = .24.
    l1, l2 = (scores_of(weights["spiky"], held["spiky"], norm)[0, 0] for norm in ("l1", "l2"))
    assert float(l1) == pytest.approx(1.1 / 2.525)
    assert float(l2) == pytest.approx(1.1 / (82.21 / 4) ** 0.5)
    assert float(scores_of(weights["even"], held["even"], "l2")[0, 0]) == pytest.approx(1)


def test_zeros_that_are_held_come_first() -> None:
    held = {"w": torch.tensor([[False, True, False, True]])}
    weights = {"w": torch.tensor([[0.5, 0.0, 0.0, 0.0]])}
    # Two are held; the third is the other zero, and fewer than two are not given back.
    for ratio, wanted in ((0.25, [1, 3]), (0.5, [1, 3]), (0.75, [1, 2, 3])):
        for masks in (
            global_masks(weights, held, ratio, None),
            layer_masks(weights, held, {"w": ratio}),
        ):
            assert masks["w"].flatten().nonzero().flatten().tolist() == wanted


def test_a_layer_of_zeros_has_no_norm_and_goes_first() -> None:
    weights = {"zero": torch.zeros(1, 2), "w": torch.ones(1, 2)}
    held = {name: torch.zeros(1, 2, dtype=torch.bool) for name in weights}
    assert counts(global_masks(weights, held, 0.5, "l1")) == {"zero": 2, "w": 0}


def test_one_layer_alone_is_pruned_in_a_copy() -> None:
    first, second = nn.Linear(4, 8), nn.Linear(8, 4)
    module = nn.Sequential(first, nn.ReLU(), second)
    before = [parameter.clone() for parameter in module.parameters()]
    copy = with_one_pruned(module, "2", 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert share_of_zeros([copy.get_parameter("2.weight")]) == 0.5
    assert torch.equal(copy.get_parameter("0.weight"), first.weight)
    whole = with_one_pruned(module, "2", 0.0)
    assert torch.equal(whole.get_parameter("2.weight"), second.weight)
