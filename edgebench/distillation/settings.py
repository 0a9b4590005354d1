"""What can be set of a distillation: its teacher, and what each loss takes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgebench.training_settings import Augment, Jitter, Training

LossName = Literal["logits", "cross-entropy", "label-smoothing", "dkd", "hints", "attention", "crd"]
TeacherName = Literal[
    "base",
    "ensemble",
    "assistant",
    "self",
    "uniform-noise",
    "gaussian-noise",
    "jitter",
    "network",
]
# Temperature and alpha where nothing is said, for each loss: those of the papers where they have
# any. Contrast and attention transfer are added to the labels' loss alone.
USUAL: dict[str, tuple[float, float]] = {
    "logits": (4.0, 0.9),
    "cross-entropy": (1.0, 0.9),
    "label-smoothing": (1.0, 0.1),
    "dkd": (4.0, 0.9),
    "hints": (4.0, 0.9),
    "attention": (4.0, 0.0),
    "crd": (4.0, 0.0),
}
# Losses that look into one network; all others ask for answers alone.
ON_FEATURES = frozenset({"hints", "attention", "crd"})
NO_NETWORK = frozenset({"ensemble", "uniform-noise", "gaussian-noise"})
# Which teachers an option of `teacher` is for.
MEANT_FOR = {
    "model": {"network"},
    "options": {"network"},
    "weights": {"network"},
    "epochs": {"network", "ensemble", "assistant", "jitter"},
    "members": {"ensemble"},
    "assistants": {"assistant"},
    "jitter": {"jitter"},
}
# What paper 000 trained with, where a recipe may choose.
PUBLISHED = {"batch_size": 64, "epochs": 25, "learning_rate": 1e-3}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _checked_pairs(layers: list[str] | None) -> list[str] | None:
    for pair in layers or []:
        student, _, teacher = pair.partition(":")
        if not student or not teacher or ":" in teacher:
            raise ValueError(f"'{pair}' is no pair of layers; write student_layer:teacher_layer")
    return layers


class TeacherSettings(_Part):
    """Who teaches: a kind's name alone, or a mapping with more; `model` alone means a network."""

    kind: TeacherName = Field(
        "base",
        description="base; an ensemble with base in it; a chain of assistants of falling width; "
        "base for a student with base's own first weights (self); fixed noise in place of "
        "answers; base's network trained with colour jitter; another network",
    )
    model: str | None = Field(
        None, description="of network: a named model or package.module:factory"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="of network: passed to its factory"
    )
    weights: str | None = Field(
        None, description="of network: a file of its weights; none: it is trained as base was"
    )
    epochs: int | None = Field(
        None, ge=1, le=10000, description="of teachers that are trained; none: as many as base"
    )
    members: int | None = Field(
        None, ge=2, le=32, description="of ensemble: networks in it, base included; none: 3"
    )
    assistants: list[float] | None = Field(
        None, min_length=1, max_length=8, description="of assistant: falling widths; none: [0.75]"
    )
    jitter: Jitter | None = Field(None, description="of jitter: how strong; none: 0.2 each")

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "model" in value and "kind" not in value:
            return {"kind": "network", **value}
        return value

    @field_validator("assistants")
    @classmethod
    def _falling(cls, widths: list[float] | None) -> list[float] | None:
        if widths is None:
            return None
        if any(not 0 < w < 1 for w in widths) or sorted(set(widths), reverse=True) != widths:
            raise ValueError("assistants must be falling widths between 0 and 1, e.g. [0.75, 0.6]")
        return widths

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TeacherSettings:
        for name, kinds in MEANT_FOR.items():
            if getattr(self, name) not in (None, {}) and self.kind not in kinds:
                raise ValueError(
                    f"'{name}' is for the teachers {', '.join(sorted(kinds))}, not for "
                    f"'{self.kind}'"
                )
        if self.kind == "network" and self.model is None:
            raise ValueError("the teacher 'network' needs its 'model'")
        if self.weights is not None and self.epochs is not None:
            raise ValueError("a teacher with 'weights' is not trained: leave out its 'epochs'")
        return self


