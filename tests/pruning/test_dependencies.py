"""What torch-pruning cannot follow is said in one line, with the layer; ties are found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from edgebench.errors import BuildError
from edgebench.pruning.budget import step_of
from edgebench.pruning.channels import Group, find_groups, remove
from edgebench.pruning.importance import importance_of, prepared
from edgebench.training.loop import deterministic

X = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def groups_of(module: nn.Module, *spared: str) -> dict[str, Group]:
    ranked = prepared("l2", module, None)
    found = find_groups(ranked, X, importance_of("l2"), lambda names: not {*spared} & {*names})
    return {group.name: group for group in found}


class Recurrent(nn.Module):
    """Convolutions, and a recurrent layer that reads the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.inner = nn.GRU(16, 12, batch_first=True)
        self.head = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x.flatten(2)[..., :4]).relu()).relu().transpose(1, 2)
        return self.head(self.inner(x)[0].mean(1))


class Product(nn.Module):
    """Each place with each other place: torch-pruning goes round in circles, and grows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1)
        self.head = nn.Linear(64 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.first(x).flatten(2), self.second(x).flatten(2)
        return self.head((first.transpose(1, 2) @ second).flatten(1))


class Two(nn.Sequential):
    """Two convolutions and a head; the first is as given."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__(first, nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(128, 10))


def grouped_transposed() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 3, groups=4), nn.Conv2d(16, 8, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


@pytest.mark.parametrize(
    ("make", "layers", "why", "others"),
    [
        (Recurrent, ["second"], "torch-pruning fails with IndexError: ", ["first"]),
        (
            Product,
            ["second", "first"],
            r"torch-pruning fails with ValueError: more than [\d,]+",
            [],
        ),
        (
            lambda: Two(parametrizations.weight_norm(nn.Conv2d(3, 16, 3))),
            ["0"],
            r"the weight of '0' is computed from other parameters \(a parametrization\)",
            ["2"],
        ),
        (grouped_transposed, ["1", "0"], "'1' is a transposed convolution with groups", ["2"]),
    ],
)
def test_what_cannot_be_followed_is_named(
    make: Callable[[], nn.Module], layers: list[str], why: str, others: list[str]
) -> None:
    module = make()
    with pytest.raises(BuildError, match=f"'{layers[0]}'.* cannot be followed: {why}") as caught:
        groups_of(module)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("leave them as they are with 'exclude'")
    # The hint leads out: what is left can be followed, and taken out.
    left = groups_of(module, *layers)
    assert list(left) == others
    remove(module, step_of(list(left.values()), dict.fromkeys(left, 1), {}), X)


def test_a_failure_while_channels_are_taken_out_is_named(monkeypatch) -> None:
    """A fake fault: where the library fails depends on its version."""
    import torch_pruning

    def fail(*_: object) -> None:
        raise KeyError("weight")

    monkeypatch.setattr(torch_pruning.dependency.Group, "prune", fail)
    with pytest.raises(BuildError, match=r"of '0' cannot be followed: .* fails with KeyError: 'we"):
        remove(Two(nn.Conv2d(3, 16, 3)), {"channels": [["0", [1]]], "attention": []}, X)


def test_a_model_that_cannot_be_copied() -> None:
    module = Two(weight_norm(nn.Conv2d(3, 16, 3)))
    with pytest.raises(BuildError, match=r"the model cannot be copied: .*; remove weight_norm and"):
        prepared("l2", module, None)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_integers_among_the_parameters(importance: str) -> None:
    module = Two(nn.Conv2d(3, 16, 3))
    module.steps = nn.Parameter(torch.arange(3), requires_grad=False)
    ranked = prepared(importance, module, (X, torch.tensor([0, 1])))
    assert len(find_groups(ranked, X, importance_of(importance), lambda _: True)) == 2
    remove(module, {"channels": [["0", [1, 2]]], "attention": []}, X)
    assert module[0].out_channels == 14


def test_an_answer_of_another_shape_names_the_layers() -> None:
    class Flat(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[3](self[2](self[1](self[0](x))))

    with pytest.raises(BuildError, match=r"answers .* \[2, 112\] .* when channels of '2' are gone"):
        remove(Flat(nn.Conv2d(3, 16, 3)), {"channels": [["2", [5]]], "attention": []}, X)


class Gated(nn.Module):
    """Halves of a layer that are multiplied with one another, or any two stretches of it."""

    def __init__(self, first: int, second: int, third: int = 0) -> None:
        super().__init__()
        self.sizes = [first, second, third]
        self.inner = nn.Conv2d(3, first + second + third, 3, padding=1)
        self.read = nn.Conv2d(first + third, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        if not self.sizes[2]:
            left, right = x.chunk(2, 1)
            x = left * right.sigmoid()
        else:
            alone, left, right = x.split(self.sizes, 1)
            x = torch.cat([alone, left * right.sigmoid()], 1)
        return self.head(self.read(x).relu().mean((2, 3)))


def test_halves_that_are_multiplied_go_together() -> None:
    with deterministic(1):
        module = Gated(16, 16)
    group = groups_of(module)["inner"]
    assert (group.channels, group.unit, group.units) == (32, 2, 16)
    gone = group.weakest(4)
    assert gone == sorted({c % 16 for c in gone} | {16 + c % 16 for c in gone})
    assert len(gone) == 8
    silenced = deepcopy(module)
    with torch.no_grad():
        silenced.inner.weight[gone] = 0.0
        silenced.inner.bias[gone] = 0.0
    remove(module, {"channels": [["inner", gone]], "attention": []}, X)
    assert (module.inner.out_channels, module.read.in_channels) == (24, 12)
    torch.testing.assert_close(module(X), silenced(X))


def test_stretches_that_are_multiplied_are_not_cut_wrongly() -> None:
    with deterministic(1):
        module = Gated(8, 16, 16)
    with pytest.raises(BuildError, match="of 'inner' cannot be followed"):
        groups_of(module)
