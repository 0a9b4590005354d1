"""Optimizers and learning rates, against torch's own and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from edgebench.training.loop import fit
from edgebench.training.optimizers import make_optimizer, rate_factor
from edgebench.training_settings import Training


def rates(settings: Training, updates_an_epoch: int) -> list[float]:
    """The learning rate of every update."""
    factor = rate_factor(settings, updates_an_epoch)
    return [
        settings.learning_rate * factor(update)
        for update in range(updates_an_epoch * settings.epochs)
    ]


def of_torch(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], rate: float, updates: int
) -> list[float]:
    """The learning rates along a schedule of torch's."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = make(optimizer)
    seen = []
    for _ in range(updates):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("end", [0.0, 0.02])
def test_cosine_is_torchs(end: float) -> None:
    settings = Training(epochs=5, learning_rate=0.3, final_learning_rate=end)
    expected = of_torch(
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 35, eta_min=end), 0.3, 35
    )
    assert rates(settings, 7) == pytest.approx(expected, abs=1e-12)


def test_multi_step_is_torchs() -> None:
    settings = Training(
        epochs=6, learning_rate=0.1, schedule="multi-step", milestones=[2, 5], decay=0.3
    )
    expected = of_torch(
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2 * 7, 5 * 7], gamma=0.3), 0.1, 42
    )
    found = rates(settings, 7)
    assert found == pytest.approx(expected)
    # The last update of the second epoch, and the first of the third.
    assert found[13:15] == pytest.approx([0.1, 0.03])
    assert found[-1] == pytest.approx(0.009)


def test_constant_is_constant() -> None:
    settings = Training(epochs=3, learning_rate=0.02, schedule="constant")
    assert rates(settings, 4) == [0.02] * 12


def test_warm_up_and_cosine_by_hand() -> None:
    settings = Training(epochs=2, learning_rate=1.0, warmup_epochs=1)
    fall = [(1 + math.cos(math.pi * share)) / 2 for share in (0, 0.25, 0.5, 0.75)]
    assert fall[2] == pytest.approx(0.5)
    assert rates(settings, 4) == pytest.approx([0.25, 0.5, 0.75, 1.0, *fall])


def test_warm_up_of_part_of_an_epoch() -> None:
    settings = Training(epochs=2, learning_rate=0.6, warmup_epochs=0.75, schedule="constant")
    assert rates(settings, 4) == pytest.approx([0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6])


def test_warm_up_before_milestones_counts_among_their_epochs() -> None:
    settings = Training(
        epochs=3,
        learning_rate=1.0,
        warmup_epochs=1,
        schedule="multi-step",
        milestones=[2],
        decay=0.1,
    )
    assert rates(settings, 2) == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.1, 0.1])


def test_warm_up_may_last_for_all_epochs() -> None:
    settings = Training(epochs=1, learning_rate=1.0, warmup_epochs=1)
    assert rates(settings, 4) == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    "course",
    [
        {},
        {"warmup_epochs": 1.5, "final_learning_rate": 0.01},
        {"schedule": "multi-step", "milestones": [1, 3], "decay": 0.5},
        {"schedule": "constant"},
    ],
)
@pytest.mark.parametrize("examples", [8, 9])
def test_every_update_is_made_at_its_rate(course: dict[str, Any], examples: int) -> None:
    settings = Training(
        epochs=4, batch_size=4, optimizer="sgd", momentum=0.0, learning_rate=0.1, **course
    )
    module = nn.Linear(1, 1, bias=False)
    seen = [module.weight.item()]
    # The mean answer to ones has the gradient one: the weight falls by the learning rate.
    fit(
        module,
        torch.ones(examples, 1),
        lambda answer, batch: answer.mean(),
        settings,
        seed=0,
        what="base",
        on_update=lambda *_: seen.append(module.weight.item()),
    )
    steps = [before - after for before, after in pairwise(seen)]
    # Of nine examples one is left over, and makes no update of its own.
    assert steps == pytest.approx(rates(settings, 2), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "torchs"),
    [
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.2)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.2)),
        ({"optimizer": "adamax"}, lambda p: torch.optim.Adamax(p, 0.1, weight_decay=0.2)),
        (
            {"optimizer": "sgd", "momentum": 0.8},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.2),
        ),
        (
            {"optimizer": "sgd", "momentum": 0.8, "nesterov": True},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.2, nesterov=True),
        ),
    ],
)
def test_each_optimizer_is_torchs(changes: dict[str, Any], torchs: Any) -> None:
    settings = Training(learning_rate=0.1, weight_decay=0.2, **changes)
    ends = []
    for make in (lambda p: make_optimizer(p, settings), torchs):
        weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        optimizer = make([weight])
        for _ in range(5):
            optimizer.zero_grad()
            (weight**4).sum().backward()
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def first_step(weight: float = 1.0, gradient: float = 2.0, **changes: Any) -> float:
    """Where one update at the rate .1 takes a weight."""
    parameter = nn.Parameter(torch.tensor([weight]))
    optimizer = make_optimizer([parameter], Training(learning_rate=0.1, **changes))
    parameter.grad = torch.tensor([gradient])
    optimizer.step()
    return parameter.item()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # The first step of Adam's family is the rate, whatever the size of the gradient.
        ({"optimizer": "adam"}, 0.9),
        ({"optimizer": "adamax"}, 0.9),
        # Decoupled: 1 · (1 − .1 · .5) before the same step.
        ({"optimizer": "adamw", "weight_decay": 0.5}, 0.85),
        # With the decay in the gradient: 1 − .1 · (2 + .5).
        ({"optimizer": "sgd", "weight_decay": 0.5}, 0.75),
        # Nesterov looks ahead: 1 − .1 · (2 + .9 · 2).
        ({"optimizer": "sgd", "nesterov": True}, 0.62),
    ],
)
def test_first_steps_by_hand(changes: dict[str, Any], expected: float) -> None:
    assert first_step(**changes) == pytest.approx(expected, abs=1e-6)
