"""What can only go together goes together, and what cannot be followed is said."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.budget import step_of
from edgebench.pruning.channels import Group, find_groups, remove
from edgebench.pruning.dependencies import UnfollowedError
from edgebench.pruning.heads import built_in_attentions
from edgebench.pruning.importance import importance_of

X = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A convolution, and its answer added to that of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.head((x + self.second(x.relu())).relu().mean((2, 3)))


def grouped() -> nn.Module:
    """A grouped and a depthwise convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )


class Concatenated(nn.Module):
    """Two convolutions side by side, read by one with so many groups."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 8, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 3, padding=1)
        self.both = nn.Conv2d(12, 12, 3, groups=groups)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1).relu()
        return self.head(self.both(x).relu().mean((2, 3)))


class Attention(nn.Module):
    """Self-attention that takes its three parts out of `qkv` in one of several ways."""

    def __init__(self, dim: int, heads: int, how: str) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.how = heads, dim // heads, how
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        shape = (batch, tokens, self.num_heads, self.head_dim)
        if self.how == "chunk":
            parts = [p.reshape(shape).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1)]
        elif self.how == "heads first":
            split = self.qkv(x).reshape(batch, tokens, self.num_heads, 3, self.head_dim)
            parts = split.permute(3, 0, 2, 1, 4).unbind(0)
        else:
            split = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
            split = split.permute(2, 0, 3, 1, 4)
            parts = split.unbind(0) if self.how == "unbind" else [split[0], split[1], split[2]]
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class BuiltIn(nn.Module):
    """torch's own attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Transformer(nn.Module):
    """One block over 16 patches of an 8×8 image; `how` as of Attention, or "built-in"."""

    def __init__(self, how: str = "index", dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, 2, 2)
        self.positions = nn.Parameter(torch.randn(1, 16, dim))
        self.norm = nn.LayerNorm(dim)
        self.attention = BuiltIn(dim, heads) if how == "built-in" else Attention(dim, heads, how)
        self.hidden = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(2 * dim, dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = x + self.attention(self.norm(x))
        x = x + self.out(self.hidden(x).relu())
        return self.head(x.mean(1))


def groups_of(module: nn.Module, **options: Any) -> dict[str, Group]:
    wanted = options.get("wanted", lambda _: True)
    importance = importance_of(options.get("importance", "l2"))
    return {g.name: g for g in find_groups(deepcopy(module), X[:2], importance, wanted)}


def pruned(module: nn.Module, units: dict[str, int], heads: dict[str, int]) -> nn.Module:
    """A copy with so much taken out, by a step that went through JSON as records do."""
    step = step_of(list(groups_of(module).values()), units, heads)
    copy = deepcopy(module)
    remove(copy, json.loads(json.dumps(step)), X[:2])
    return copy


def answers(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(X)


def silence(layer: Any, channels: list[int]) -> None:
    """Make a layer's channels zero, whatever goes in."""
    with torch.no_grad():
        layer.weight[channels] = 0.0
        layer.bias[channels] = 0.0


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {n: list(p.shape) for n, p in module.named_parameters() if n.endswith("weight")}


def test_layers_that_are_added_lose_the_same_channels() -> None:
    module = Residual()
    (group,) = groups_of(module).values()
    assert set(group.layers) == {"first", "second"}
    assert (group.channels, group.unit) == (8, 1)
    gone = group.weakest(3)
    silenced = deepcopy(module)
    silence(silenced.first, gone)
    silence(silenced.second, gone)
    smaller = pruned(module, {group.name: 3}, {})
    assert shapes(smaller) == {
        "first.weight": [5, 1, 3, 3],
        "second.weight": [5, 5, 3, 3],
        "head.weight": [10, 5],
    }
    torch.testing.assert_close(answers(smaller), answers(silenced))


def test_grouped_convolutions_lose_one_channel_of_each_group() -> None:
    module = grouped()
    first, second = groups_of(module).values()
    assert (first.channels, first.unit, first.units) == (12, 4, 3)
    assert (second.channels, second.unit, second.units) == (8, 4, 2)
    # The depthwise convolution goes with what it reads.
    assert set(second.layers) == {"2", "4"}
    gone = first.weakest(1)
    assert len(gone) == 4
    assert [c // 3 for c in gone] == [0, 1, 2, 3]
    assert len({c % 3 for c in gone}) == 1
    silenced = deepcopy(module)
    silence(silenced[0], gone)
    # The depthwise convolution makes something of nothing, but for its weights.
    silence(silenced[2], second.weakest(1))
    silence(silenced[4], second.weakest(1))
    smaller = pruned(module, {first.name: 1, second.name: 1}, {})
    assert (smaller[0].out_channels, smaller[2].groups, smaller[4].groups) == (8, 4, 4)
    torch.testing.assert_close(answers(smaller), answers(silenced))


def test_side_by_side_layers_go_each_by_itself() -> None:
    module = Concatenated()
    groups = groups_of(module)
    assert {name: g.channels for name, g in groups.items()} == {"left": 8, "right": 4, "both": 12}
    silenced = deepcopy(module)
    for name in ("left", "right"):
        silence(silenced.get_submodule(name), groups[name].weakest(2))
    smaller = pruned(module, {"left": 2, "right": 2}, {})
    assert smaller.both.in_channels == 8
    torch.testing.assert_close(answers(smaller), answers(silenced))


def test_groups_that_start_elsewhere_are_not_cut_wrongly() -> None:
    """Half of the reader's groups lies in one layer: an even part of it is an odd part of them."""
    with pytest.raises(
        UnfollowedError, match="'both' parts them at other places; leave them as"
    ) as e:
        groups_of(Concatenated(groups=2))
    assert set(e.value.layers) <= {"left", "right"}
    kept = groups_of(
        Concatenated(groups=2), wanted=lambda layers: not {"left", "right"} & set(layers)
    )
    assert list(kept) == ["both"]


@pytest.mark.parametrize("how", ["unbind", "index", "chunk"])
def test_a_head_goes_as_if_nobody_listened_to_it(how: str) -> None:
    module = Transformer(how)
    group = groups_of(module)["attention.qkv"]
    assert group.attention is not None
    assert (group.attention.projection, group.attention.heads) == ("attention.proj", 4)
    assert group.head_scores().shape == (4,)
    smaller = pruned(module, {}, {group.name: 2})
    inner = smaller.attention
    assert (inner.num_heads, inner.head_dim) == (2, 3)
    assert (inner.qkv.out_features, inner.proj.in_features, inner.proj.out_features) == (18, 6, 12)
    weakest = group.head_scores().argsort()[:2].tolist()
    unheard = deepcopy(module)
    with torch.no_grad():
        for head in weakest:
            unheard.attention.proj.weight[:, head * 3 : head * 3 + 3] = 0.0
    torch.testing.assert_close(answers(smaller), answers(unheard))


@pytest.mark.parametrize("how", ["unbind", "index", "chunk"])
def test_heads_get_thinner_alike(how: str) -> None:
    module = Transformer(how)
    group = groups_of(module)["attention.qkv"]
    assert (group.channels, group.unit) == (12, 4)
    (place,) = {c % 3 for c in group.weakest(1)}
    smaller = pruned(module, {group.name: 1}, {})
    assert (smaller.attention.num_heads, smaller.attention.head_dim) == (4, 2)
    # Head by head, of queries, keys and values alike.
    kept = [i for i in range(36) if i % 3 != place]
    wanted = module.attention.qkv.weight[kept]
    assert torch.equal(smaller.attention.qkv.weight, wanted)
    assert answers(smaller).shape == (4, 10)


@pytest.mark.parametrize("how", ["index", "built-in"])
def test_the_embedding_goes_everywhere_at_once(how: str) -> None:
    module = Transformer(how)
    group = next(g for g in groups_of(module).values() if "patches" in g.layers)
    # torch's own attention parts the embedding into heads: the same place goes from each.
    assert group.unit == (4 if how == "built-in" else 1)
    smaller = pruned(module, {group.name: 4 // group.unit}, {})
    assert smaller.positions.shape == (1, 16, 8)
    assert (smaller.norm.normalized_shape, smaller.head.in_features) == ((8,), 8)
    assert answers(smaller).shape == (4, 10)


def test_built_in_attention_keeps_its_heads() -> None:
    module = Transformer("built-in")
    assert built_in_attentions(module) == ["attention.inner"]
    assert not any(group.attention for group in groups_of(module).values())


def test_a_qkv_layer_laid_out_otherwise_is_not_cut_wrongly() -> None:
    with pytest.raises(UnfollowedError, match=r"'attention.qkv'.*as \[3, num_heads, head_dim\]"):
        groups_of(Transformer("heads first"))


def test_the_layers_of_the_answer_keep_their_channels() -> None:
    class TwoAnswers(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(8, 10, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            pooled = self.other(x).mean((2, 3))
            return self.head((x + self.second(x)).mean((2, 3))).softmax(1) + pooled

    (group,) = groups_of(TwoAnswers()).values()
    assert set(group.layers) == {"first", "second"}


def test_a_fixed_size_is_named_with_its_line() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x = x.view(2, 8, 64)
            return self.head(x.mean(1))

    module = nn.Sequential(Fixed())
    with pytest.raises(BuildError) as caught:
        remove(module, {"channels": [["0.first", [1, 2]]], "attention": []}, X[:2])
    line = str(caught.value)
    assert "with fewer channels the model fails in '0' at `x = x.view(2, 8, 64)`: " in line
    assert line.endswith(
        "take sizes from the tensors' shapes, or name the layers before it in 'exclude'"
    )
    assert "\n" not in line


def test_a_layer_behind_a_broken_gradient_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(1, 8, 3)
            self.second = nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x).detach()).mean((2, 3)))

    with pytest.raises(UnfollowedError, match=r"of 'first' cannot be followed: .*\(detach, argmax"):
        groups_of(Detached())
    assert list(groups_of(Detached(), wanted=lambda layers: "first" not in layers)) == ["second"]


def test_a_module_that_takes_two_inputs_is_not_fed_two_examples() -> None:
    """torch-pruning would take a batch of two for two arguments."""

    class Optional(Residual):
        def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
            assert scale is None
            return super().forward(x)

    assert len(groups_of(Optional())) == 1


def test_frozen_weights_stay_frozen() -> None:
    module = Residual()
    module.first.requires_grad_(False)
    (name,) = groups_of(module)
    smaller = pruned(module, {name: 2}, {})
    assert smaller.first.out_channels == 6
    assert not smaller.first.weight.requires_grad
    assert smaller.second.weight.requires_grad


def test_the_last_channel_stays() -> None:
    with pytest.raises(BuildError, match="no channel would be left where 'second' is used"):
        remove(Residual(), {"channels": [["second", list(range(8))]], "attention": []}, X[:2])
