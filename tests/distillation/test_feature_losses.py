"""Hints and attention transfer, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgebench.distillation.feature_losses import AttentionLoss, HintLoss, attention, same_size
from edgebench.distillation.features import Feature, Place
from edgebench.errors import BuildError
from edgebench.training.losses import Batch

BATCH = Batch((torch.zeros(2, 1),), torch.arange(2))


def feature(*shape: int) -> Feature:
    return Feature(Place("layer"), shape)


def test_a_hint_is_the_mean_squared_error_behind_the_regressor() -> None:
    loss = HintLoss([(feature(2, 3, 3), feature(4, 3, 3))])
    [regressor] = loss.regressors
    assert isinstance(regressor, nn.Conv2d)
    assert regressor.weight.shape == (4, 2, 1, 1)
    nn.init.constant_(regressor.weight, 0.5)
    nn.init.zeros_(regressor.bias)
    # 0.5·1 + 0.5·1 = 1 everywhere, against 3: a square of 4.
    value = loss([torch.ones(2, 2, 3, 3)], [torch.full((2, 4, 3, 3), 3.0)], BATCH)
    assert float(value.detach()) == pytest.approx(4.0)
    value.backward()
    assert regressor.weight.grad is not None


def test_hints_between_vectors_and_tokens_have_a_dense_regressor() -> None:
    loss = HintLoss([(feature(5), feature(7)), (feature(9, 5), feature(9, 7))])
    assert all(isinstance(regressor, nn.Linear) for regressor in loss.regressors)
    value = loss(
        [torch.rand(2, 5), torch.rand(2, 9, 5)], [torch.rand(2, 7), torch.rand(2, 9, 7)], BATCH
    )
    assert value.shape == ()


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3, 3), (7,)), ((9, 5), (4, 7)), ((5,), (9, 7))]
)
def test_hints_between_unlike_shapes_are_refused(student, teacher) -> None:
    with pytest.raises(BuildError, match=r"a hint cannot lead from 'layer' .*hints\.layers"):
        HintLoss([(feature(*student), feature(*teacher))])


def test_the_larger_map_is_averaged_over_the_places_of_the_smaller() -> None:
    large = torch.arange(16.0).view(1, 1, 4, 4)
    small = torch.zeros(1, 3, 2, 2)
    for ours, theirs in (same_size(large, small), same_size(small, large)[::-1]):
        assert ours.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
        assert theirs is small


def test_attention_is_the_mean_square_over_channels_of_length_one() -> None:
    maps = torch.tensor([[[[3.0, 0.0]], [[1.0, 2.0]]]])
    # (9 + 1)/2 = 5 and (0 + 4)/2 = 2.
    length = math.sqrt(29)
    torch.testing.assert_close(attention(maps), torch.tensor([[5 / length, 2 / length]]))
    torch.testing.assert_close(attention(10 * maps), attention(maps))


def test_attention_transfer_by_hand() -> None:
    loss = AttentionLoss([(feature(1, 1, 2), feature(2, 1, 2))])
    student = torch.tensor([[[[1.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 2.0]], [[0.0, 5.0]]]])
    # (1, 0) against (0, 1): squares of one each.
    assert float(loss([student], [teacher], BATCH)) == pytest.approx(1.0)
    assert float(loss([student], [student], BATCH)) == 0
    assert not list(loss.parameters())
    with pytest.raises(BuildError, match=r"compares feature maps.*has the shape \[7\]"):
        AttentionLoss([(feature(7), feature(2, 1, 2))])
