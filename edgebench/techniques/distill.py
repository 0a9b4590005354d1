"""Knowledge distillation: a smaller student learns base's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgebench.errors import BuildError, ModelError
from edgebench.models.source import find_model
from edgebench.techniques.base import TECHNIQUES, Context, Options, Outcome, TorchTechnique
from edgebench.training.loop import deterministic, fit
from edgebench.training.losses import distillation, network_teacher

if TYPE_CHECKING:
    from torch import nn


class DistillOptions(Options):
    """Options of `distill`."""

    student: str | None = Field(
        None, description="a named model or package.module:factory; none: base's own"
    )
    width: float | None = Field(
        None, gt=0, le=1, description="passed to the student's factory: its share of the channels"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the student's factory"
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
            network_teacher(teacher, x, probabilities=context.probabilities),
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
            checkpoint=context.checkpoint("distill/student"),
        )
        sizes = [sum(p.numel() for p in m.parameters()) for m in (student, teacher)]
        note = f"the student has {sizes[0]:,} parameters, its teacher {sizes[1]:,}"
        return student, Outcome(notes=[note])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """A new, narrower network."""
        with deterministic(context.seed_for("distill/init")):
            if options.student is not None:
                source = find_model(options.student, weights=None, options=_passed(options))
                return source.build(context.input_shape, context.classes)
            if context.new_module is None:
                raise BuildError("an ONNX file is no factory of networks: no student can be made")
            try:
                return context.new_module(**_passed(options))
            except ModelError as error:
                raise BuildError(
                    f"no student: {error.what}",
                    where=error.where,
                    hint="say how it is smaller with 'options:', or name another with 'student:'",
                ) from error

    def identity(self, options: Any) -> dict[str, Any]:
        """The student's own source, where it is not base's."""
        if options.student is None:
            return {}
        return find_model(options.student, weights=None, options=_passed(options)).identity


def _passed(options: DistillOptions) -> dict[str, Any]:
    """What the student's factory gets: half the channels, where nothing else is said."""
    width = options.width
    if width is None and not options.options and options.student is None:
        width = 0.5
    return {**options.options, **({} if width is None else {"width": width})}