class DkdSettings(_Part):
    """Decoupled knowledge distillation."""

    alpha: float = Field(1.0, ge=0, le=1000, description="weight of the target class's part")
    beta: float = Field(8.0, ge=0, le=1000, description="weight of the other classes' part")
    warmup_epochs: int = Field(
        0, ge=0, le=10000, description="over which both parts rise to full weight"
    )


class HintSettings(_Part):
    """Hints: a regressor from the student's layers to the teacher's."""

    weight: float = Field(1.0, gt=0, le=1e6, description="of the mean squared error")
    layers: list[str] | None = Field(
        None,
        min_length=1,
        description="student_layer:teacher_layer, by name; none: the middle feature maps",
    )

    _pairs = field_validator("layers")(_checked_pairs)


class AttentionSettings(_Part):
    """Attention transfer between feature maps."""

    weight: float = Field(1000.0, gt=0, le=1e6, description="of the distance of attention maps")
    layers: list[str] | None = Field(
        None,
        min_length=1,
        description="student_layer:teacher_layer, by name; none: the last feature map of each "
        "resolution",
    )

    _pairs = field_validator("layers")(_checked_pairs)


class CrdSettings(_Part):
    """Contrastive representation distillation with a memory bank."""

    weight: float = Field(0.8, gt=0, le=1e6, description="of the contrastive loss")
    negatives: int = Field(
        16384, ge=1, le=2**20, description="an example, of other classes; at most all there are"
    )
    dimensions: int = Field(128, ge=2, le=4096, description="of the embedding")
    temperature: float = Field(0.07, gt=0, le=10, description="of the contrast")
    momentum: float = Field(0.5, ge=0, lt=1, description="of the memory bank")
    layers: list[str] | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="one student_layer:teacher_layer, by name; none: what the last dense layer is "
        "given",
    )

    _pairs = field_validator("layers")(_checked_pairs)


def adapted(
    training: Training,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
) -> Training:
    """Base's training with other epochs, rate or weight decay, its course kept in proportion.

    Warm-up and milestones move with the epochs, the rate at which a cosine ends with the largest;
    milestones for which too few epochs are left fall away.
    """
    changes: dict[str, Any] = {}
    if weight_decay is not None:
        changes["weight_decay"] = weight_decay
    if learning_rate is not None:
        changes["learning_rate"] = learning_rate
        share = learning_rate / training.learning_rate
        changes["final_learning_rate"] = training.final_learning_rate * share
    if epochs is not None and epochs != training.epochs:
        share = epochs / training.epochs
        moved = sorted({round(m * share) for m in training.milestones})
        changes |= {
            "epochs": epochs,
            "warmup_epochs": training.warmup_epochs * share,
            "milestones": [m for m in moved if 0 < m < epochs],
        }
        if training.schedule == "multi-step" and not changes["milestones"]:
            changes["schedule"] = "constant"
    return training.changed(**changes)


def told_epochs(count: int) -> str:
    """A number of epochs in words."""
    return "1 epoch" if count == 1 else f"{count} epochs"


def published_training(training: Training) -> Training:
    """A training as paper 000 ran its students': Adamax at one rate, and nothing beside it."""
    return training.changed(
        optimizer="adamax",
        weight_decay=0.0,
        label_smoothing=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        ema=None,
        augment=Augment(),
    )


def departures(training: Training) -> list[str]:
    """A note where a training differs from paper 000's in what a recipe chooses."""
    others = [name for name, value in PUBLISHED.items() if getattr(training, name) != value]
    if not others:
        return []
    here = ", ".join(f"{name} {getattr(training, name):g}" for name in others)
    there = ", ".join(f"{name} {PUBLISHED[name]:g}" for name in others)
    return [f"trained with {here}, where paper 000 had {there}"]
