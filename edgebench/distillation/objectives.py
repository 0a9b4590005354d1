"""What a student minimises: a loss, in words, and what is trained or remembered along with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from edgebench.distillation.contrastive import ContrastiveLoss
from edgebench.distillation.feature_losses import AttentionLoss, HintLoss, Pairs
from edgebench.distillation.features import (
    Course,
    Feature,
    Tap,
    WatchedTeacher,
    matched_maps,
    named_pairs,
)
from edgebench.distillation.logit_losses import DecoupledLoss, soft_cross_entropy
from edgebench.distillation.settings import (
    AttentionSettings,
    CrdSettings,
    DkdSettings,
    HintSettings,
    told_epochs,
)
from edgebench.errors import BuildError
from edgebench.training.losses import Batch, Loss, Teacher, cross_entropy, distillation

FeatureSettings = HintSettings | AttentionSettings | CrdSettings


@dataclass(frozen=True)
class Objective:
    """A loss to minimise.

    `beside`: its own layers, banks and counters. `rises`: by what factor it grows of itself while a
    part of it is faded in. `epoch_done` is told of each epoch that is done, `release` takes hooks
    off the student.
    """

    loss: Loss
    text: str
    beside: nn.Module | None = None
    rises: float = 1.0
    notes: list[str] = field(default_factory=list)
    epoch_done: Callable[[int], None] = field(default=lambda _: None)
    release: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Answers:
    """What the losses on answers share: labels [N], T, α, whether the student ends in a softmax.

    `smoothing`: the share of each label that is given to all classes alike.
    """

    labels: torch.Tensor
    temperature: float
    alpha: float
    probabilities: bool
    smoothing: float = 0.0

    @property
    def targets(self) -> str:
        """The labels in words."""
        return f"labels smoothed by {self.smoothing:g}" if self.smoothing else "labels"

    def smoothed(self, classes: int) -> Objective:
        """The labels alone, α of each given to all classes alike: the control without a teacher."""
        loss = cross_entropy(self.labels, probabilities=self.probabilities, smoothing=self.alpha)
        other = self.alpha / classes
        text = (
            f"CE with smoothed labels: {1 - self.alpha + other:.3g} for the label, {other:.3g} for "
            "each other class"
        )
        return Objective(loss, text)

    def logits(self, teacher: Teacher) -> Objective:
        """Hinton's loss."""
        loss = distillation(
            teacher,
            self.labels,
            temperature=self.temperature,
            alpha=self.alpha,
            probabilities=self.probabilities,
            smoothing=self.smoothing,
        )
        text = (
            f"{1 - self.alpha:.3g}·CE({self.targets}) + {self.alpha:.3g}·T²·KL(teacher ‖ student), "
            f"both softened by T = {self.temperature:g}, in nats"
        )
        return Objective(loss, text)

    def cross_entropy(self, teacher: Teacher) -> Objective:
        """The cross-entropy form, without T²."""
        loss = soft_cross_entropy(
            teacher,
            self.labels,
            temperature=self.temperature,
            alpha=self.alpha,
            probabilities=self.probabilities,
            smoothing=self.smoothing,
        )
        text = (
            f"{1 - self.alpha:.3g}·H({self.targets}, student) + {self.alpha:.3g}·H(teacher, "
            f"student), both softened by T = {self.temperature:g}, in nats, without T²"
        )
        return Objective(loss, text)

    def decoupled(self, teacher: Teacher, how: DkdSettings) -> Objective:
        """Decoupled knowledge distillation."""
        loss = DecoupledLoss(
            teacher,
            self.labels,
            temperature=self.temperature,
            alpha=how.alpha,
            beta=how.beta,
            warmup_epochs=how.warmup_epochs,
            probabilities=self.probabilities,
            smoothing=self.smoothing,
        )
        rising = f", rising over {told_epochs(how.warmup_epochs)}" if how.warmup_epochs else ""
        text = (
            f"CE({self.targets}) + T²·({how.alpha:g}·TCKD + {how.beta:g}·NCKD){rising}, each a "
            f"KL(teacher ‖ student) softened by T = {self.temperature:g}, in nats"
        )
        return Objective(
            loss, text, beside=loss, rises=max(1, how.warmup_epochs), epoch_done=loss.epoch_done
        )


@dataclass(frozen=True)
class Looked:
    """The two networks that a loss on features looks into, and an example batch for them."""

    student: nn.Module
    teacher: nn.Module
    teacher_probabilities: bool
    example: torch.Tensor

    def objective(self, how: FeatureSettings, answers: Answers) -> Objective:
        """The loss on the answers, and beside it the weighted one on features."""
        pairs = self._pairs(how)
        term, name = _term(how, pairs, answers.labels)
        watched = WatchedTeacher(
            self.teacher,
            [theirs.place for _, theirs in pairs],
            probabilities=self.teacher_probabilities,
        )
        tap = Tap(self.student, [ours.place for ours, _ in pairs])
        on_answers = answers.logits(watched)

        def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
            # Asked for its answers, the teacher leaves its features as well.
            value = on_answers.loss(answer, batch)
            with torch.autocast(answer.device.type, enabled=False):
                found: torch.Tensor = term(tap.features(), watched.tap.features(), batch)
            return value + how.weight * found

        text = f"{on_answers.text}, + {how.weight:g}·{name}"
        if not answers.alpha:
            text = f"CE({answers.targets}) + {how.weight:g}·{name}"
        named = ", ".join(f"{ours.place} from {theirs.place}" for ours, theirs in pairs)
        notes = [f"the student's layers learn from the teacher's: {named}"]
        if isinstance(term, ContrastiveLoss) and term.negatives < how.negatives:  # type: ignore[union-attr]
            notes.append(
                f"{term.negatives} negatives an example: there are no more of other classes"
            )
        return Objective(loss, text, beside=term, notes=notes, release=tap.remove)

    def _pairs(self, how: FeatureSettings) -> list[tuple[Feature, Feature]]:
        student = Course(self.student, self.example, "student")
        teacher = Course(self.teacher, self.example, "teacher")
        if how.layers is not None:
            return named_pairs(how.layers, student, teacher)
        last = [(student.penultimate(), teacher.penultimate())]
        if isinstance(how, CrdSettings):
            return last
        maps = matched_maps(student, teacher)
        if isinstance(how, HintSettings):
            return [maps[len(maps) // 2]] if maps else last
        if not maps:
            raise BuildError(
                "attention transfer compares feature maps of convolutions, and student and teacher "
                "do not both have them",
                hint="choose another loss, or name layers with attention.layers",
            )
        return maps


def _term(how: FeatureSettings, pairs: Pairs, labels: torch.Tensor) -> tuple[nn.Module, str]:
    """The loss on features and what it is called."""
    if isinstance(how, HintSettings):
        return HintLoss(pairs), "MSE(regressor(student), teacher)"
    if isinstance(how, AttentionSettings):
        return AttentionLoss(pairs), "MSE of the attention maps"
    [(student, teacher)] = pairs
    term = ContrastiveLoss(
        student,
        teacher,
        labels,
        negatives=how.negatives,
        dimensions=how.dimensions,
        temperature=how.temperature,
        momentum=how.momentum,
    )
    return term, f"CRD (T = {how.temperature:g}, {term.negatives} negatives)"
