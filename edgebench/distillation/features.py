"""What a network computes on the way to its answer: where, of which shape, and how to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgebench.errors import BuildError, nearest
from edgebench.training.losses import Batch, as_logits


@dataclass(frozen=True)
class Place:
    """What the layer of this name answers, or (`given`) what it is given."""

    layer: str
    given: bool = False

    def __str__(self) -> str:
        return f"the input of '{self.layer}'" if self.given else f"'{self.layer}'"


@dataclass(frozen=True)
class Feature:
    """A tensor that a network computes on the way: where, and its shape without the examples."""

    place: Place
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """One layer at work: what it was given and what it answered, without the examples."""

    layer: str
    kind: type[nn.Module]
    given: tuple[int, ...]
    answered: tuple[int, ...]


class Course:
    """The layers of a network in the order in which they finish, on one example batch.

    Layers that work more than once in a pass are left out: no name tells their answers apart.
    """

    def __init__(self, module: nn.Module, example: torch.Tensor, noun: str) -> None:
        self.noun = noun
        self.names = [name for name, _ in module.named_modules() if name]
        seen = _watch(module, example)
        times = Counter(one.layer for one in seen)
        self.repeated = {name for name, count in times.items() if count > 1}
        self.seen = [one for one in seen if one.layer not in self.repeated]

    def maps(self) -> list[Feature]:
        """The last feature map [C, H, W] of each resolution at which a convolution works."""
        convolved = {
            one.answered[1:]
            for one in self.seen
            if issubclass(one.kind, nn.Conv2d) and len(one.answered) == 3
        }
        last: dict[tuple[int, ...], Feature] = {}
        for one in self.seen:
            size = one.answered[1:]
            if len(one.answered) == 3 and size in convolved and size != (1, 1):
                last[size] = Feature(Place(one.layer), one.answered)
        return list(last.values())

    def penultimate(self) -> Feature:
        """What the last dense layer or convolution is given."""
        weighted = [one for one in self.seen if issubclass(one.kind, (nn.Linear, nn.Conv2d))]
        if not weighted:
            raise BuildError(
                f"the {self.noun} has no layer before its answer that could be found",
                hint="name one with 'layers'",
            )
        return Feature(Place(weighted[-1].layer, given=True), weighted[-1].given)

    def named(self, layer: str) -> Feature:
        """What the layer of a name answers; raises BuildError where there is none."""
        for one in self.seen:
            if one.layer == layer:
                return Feature(Place(layer), one.answered)
        if layer in self.repeated:
            raise BuildError(f"the layer '{layer}' of the {self.noun} works more than once a pass")
        if layer in self.names:
            raise BuildError(
                f"the layer '{layer}' of the {self.noun} answers with no tensor of its own"
            )
        near = nearest(layer, self.names)
        hint = f"did you mean '{near}'?" if near else f"it has: {', '.join(self.names[:12])}"
        raise BuildError(f"the {self.noun} has no layer '{layer}'", hint=hint)


def _watch(module: nn.Module, example: torch.Tensor) -> list[Seen]:
    seen: list[Seen] = []

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, given: Any, answer: Any) -> None:
            if isinstance(answer, torch.Tensor):
                first = next((g for g in given if isinstance(g, torch.Tensor)), answer)
                seen.append(
                    Seen(name, type(layer), tuple(first.shape[1:]), tuple(answer.shape[1:]))
                )

        return layer.register_forward_hook(note)

    was_training = module.training
    handles = [watch(name, layer) for name, layer in module.named_modules() if name]
    try:
        module.eval()
        with torch.no_grad():
            module(example)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return seen


def matched_maps(student: Course, teacher: Course) -> list[tuple[Feature, Feature]]:
    """Feature maps of the same resolution; where there are none, one by one from the last back."""
    ours, theirs = student.maps(), teacher.maps()
    same = [(a, b) for a in ours for b in theirs if a.shape[1:] == b.shape[1:]]
    return same or list(zip(ours[::-1], theirs[::-1], strict=False))[::-1]


def named_pairs(
    pairs: Sequence[str], student: Course, teacher: Course
) -> list[tuple[Feature, Feature]]:
    """The features of "student_layer:teacher_layer" texts."""
    parted = [pair.partition(":") for pair in pairs]
    return [(student.named(ours), teacher.named(theirs)) for ours, _, theirs in parted]


class Tap:
    """Keeps what a network's places held in its last pass, until it is removed."""

    def __init__(self, module: nn.Module, places: Sequence[Place]) -> None:
        self.places = list(places)
        self._held: dict[Place, torch.Tensor] = {}
        self._handles = [_tap(module, place, self._held) for place in set(places)]

    def features(self) -> list[torch.Tensor]:
        """The tensors [B, ...] in the order of the places, in float32."""
        return [self._held[place].float() for place in self.places]

    def remove(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        self._held.clear()


def _tap(
    module: nn.Module, place: Place, held: dict[Place, torch.Tensor]
) -> torch.utils.hooks.RemovableHandle:
    # Functions, not methods: a copy of the module (averaged weights) then shares them as they are.
    def keep(_: nn.Module, given: Any, answer: Any) -> None:
        # What comes next may change the tensor in place.
        held[place] = (given[0] if place.given else answer).clone()

    return module.get_submodule(place.layer).register_forward_hook(keep)


class WatchedTeacher:
    """A network that teaches by its answers and by what it computes on the way to them.

    It is a copy in evaluation mode, asked for every batch as the student sees it, in float32.
    """

    def __init__(
        self, network: nn.Module, places: Sequence[Place], *, probabilities: bool = False
    ) -> None:
        self.network = deepcopy(network).eval()
        self.tap = Tap(self.network, places)
        self.probabilities = probabilities

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The logits [B, C]; the features are the tap's until the next batch."""
        device = batch.inputs[0].device
        self.network.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return as_logits(self.network(*batch.inputs), self.probabilities)
