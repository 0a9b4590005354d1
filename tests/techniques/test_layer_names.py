"""Names of layers mean the same in every technique that takes some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic

OPTIONS: dict[str, dict[str, Any]] = {
    "prune-unstructured": {"ratio": 0.5, "allocation": "layer"},
    "prune-structured": {"ratio": 0.5},
    "low-rank": {"energy": 0.5},
}
LAYERS = (nn.Conv2d, nn.Linear)
pytestmark = pytest.mark.parametrize("technique", OPTIONS)


class Network(nn.Module):
    """A layer, a block of two under two names, and a head; all but the head have numbers."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.add_module("0", nn.Conv2d(1, 16, 3, padding=1))
        self.add_module("1", block)
        self.add_module("again", block)
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.get_submodule("0")
        return self.head(self.again(first(x).relu()).relu().flatten(1))


def changed(tools, context, technique: str, **names: Any) -> set[str]:
    """The layers that a technique makes sparse, narrower or a chain, given such names."""
    with deterministic(1):
        module = Network()
    before = {n: len(part.weight) for n, part in module.named_modules() if isinstance(part, LAYERS)}
    options = tools.options_of(technique, **OPTIONS[technique], **names)
    after, _ = TECHNIQUES.get(technique)().apply(module, options, context)
    now = {name: after.get_submodule(name) for name in before}
    return {
        name
        for name, part in now.items()
        if not isinstance(part, LAYERS)
        or len(part.weight) < before[name]
        or bool((part.weight == 0).any())
    }


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"layers": ["1"]}, {"1.0", "1.2"}),
        ({"layers": [1]}, {"1.0", "1.2"}),
        ({"layers": ["again"]}, {"1.0", "1.2"}),
        ({"layers": ["again.2", 0]}, {"0", "1.2"}),
        ({"layers": [1], "exclude": ["1.0"]}, {"1.2"}),
        ({"exclude": ["again", "head"]}, {"0"}),
    ],
)
def test_layers_blocks_numbers_and_second_names(
    context, tools, technique: str, names: dict[str, Any], wanted: set[str]
) -> None:
    # A matrix of one input channel has no lower rank.
    assert changed(tools, context(), technique, **names) - {"0"} == wanted - {"0"}
    assert technique == "low-rank" or changed(tools, context(), technique, **names) == wanted


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"layers": ["1.3"]}, "the model has no layer '1.3'; did you mean '1"),
        ({"exclude": ["heat"]}, "the model has no layer 'heat'; did you mean 'head'?"),
        ({"layers": ["zzz"]}, "the model has no layer 'zzz'; layers: '0', '1.0', "),
        ({"exclude": ["1.1"]}, "'1.1' (ReLU) is no convolution or dense layer, and has none"),
    ],
)
def test_names_of_nothing(context, tools, technique: str, names: dict[str, Any], text: str) -> None:
    with pytest.raises(BuildError) as caught:
        changed(tools, context(), technique, **names)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"layers": ["1", "head"], "exclude": ["head"]}, "'head' is in layers and in exclude"),
        ({"layers": [0], "exclude": ["0"]}, "'0' is in layers and in exclude"),
        ({"layers": [3.1]}, "write the name 3.1 in quotes: YAML reads a number"),
        ({"layers": []}, "at least 1 item"),
        ({"exclude": [True]}, "valid string"),
    ],
)
def test_names_that_make_no_sense(tools, technique: str, names: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tools.options_of(technique, **OPTIONS[technique], **names)
