"""What a module costs, against numbers worked out by hand."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from edgebench.models.base import MODELS
from edgebench.models.costs import costs, multiply_accumulates, parameters


class OneAttention(nn.Module):
    """Attention over 5 tokens of 8 channels in 2 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(-1, 5, 8))


def test_multiply_accumulates_are_what_a_hand_counts() -> None:
    grouped = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AvgPool2d(2),
    )
    assert multiply_accumulates(grouped, torch.rand(1, 4, 6, 6)) == 36 * 9 * (8 * 2 + 8)
    dense = 5 * 8 * 24 + 5 * 8 * 8
    products = 2 * 2 * 5 * 5 * 4
    assert multiply_accumulates(OneAttention(), torch.rand(1, 5, 8)) == dense + products
    built_in = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert multiply_accumulates(built_in, torch.rand(1, 5, 8)) == dense + products + 5 * 2 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_costs_of_lenet_on_mnist() -> None:
    module = MODELS.get("lenet")((1, 28, 28), 10)
    assert parameters(module) == 225_034
    wanted = 26 * 26 * 32 * 9 + 11 * 11 * 64 * 32 * 9 + 1600 * 128 + 1280
    assert multiply_accumulates(module, torch.rand(1, 1, 28, 28)) == wanted


def test_transposed_convolutions_are_counted_for_one_example() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 12, 2, 2))
    assert costs(module, torch.rand(2, 3, 8, 8)) == {
        "parameters": 3 * 16 * 9 + 16 + 16 * 12 * 4 + 12,
        "macs": 16 * (16 * 27 + 16 * 12 * 4),
    }
