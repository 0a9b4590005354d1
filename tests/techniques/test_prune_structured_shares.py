"""What went is what was asked for, by no more than a step of each layer, or it is said first."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.models.base import MODELS
from edgebench.models.costs import multiply_accumulates, parameters
from edgebench.pruning import structured_plan
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic

PRUNE = TECHNIQUES.get("prune-structured")


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-structured", **options), context)


def wide() -> nn.Module:
    """Layers of 40 and of 100 channels."""
    with deterministic(1):
        return nn.Sequential(
            nn.Conv2d(1, 40, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(40, 100, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(100, 10),
        )


@pytest.mark.parametrize(
    ("of", "share"),
    [
        ("channels", "25.7% of the channels"),
        ("macs", "35.6% of the multiply-accumulates an example"),
        ("parameters", "35.6% of the parameters"),
    ],
)
def test_more_than_was_asked_for_is_said_first(context, tools, of: str, share: str) -> None:
    _, outcome = prune(tools, wide(), context(), ratio=0.1, of=of, round_to=64)
    said = f"{share} went where 10% were asked for: layers keep multiples of 64"
    assert outcome.notes[0] == said


def test_less_than_was_asked_for_is_said_first(context, tools) -> None:
    _, outcome = prune(tools, wide(), context(), ratio=0.9, round_to=32)
    said = "54.3% of the channels went where 90% were asked for: layers keep multiples of 32"
    assert outcome.notes[0] == said


def test_what_a_multiple_leaves_alone_needs_no_words(context, tools) -> None:
    _, outcome = prune(tools, wide(), context(), ratio=0.2, round_to=8)
    assert "parameters went" in outcome.notes[0]


@pytest.mark.parametrize(
    ("heads", "note"),
    [
        (0.1, "25.0% of the attention heads went where 10% were asked for: heads go whole, and "),
        (0.9, "75.0% of the attention heads went where 90% were asked for: heads go whole, and "),
        (0.5, None),
    ],
)
def test_whole_heads_are_said_first(data, context, tools, heads: float, note: str | None) -> None:
    vit = MODELS.get("vit")(data.input_shape, data.classes, dim=16, depth=2, patch=4)
    _, outcome = prune(tools, vit, context(), ratio=None, heads=heads)
    assert outcome.notes[0].startswith(note or "")
    assert any("heads went where" in text for text in outcome.notes) == (note is not None)


@pytest.mark.parametrize("of", ["channels", "macs", "parameters"])
def test_more_than_a_step_without_a_reason_is_an_error(
    context, tools, monkeypatch, of: str
) -> None:
    """A fake fault in the decision: two units more of each layer than were asked for."""
    decided = structured_plan.same_share

    def too_much(*args):
        return {name: count + 2 for name, count in decided(*args).items()}

    def far(*_: object) -> float:
        return 0.4

    if of == "channels":
        monkeypatch.setattr(structured_plan, "same_share", too_much)
    else:
        monkeypatch.setattr(structured_plan, "smallest_share", far)
    with pytest.raises(BuildError, match=r"\d% of the .* went where 20% were asked for; change"):
        prune(tools, wide(), context(), ratio=0.2, of=of)


def test_other_widths_than_were_decided_are_an_error(context, tools, monkeypatch) -> None:
    """A fake fault where channels are taken out: one less than was decided."""
    ranked = structured_plan.Plan.decide

    def decide(plan):
        units, heads = ranked(plan)
        return {**units, "0": units["0"] - 1}, heads

    monkeypatch.setattr(structured_plan.Plan, "decide", decide)
    with pytest.raises(BuildError, match="33 channels of '0' are left where 32 were to be"):
        prune(tools, wide(), context(), ratio=0.2)


@pytest.mark.parametrize(("ratio", "round_to"), [(0.4, "auto"), (0.3, 32), (0.4, None)])
def test_no_network_is_measured_twice(data, context, tools, ratio: float, round_to) -> None:
    x = torch.from_numpy(data.train_x[:1])
    whole = multiply_accumulates(wide(), x)
    seen: list[int] = []

    def measure(modules) -> list[float]:
        seen.extend(parameters(module) for module in modules)
        return [0.2 + 0.8 * multiply_accumulates(module, x) / whole for module in modules]

    used = context(latency_ratios=measure)
    prune(tools, wide(), used, ratio=ratio, of="latency", round_to=round_to)
    # The result alone is measured once more at the end.
    assert len(seen) == len(set(seen)) + 1
    assert seen[-1] in seen[:-1]


@pytest.mark.parametrize(
    ("technique", "options", "text"),
    [
        (
            "prune-structured",
            {"importance": "taylor"},
            "the data: there are no labels for the gradients of taylor; choose another importance, "
            "e.g. l2",
        ),
        (
            "prune-structured",
            {"allocation": "sensitivity"},
            "the data: there are no labels to judge each layer's sensitivity by; set allocation: "
            "global",
        ),
        (
            "prune-unstructured",
            {"allocation": "sensitivity"},
            "the data: there are no labels to judge each layer's sensitivity by; set allocation: "
            "global",
        ),
    ],
)
def test_what_needs_labels_says_what_needs_none(data, context, tools, technique, options, text):
    used = context(train_y=data.train_y[:0], classes=0)
    made = TECHNIQUES.get(technique)()
    with pytest.raises(BuildError) as caught:
        made.apply(wide(), tools.options_of(technique, ratio=0.5, **options), used)
    assert str(caught.value) == text
    # The hint leads out.
    key, value = {"taylor": ("importance", "l2")}.get(
        options.get("importance"), ("allocation", "global")
    )
    made.apply(wide(), tools.options_of(technique, ratio=0.5, **{key: value}), used)
