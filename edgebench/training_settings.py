"""How a network is trained: what a recipe's `training:` may say, and what every training takes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Jitter(_Part):
    """Colour jitter: each strength is the largest change, drawn anew for every image.

    Brightness, contrast and saturation are factors within [1 − s, 1 + s]; hue turns the colours by
    up to so many turns of the colour circle. Saturation and hue are of images with three channels;
    others keep theirs.
    """

    brightness: float = Field(0.2, ge=0, le=1, description="largest change of the brightness")
    contrast: float = Field(0.2, ge=0, le=1, description="largest change of the contrast")
    saturation: float = Field(0.2, ge=0, le=1, description="largest change of the saturation")
    hue: float = Field(0.0, ge=0, le=0.5, description="largest turn of the hue, in turns")

    @model_validator(mode="after")
    def _does_something(self) -> Jitter:
        if not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("a jitter whose strengths are all 0 changes nothing: leave it out")
        return self


class Augment(_Part):
    """What is done to each training image anew in every epoch."""

    flip: bool = Field(False, description="mirror half of the images left to right")
    crop: int = Field(0, ge=0, le=64, description="shift by up to so many pixels, zeros behind")
    jitter: Jitter | None = Field(None, description="change the colours")

    @property
    def nothing(self) -> bool:
        """Whether images stay as they are."""
        return not self.flip and not self.crop and self.jitter is None


# What only one schedule or optimizer looks at.
_ONLY_FOR = {
    "final_learning_rate": ("schedule", "cosine"),
    "milestones": ("schedule", "multi-step"),
    "decay": ("schedule", "multi-step"),
    "momentum": ("optimizer", "sgd"),
    "nesterov": ("optimizer", "sgd"),
}


class Training(_Part):
    """How base (where no weights are given), the controls and whatever follows are trained.

    The learning rate rises from zero over `warmup_epochs`, then follows `schedule`: along a half
    cosine to `final_learning_rate`, by `decay` at each of the `milestones`, or not at all. `ema`
    averages weights and running statistics over the updates with this decay, the early ones no more
    than the late ones, and the average is what is kept.
    `init_seed` and `order_seed` part the draw of the first weights from the order of the examples
    (with augmentation and dropout); none: both follow the recipe's seed.
    """

    epochs: int = Field(20, ge=1, le=10000, description="passes over the training examples")
    batch_size: int = Field(64, ge=1, le=65536, description="examples an update")
    optimizer: Literal["adam", "adamax", "adamw", "sgd"] = Field(
        "adam", description="the update rule"
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="the largest step size")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(False, description="of sgd: Nesterov's momentum")
    weight_decay: float = Field(0.0, ge=0, le=1, description="pull of the weights to zero")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the label given to all")
    schedule: Literal["cosine", "multi-step", "constant"] = Field(
        "cosine", description="how the learning rate falls"
    )
    warmup_epochs: float = Field(0.0, ge=0, le=1000, description="epochs of linear rise")
    final_learning_rate: float = Field(0.0, ge=0, le=10, description="where cosine ends")
    milestones: list[int] = Field(
        default_factory=list, description="of multi-step: after these epochs the rate falls"
    )
    decay: float = Field(0.2, gt=0, lt=1, description="of multi-step: by this factor")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the averaged weights")
    augment: Augment = Field(Augment(), description="what is done to each image anew")
    init_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of the first weights")
    order_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="of the order")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the products; auto: bfloat16 on a GPU, float32 on the processor"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to train; auto: a GPU that torch can use, else the processor"
    )

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: list[int]) -> list[int]:
        if any(m < 1 for m in milestones) or sorted(set(milestones)) != milestones:
            raise ValueError("milestones must be rising numbers of epochs, from 1 on")
        return milestones

    @model_validator(mode="after")
    def _fits_together(self) -> Training:
        for name, (key, wanted) in _ONLY_FOR.items():
            if getattr(self, key) != wanted and getattr(self, name) != _default(name):
                needs = "need" if name == "milestones" else "needs"
                raise ValueError(f"{name} {needs} '{key}: {wanted}'")
        if self.schedule == "multi-step" and not self.milestones:
            raise ValueError("'schedule: multi-step' needs milestones, e.g. [60, 80]")
        if self.milestones and self.milestones[-1] >= self.epochs:
            raise ValueError(
                f"the milestone {self.milestones[-1]} lies beyond the {self.epochs} epochs"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"{self.warmup_epochs:g} warmup_epochs are more than the {self.epochs} epochs"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate:g} is above learning_rate "
                f"{self.learning_rate:g}"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def changed(self, **changes: Any) -> Training:
        """The same training with other values, and without what those make no use of.

        Raises pydantic's ValidationError for what no recipe may ask for.
        """
        values = {**self.model_dump(), **changes}
        for name, (key, wanted) in _ONLY_FOR.items():
            if values[key] != wanted:
                values[name] = _default(name)
        return Training.model_validate(values)

    def shortened(self, epochs: int, learning_rate: float) -> Training:
        """The same training for another number of epochs, its rate along one cosine.

        For training on, where warm-up and the milestones of the first training make no sense.
        Raises pydantic's ValidationError for epochs or a rate that no recipe may ask for.
        """
        return self.changed(
            epochs=epochs,
            learning_rate=learning_rate,
            schedule="cosine",
            warmup_epochs=0.0,
            final_learning_rate=0.0,
        )


def _default(name: str) -> Any:
    return Training.model_fields[name].get_default(call_default_factory=True)
