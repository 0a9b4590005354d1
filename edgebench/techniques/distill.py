"""Knowledge distillation: a smaller student learns base's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES, Context, Options, Outcome, TorchTechnique
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import as_logits, distillation

if TYPE_CHECKING:
    from torch import nn


class DistillOptions(Options):
    """Options of `distill`."""

    width: float = Field(
        0.5, gt=0, le=1, description="the student's channels, as a share of base's"
    )
    temperature: float = Field(4.0, gt=0, le=100, description="T of the softened answers")
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the teacher; the labels have 1 − alpha"
    )
    epochs: int | None = Field(None, ge=1, le=10000, description="none: as many as base")
    learning_rate: float | None = Field(None, gt=0, le=10, description="none: as base")


@TECHNIQUES.register("distill")
class Distill(TorchTechnique):
    """Train a narrower network of base's architecture on base's softened answers.

    Loss: (1 − α)·CE(labels) + α·T²·KL(teacher_T ‖ student_T) on logits. Source: Hinton, Vinyals,
    Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """

    name = "distill"
    summary = "a narrower student learns base's answers (Hinton's loss on logits)"
    Options: ClassVar[type[Options]] = DistillOptions
    replaces = True

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Train the student; `module`, the teacher, is left as it is."""
        x, y = context.tensors()
        student = self.restructure(module, options, {}, context)
        teacher = context.base if context.base is not None else module
        loss = distillation(
            as_logits(predict(teacher, x), context.probabilities),
            y,
            temperature=options.temperature,
            alpha=options.alpha,
            probabilities=context.probabilities,
        )
        changes = {
            name: value
            for name in ("epochs", "learning_rate")
            if (value := getattr(options, name)) is not None
        }
        fit(
            student,
            x,
            loss,
            context.training.model_copy(update=changes),
            seed=context.seed_for("distill/order"),
            what="the student",
            on_epoch=context.on_epoch,
        )
        sizes = [sum(p.numel() for p in m.parameters()) for m in (student, teacher)]
        note = f"the student has {sizes[0]:,} parameters, its teacher {sizes[1]:,}"
        return student, Outcome(notes=[note])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """A new, narrower network."""
        if context.new_module is None:
            raise BuildError("an ONNX file is no factory of networks: no student can be made")
        with deterministic(context.seed_for("distill/init")):
            return context.new_module(width=options.width)
