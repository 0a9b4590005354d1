"""Channels that are read in another order than they are made in are found out, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgebench.errors import BuildError
from edgebench.models.base import MODELS
from edgebench.pruning.channels import Group, find_groups
from edgebench.pruning.importance import importance_of
from edgebench.training.loop import deterministic

X = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
ORDER = r"cannot be followed: the answer depends on their order: .*\(permute, shuffle, heads\)"


def groups_of(module: nn.Module, x: torch.Tensor = X) -> dict[str, Group]:
    found = find_groups(module, x, importance_of("l2"), lambda _: True)
    return {group.name: group for group in found}


class ChannelsLast(nn.Module):
    """A dense layer that reads places first and channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x).relu().permute(0, 2, 3, 1).flatten(1))


class Shuffled(nn.Module):
    """Channels shuffled between two grouped convolutions, by torch's layer or by hand."""

    def __init__(self, *, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.first = nn.Conv2d(3, 16, 3, padding=1, groups=1)
        self.one = nn.Conv2d(16, 16, 1, groups=4)
        self.shuffle = nn.ChannelShuffle(4)
        self.other = nn.Conv2d(16, 16, 1, groups=4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(self.first(x).relu()).relu()
        if self.by_hand:
            n, c, h, w = x.shape
            x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        else:
            x = self.shuffle(x)
        return self.head(self.other(x).relu().mean((2, 3)))


class SeparateHeads(nn.Module):
    """Attention in so many heads, of whatever size is left, with a dense layer for each part."""

    def __init__(self, heads: int = 4, dim: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.rows = nn.Linear(24, dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rows(x.permute(0, 2, 1, 3).flatten(2))
        n, tokens, _ = x.shape
        q, k, v = (
            part(x).view(n, tokens, self.heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, -1)
        return self.head((x + self.out(mixed)).mean(1))


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (ChannelsLast, {"first"}),
        (lambda: Shuffled(by_hand=False), {"one"}),
        (lambda: Shuffled(by_hand=True), {"one"}),
        (SeparateHeads, {"query", "key", "value"}),
    ],
)
def test_another_order_is_refused(make: Callable[[], nn.Module], layers: set[str]) -> None:
    with deterministic(1):
        module = make()
    with pytest.raises(BuildError, match=ORDER) as caught:
        groups_of(module)
    assert all(f"'{layer}'" in str(caught.value) for layer in layers)
    assert str(caught.value).endswith("leave them as they are with 'exclude'")
    others = find_groups(module, X, importance_of("l2"), lambda names: not layers & {*names})
    assert all(not layers & {*group.layers} for group in others)


class Squeeze(nn.Module):
    """Squeeze and excitation, a gain for each channel, and statistics over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.narrow, self.wide = nn.Linear(16, 4), nn.Linear(4, 16)
        self.gain = nn.Parameter(torch.rand(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu() * self.gain.view(1, -1, 1, 1)
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1.0)
        x = x * self.wide(self.narrow(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return self.head(x.mean((2, 3)))


class LastNormalised(nn.Module):
    """A block of ConvNeXt: depthwise, then normalised and dense with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.hidden, self.out = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        inner = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        inner = self.out(F.gelu(self.hidden(inner))).permute(0, 3, 1, 2)
        return self.head((x + inner).mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(24, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.rows(x.permute(0, 2, 1, 3).flatten(2))).mean(1))


class Answers(nn.Module):
    """Two answers, one of them with its channels last; and a path up and down again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2)
        self.norm = nn.GroupNorm(3, 12)
        self.boxes, self.kinds = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 10, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(self.up(self.first(x).relu())).relu()
        return self.boxes(x).permute(0, 2, 3, 1).reshape(len(x), -1, 2), self.kinds(x).flatten(2)


class Masked(nn.Module):
    """Answers that are no plain numbers: scores of minus infinity, and truth values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.head(self.first(x).relu().mean((2, 3)))
        weak = scores < scores.mean(1, keepdim=True)
        return scores.masked_fill(weak, -torch.inf), weak


def named(name: str, **options: float) -> Callable[[], nn.Module]:
    return lambda: MODELS.get(name)((3, 8, 8), 10, **options)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (named("lenet", width=0.25), 3),
        (named("resnet8", width=0.5), 6),
        (named("mobilenetv1", width=0.125), 15),
        (named("vit", dim=16, depth=2, patch=4), 5),
        (named("dscnn", width=0.25), 7),
        (named("convnet"), 4),
        (Squeeze, 2),
        (LastNormalised, 2),
        (Encoder, 3),
        (Answers, 2),
        (Masked, 1),
        # A single head may be thinner: only the scale of its products changes.
        (lambda: SeparateHeads(heads=1), 2),
    ],
)
def test_the_same_order_is_not_refused(make: Callable[[], nn.Module], count: int) -> None:
    with deterministic(1):
        module = make()
        for parameter in module.parameters():
            # Biases and normalisation that tell one channel from another.
            if parameter.dim() == 1:
                nn.init.uniform_(parameter, 0.1, 1.0)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    assert len(groups_of(module)) == count
    # It looked, and left no trace.
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]), name
    hooks = [{**part._forward_hooks, **part._forward_pre_hooks} for part in module.modules()]
    assert not any(hooks)
