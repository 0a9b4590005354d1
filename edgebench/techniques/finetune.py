"""Training on after a technique: its options, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from edgebench.errors import BuildError
from edgebench.techniques.base import Context, Options
from edgebench.training.loop import fit, predict
from edgebench.training.losses import as_logits, cross_entropy, distillation

if TYPE_CHECKING:
    from torch import nn


class Finetune(Options):
    """How to train on."""

    epochs: int = Field(5, ge=1, le=10000, description="epochs of training on")
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="none: a third of the rate base was trained with"
    )
    distill: bool = Field(
        False, description="learn base's answers in place of the labels: keeps the function"
    )
    temperature: float = Field(2.0, gt=0, le=100, description="of base's answers, for distill")


def finetune(
    module: nn.Module,
    options: Finetune,
    context: Context,
    *,
    technique: str,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train `module` on in place, with base's optimizer and batch size."""
    x, y = context.tensors()
    rate = options.learning_rate
    settings = context.training.model_copy(
        update={
            "epochs": options.epochs,
            "learning_rate": rate if rate is not None else context.training.learning_rate / 3,
        }
    )
    if options.distill:
        if context.base is None:
            raise BuildError("there is no base to distill from")
        loss = distillation(
            as_logits(predict(context.base, x), context.probabilities),
            y,
            temperature=options.temperature,
            alpha=1.0,
            probabilities=context.probabilities,
        )
    else:
        loss = cross_entropy(y, probabilities=context.probabilities)
    fit(
        module,
        x,
        loss,
        settings,
        seed=context.seed_for(f"{technique}/finetune"),
        what=f"after {technique}",
        on_epoch=context.on_epoch,
        after_step=after_step,
    )
