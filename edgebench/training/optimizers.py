"""The optimizer and the course of the learning rate that a `Training` asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from edgebench.training_settings import Training

if TYPE_CHECKING:
    import torch


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: Training
) -> torch.optim.Optimizer:
    """Torch's own optimizer of the settings' name over `parameters`."""
    import torch

    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, momentum=settings.momentum, nesterov=settings.nesterov, **common
        )
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamax": torch.optim.Adamax,
        "adamw": torch.optim.AdamW,
    }
    return kinds[settings.optimizer](parameters, **common)


def rate_factor(settings: Training, updates_an_epoch: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by in the update of a number, counted from 0.

    The last update of the warm-up, and the first one after it, are made at the full rate; a cosine
    would reach its end in the update after the last.
    """
    total = updates_an_epoch * settings.epochs
    rise = round(updates_an_epoch * settings.warmup_epochs)
    end = settings.final_learning_rate / settings.learning_rate

    def factor(update: int) -> float:
        if update < rise:
            return (update + 1) / rise
        if settings.schedule == "cosine":
            share = min(1.0, (update - rise) / max(1, total - rise))
            return end + (1 - end) * (1 + math.cos(math.pi * share)) / 2
        if settings.schedule == "multi-step":
            passed = sum(update >= m * updates_an_epoch for m in settings.milestones)
            return settings.decay**passed
        return 1.0

    return factor
