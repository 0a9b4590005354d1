"""Training on after a technique: its options, and how it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from edgebench.errors import BuildError
from edgebench.techniques.base import Context, Options
from edgebench.training.loop import OnUpdate, fit
from edgebench.training.losses import cross_entropy, distillation, network_teacher

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
    what: str | None = None,
    on_update: OnUpdate | None = None,
    beside: nn.Module | None = None,
) -> None:
    """Train `module` on in place, with base's optimizer, batch size and augmentation.

    `technique` names the seed and the checkpoint, `what` the training in messages and progress
    (none: "after" the technique). `on_update` and `beside` are `fit`'s. Where neither is given,
    weights that are zero stay so: an earlier step of the chain pruned them.
    """
    if on_update is None and beside is None:
        on_update, beside = _keeping_zeros(module)
    # A technique's own options say how it trains itself; others have them as their 'finetune'.
    x, y = context.tensors("finetune" if type(options) is Finetune else technique)
    rate = options.learning_rate
    settings = context.training.shortened(
        options.epochs, rate if rate is not None else context.training.learning_rate / 3
    )
    if options.distill:
        if context.base is None:
            raise BuildError("there is no base to distill from")
        loss = distillation(
            network_teacher(context.base, x, probabilities=context.probabilities),
            y,
            temperature=options.temperature,
            alpha=1.0,
            probabilities=context.probabilities,
        )
    else:
        loss = cross_entropy(
            y, probabilities=context.probabilities, smoothing=settings.label_smoothing
        )
    fit(
        module,
        x,
        loss,
        settings,
        seed=context.order_seed(f"{technique}/finetune"),
        what=what or f"after {technique}",
        on_epoch=context.on_epoch,
        on_update=on_update,
        beside=beside,
        checkpoint=context.checkpoint(f"{technique}/finetune"),
    )


def _keeping_zeros(module: nn.Module) -> tuple[OnUpdate | None, nn.Module | None]:
    """What keeps the zeros of a pruned module while it is trained; nothing where there are none."""
    from edgebench.pruning.masks import ZeroMasks

    # Biases start at zero without having been pruned; matrices and filters do not.
    sparse = {
        name: weight
        for name, weight in module.named_parameters()
        if weight.dim() >= 2 and bool((weight == 0).any())
    }
    if not sparse:
        return None, None
    masks = ZeroMasks(sparse)

    def keep(*_: int) -> None:
        masks.apply_to_weights()

    return keep, masks
