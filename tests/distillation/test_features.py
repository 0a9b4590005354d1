"""Which layers are found, by name and by shape, and what is read from them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from edgebench.distillation.features import (
    Course,
    Place,
    Tap,
    WatchedTeacher,
    matched_maps,
    named_pairs,
)
from edgebench.errors import BuildError
from edgebench.models.base import MODELS
from edgebench.training.losses import Batch


def course(name: str, size: int = 28, *, width: float = 0.25) -> Course:
    module = MODELS.get(name)((1, size, size), 10, width)
    return Course(module, torch.rand(2, 1, size, size), "student")


def test_the_last_map_of_each_resolution_at_which_a_convolution_works() -> None:
    found = course("lenet").maps()
    # Behind the activations; what pooling leaves is no resolution of its own.
    assert [(str(f.place), f.shape) for f in found] == [("'1'", (8, 26, 26)), ("'4'", (16, 11, 11))]
    found = course("resnet8", 32, width=1.0).maps()
    # Whole residual blocks, not the convolutions inside them.
    assert [(f.place.layer, f.shape) for f in found] == [
        ("3", (16, 32, 32)),
        ("4", (32, 16, 16)),
        ("5", (64, 8, 8)),
    ]


def test_the_penultimate_features_are_what_the_last_dense_layer_is_given() -> None:
    found = course("lenet").penultimate()
    assert (found.place, found.shape) == (Place("9", given=True), (32,))
    assert str(found.place) == "the input of '9'"
    assert course("resnet8").penultimate().shape == (16,)
    with pytest.raises(BuildError, match="student has no layer before its answer"):
        Course(nn.Sequential(nn.Flatten()), torch.rand(2, 10), "student").penultimate()


def test_maps_are_matched_by_resolution() -> None:
    small, large = course("resnet8", 32), course("resnet8", 32, width=1.0)
    pairs = matched_maps(small, large)
    assert [(a.shape[0], b.shape[0]) for a, b in pairs] == [(4, 16), (8, 32), (16, 64)]
    assert all(a.shape[1:] == b.shape[1:] for a, b in pairs)
    # LeNet's 26 and 11 pixels are nowhere in ResNet-8's 28, 14 and 7: from the last back.
    pairs = matched_maps(course("lenet"), course("resnet8"))
    assert [(a.shape[1], b.shape[1]) for a, b in pairs] == [(26, 14), (11, 7)]


def test_layers_are_named_by_the_user() -> None:
    [(ours, theirs)] = named_pairs(["2:5.first"], course("lenet"), course("resnet8"))
    assert ours.shape == (8, 13, 13)
    assert theirs.shape == (16, 7, 7)


class Twice(nn.Module):
    """Uses one activation twice, and a layer that answers with a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU()
        self.recurrent = nn.GRU(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(self.relu(self.second(self.relu(self.first(x)))))[0]


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("relu", "the layer 'relu' of the teacher works more than once a pass"),
        ("recurrent", "the layer 'recurrent' of the teacher answers with no tensor of its own"),
        ("unused", "answers with no tensor"),
        ("secnd", r"the teacher has no layer 'secnd'; did you mean 'second'\?"),
        ("qqqqqqq", "the teacher has no layer 'qqqqqqq'; it has: first, second, relu"),
    ],
)
def test_a_layer_that_cannot_be_read_is_named_in_one_line(layer: str, text: str) -> None:
    with pytest.raises(BuildError, match=text):
        Course(Twice(), torch.rand(2, 4), "teacher").named(layer)


def test_a_network_is_left_as_it_was() -> None:
    module = MODELS.get("resnet8")((1, 8, 8), 10, 0.25).train()
    before = deepcopy(module.state_dict())
    Course(module, torch.rand(2, 1, 8, 8), "student")
    tap = Tap(module, [Place("3"), Place("8", given=True)])
    tap.remove()
    assert all(part.training for part in module.modules())
    assert all(not part._forward_hooks for part in module.modules())
    assert all(torch.equal(before[key], t) for key, t in module.state_dict().items())


def test_a_tap_keeps_what_its_places_held_with_gradients() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    tap = Tap(module, [Place("2", given=True), Place("0")])
    x = torch.rand(5, 3)
    module(x)
    given, first = tap.features()
    assert torch.equal(given, first.relu())
    assert torch.equal(first, module[0](x))
    assert given.requires_grad
    # A copy, such as that of averaged weights, can be made while it is tapped.
    assert torch.equal(deepcopy(module)(x), module(x))


class InPlace(nn.Module):
    """Changes what its first layer answered."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).mul_(0.0))


def test_a_tap_keeps_what_was_there_before_it_was_changed_in_place() -> None:
    module = InPlace()
    tap = Tap(module, [Place("first")])
    x = torch.rand(5, 3)
    answers = module(x)
    [first] = tap.features()
    assert torch.equal(first, module.first(x))
    (answers.sum() + first.sum()).backward()
    assert module.first.weight.grad is not None
    assert module.first.weight.grad.abs().sum() > 0


def test_a_watched_teacher_answers_the_batch_as_it_is_shown() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    watched = WatchedTeacher(module, [Place("0")])
    x = torch.rand(5, 3)
    answers = watched(Batch((x,), torch.arange(5)))
    [features] = watched.tap.features()
    torch.testing.assert_close(features, module[0](x))
    torch.testing.assert_close(answers, module[2](features))
    assert not features.requires_grad
    assert module.training
    assert not module[0]._forward_hooks
