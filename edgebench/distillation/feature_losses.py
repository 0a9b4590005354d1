"""Losses that compare what student and teacher compute on the way: hints, and attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from edgebench.distillation.features import Feature
from edgebench.errors import BuildError
from edgebench.training.losses import Batch

Pairs = Sequence[tuple[Feature, Feature]]


class HintLoss(nn.Module):
    """The mean squared error between a regressor of the student's features and the teacher's.

    The regressor is a 1×1 convolution for feature maps [B, C, H, W] and a dense layer for others
    [B, ..., C], trained along; errors are averaged over all elements, and summed over the pairs.
    Maps of different size are pooled to the smaller. Source: Romero et al., "FitNets: Hints for
    Thin Deep Nets", 2015, here in one stage, beside the loss on the answers.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.regressors = nn.ModuleList(_regressor(ours, theirs) for ours, theirs in pairs)

    def forward(
        self, student: list[torch.Tensor], teacher: list[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """The loss of the features [B, ...] of a batch."""
        del batch
        total = student[0].new_zeros(())
        for regressor, *pair in zip(self.regressors, student, teacher, strict=True):
            ours, theirs = same_size(*pair)
            total = total + F.mse_loss(regressor(ours), theirs)
        return total


class AttentionLoss(nn.Module):
    """The mean squared distance between the attention maps of student and teacher.

    A map is the mean of the squared features over the channels, flattened and divided by its L2
    norm; squares are averaged over places and batch, and summed over the pairs. Maps of different
    size are pooled to the smaller first. Source: Zagoruyko and Komodakis, "Paying More Attention to
    Attention", 2017, as their program computes it.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        for feature in (feature for pair in pairs for feature in pair):
            if len(feature.shape) != 3:
                raise BuildError(
                    f"attention transfer compares feature maps [C, H, W]; {feature.place} has the "
                    f"shape {list(feature.shape)}",
                    hint="name other layers with attention.layers",
                )

    def forward(
        self, student: list[torch.Tensor], teacher: list[torch.Tensor], batch: Batch
    ) -> torch.Tensor:
        """The loss of the feature maps [B, C, H, W] of a batch."""
        del batch
        total = student[0].new_zeros(())
        for pair in zip(student, teacher, strict=True):
            ours, theirs = same_size(*pair)
            total = total + (attention(ours) - attention(theirs)).square().mean()
        return total


def attention(features: torch.Tensor) -> torch.Tensor:
    """Where feature maps [B, C, H, W] are large: [B, H·W], each row of length 1."""
    return F.normalize(features.square().mean(1).flatten(1))


def same_size(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps [B, C, H, W], the larger one averaged over the other's places."""
    if student.dim() == teacher.dim() == 4:
        height, width = (min(student.shape[i], teacher.shape[i]) for i in (2, 3))
        student, teacher = (
            m if m.shape[2:] == (height, width) else F.adaptive_avg_pool2d(m, (height, width))
            for m in (student, teacher)
        )
    return student, teacher


def _regressor(student: Feature, teacher: Feature) -> nn.Module:
    ours, theirs = student.shape, teacher.shape
    if len(ours) == len(theirs) == 3:
        return nn.Conv2d(ours[0], theirs[0], 1)
    if len(ours) != len(theirs) or not ours or ours[:-1] != theirs[:-1]:
        raise BuildError(
            f"a hint cannot lead from {student.place} of the student, {list(ours)}, to "
            f"{teacher.place} of the teacher, {list(theirs)}",
            hint="name layers of alike shapes with hints.layers",
        )
    return nn.Linear(ours[-1], theirs[-1])
