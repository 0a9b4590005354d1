"""Of each M consecutive input channels, the N largest weights stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.n_of_m import check_groups, n_of_m_mask, n_of_m_masks


def masked(weight: torch.Tensor, n: int, m: int) -> torch.Tensor:
    return weight.masked_fill(n_of_m_mask(weight, weight == 0, n, m), 0.0)


def test_the_groups_of_a_dense_layer() -> None:
    weight = torch.tensor([[1.0, -4.0, 2.0, 3.0, 5.0, 0.1, -0.2, 0.0]])
    assert masked(weight, 2, 4).tolist() == [[0, -4, 0, 3, 5, 0, pytest.approx(-0.2), 0]]
    assert masked(weight, 1, 4).tolist() == [[0, -4, 0, 0, 5, 0, 0, 0]]


def test_the_groups_of_a_convolution_run_along_its_input_channels() -> None:
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    weight[0, :, 0, 1] = torch.tensor([-8.0, -7.0, -6.0, -5.0])
    result = masked(weight, 2, 4)
    assert result[0, :, 0, 0].tolist() == [0, 0, 3, 4]
    assert result[0, :, 0, 1].tolist() == [-8, -7, 0, 0]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(32, 5),
        nn.Conv1d(16, 6, 3),
        nn.Conv2d(16, 8, 3, groups=2),
        nn.Conv3d(8, 4, 2),
        nn.Conv2d(16, 4, 3).to(memory_format=torch.channels_last),
    ],
)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 8)])
def test_every_group_keeps_its_largest(layer: nn.Module, n: int, m: int) -> None:
    weight = layer.get_parameter("weight").detach()
    result = masked(weight, n, m)
    check_groups({"layer": result}, n, m)
    assert int((result == 0).sum()) == weight.numel() * (m - n) // m
    inputs = weight.shape[1]
    for start in range(0, inputs, m):
        before, after = (w[:, start : start + m].abs() for w in (weight, result))
        assert torch.equal(after.sum(1), before.topk(n, dim=1).values.sum(1)) or torch.allclose(
            after.sum(1), before.topk(n, dim=1).values.sum(1)
        )


def test_equal_weights_lose_exactly_as_many() -> None:
    assert int((masked(torch.ones(3, 8), 2, 4) == 0).sum()) == 12


def test_zeros_that_are_held_stay() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert n_of_m_mask(weight, weight == 0, 2, 4).tolist() == [[True, True, True, False]]


def test_layers_without_whole_groups_are_left_out() -> None:
    weights = {
        "depthwise": torch.ones(8, 1, 3, 3),
        "rgb": torch.ones(8, 3, 3, 3),
        "dense": torch.ones(2, 8),
    }
    held = {name: weight == 0 for name, weight in weights.items()}
    assert list(n_of_m_masks(weights, held, 2, 4)) == ["dense"]
    del weights["dense"]
    with pytest.raises(BuildError, match="no layer's input channels are a multiple of 4"):
        n_of_m_masks(weights, held, 2, 4)


def test_a_group_that_does_not_obey_is_found() -> None:
    weight = masked(torch.randn(4, 8), 2, 4)
    weight[3, 4:7] = 1.0
    with pytest.raises(BuildError, match=r"'w' does not obey 2:4: a group has [34] weights"):
        check_groups({"w": weight}, 2, 4)
