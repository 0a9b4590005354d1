"""Transposed convolutions are pruned like others, where that can be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic


class UpAndDown(nn.Module):
    """An autoencoder, whose middle is transposed; `groups` of its last transposed convolution."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, 2, 1), nn.ConvTranspose2d(16, 12, 2, 2)
        self.c, self.d = nn.ConvTranspose2d(12, 12, 1, groups=groups), nn.Conv2d(12, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.d(self.c(self.b(self.a(x).relu()).relu()).relu())


def made(groups: int = 1) -> nn.Module:
    with deterministic(1):
        return UpAndDown(groups)


def apply(tools, module: nn.Module, context, technique: str, **options):
    options = tools.options_of(technique, **options)
    return TECHNIQUES.get(technique)().apply(module, options, context)


@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("importance", ["l2", "group-norm", "taylor"])
def test_their_channels_go(data, context, tools, groups: int, importance: str) -> None:
    # A head, since taylor asks for classes.
    module = nn.Sequential(made(groups), nn.Flatten(), nn.Linear(64, 10))
    smaller, _ = apply(
        tools, module, context(), "prune-structured", ratio=0.5, importance=importance
    )
    b, c, d = (smaller.get_submodule(f"0.{name}") for name in "bcd")
    assert (b.in_channels, b.out_channels) == (8, 6)
    assert (c.out_channels, c.groups, d.in_channels) == (6, 1 if groups == 1 else 6, 6)
    assert tools.run_module(smaller, data.test_x).shape == (100, 10)


def test_they_can_be_chosen_and_left_out(context, tools) -> None:
    smaller, _ = apply(tools, made(), context(), "prune-structured", ratio=0.5, layers=["b"])
    assert [p.out_channels for p in smaller.children()] == [16, 6, 12, 1]
    smaller, _ = apply(tools, made(), context(), "prune-structured", ratio=0.5, exclude=["b"])
    assert [p.out_channels for p in smaller.children()] == [8, 12, 6, 1]


def test_their_weights_become_zero(context, tools) -> None:
    module, outcome = apply(
        tools, made(), context(), "prune-unstructured", ratio=0.5, allocation="layer"
    )
    assert outcome.notes == ["50.0% of the weights are zero"]
    for part in module.children():
        assert int((part.weight == 0).sum()) == part.weight.numel() // 2


def test_a_pattern_leaves_them_dense(context, tools) -> None:
    module, outcome = apply(tools, made(), context(), "prune-unstructured", pattern="2:4")
    assert outcome.notes[1].startswith("1 of 4 layers obey 2:4")
    assert outcome.notes[2:] == [
        "left dense, their input channels being no multiple of 4: a",
        "left dense, being transposed convolutions: b, c",
    ]
    assert bool((module.b.weight != 0).all())
