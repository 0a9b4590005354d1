"""Knowledge distillation: a smaller student learns what a teacher answers, or how it gets there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from edgebench.distillation.settings import (
    NO_NETWORK,
    ON_FEATURES,
    USUAL,
    AttentionSettings,
    CrdSettings,
    DkdSettings,
    HintSettings,
    LossName,
    TeacherSettings,
    adapted,
    departures,
    published_training,
)
from edgebench.errors import BuildError, ModelError, UnknownNameError
from edgebench.models.base import MODELS
from edgebench.models.source import check_classifier, find_model
from edgebench.records import WARNING
from edgebench.techniques.base import TECHNIQUES, Context, Options, Outcome, TorchTechnique
from edgebench.training.loop import deterministic

if TYPE_CHECKING:
    from torch import nn

    from edgebench.distillation.objectives import Objective
    from edgebench.distillation.teachers import Trainer, Tutor


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
    loss: LossName = Field(
        "logits",
        description="logits: Hinton's, with T²; cross-entropy: without T²; label-smoothing: no "
        "teacher, a control; dkd: decoupled; hints, attention, crd: on features",
    )
    teacher: TeacherSettings | None = Field(
        None,
        description="base, ensemble, assistant, self, uniform-noise, gaussian-noise, jitter, or a "
        "mapping such as {model: resnet8, weights: FILE}; none: base",
    )
    temperature: float | None = Field(
        None, gt=0, le=100, description="T of the softened answers; none: 4, cross-entropy: 1"
    )
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="weight of the teacher's answers, the labels have 1 − alpha; of "
        "label-smoothing the share given to all classes; none: 0.9, label-smoothing: 0.1, "
        "attention and crd: 0",
    )
    dkd: DkdSettings | None = Field(None, description="what the loss dkd takes")
    hints: HintSettings | None = Field(None, description="what the loss hints takes")
    attention: AttentionSettings | None = Field(None, description="what the loss attention takes")
    crd: CrdSettings | None = Field(None, description="what the loss crd takes")
    epochs: int | None = Field(
        None,
        ge=1,
        le=10000,
        description="none: as many as base; its warm-up and milestones move in proportion",
    )
    learning_rate: float | None = Field(None, gt=0, le=10, description="none: as base")
    weight_decay: float | None = Field(None, ge=0, le=1, description="none: as base")
    as_published: Literal["000"] | None = Field(
        None,
        description='"000", in quotes: that paper\'s faulty recipe, to reproduce its numbers '
        "(double softmax, alpha weighs the labels, Adamax at one rate, no augmentation); none: off",
    )

    @property
    def taught_by(self) -> TeacherSettings:
        """The teacher, base where nothing is said."""
        return self.teacher or TeacherSettings()

    @property
    def softened(self) -> float:
        """The temperature, where none is given the usual one of the loss."""
        return USUAL[self.loss][0] if self.temperature is None else self.temperature

    @property
    def share(self) -> float:
        """Alpha, where none is given the usual one of the loss."""
        return USUAL[self.loss][1] if self.alpha is None else self.alpha

    @property
    def on_features(self) -> HintSettings | AttentionSettings | CrdSettings:
        """What the loss on features takes."""
        if self.loss == "hints":
            return self.hints or HintSettings()
        if self.loss == "attention":
            return self.attention or AttentionSettings()
        return self.crd or CrdSettings()

    @property
    def from_first_weights(self) -> bool:
        """Whether the student is base's own architecture with base's first weights."""
        return self.as_published is not None or self.taught_by.kind == "self"

    @model_validator(mode="after")
    def _fits_together(self) -> DistillOptions:
        for name in ("dkd", "hints", "attention", "crd"):
            if getattr(self, name) is not None and self.loss != name:
                raise ValueError(f"'{name}' is for 'loss: {name}', not for 'loss: {self.loss}'")
        if self.as_published is not None:
            self._only_as_published()
            return self
        kind = self.taught_by.kind
        if self.loss == "label-smoothing" and self.teacher is not None:
            raise ValueError("'loss: label-smoothing' asks no teacher: leave out 'teacher'")
        if self.loss in ON_FEATURES and kind in NO_NETWORK:
            raise ValueError(
                f"'loss: {self.loss}' looks into one network: the teacher cannot be '{kind}'"
            )
        if self.loss == "dkd" and self.alpha is not None:
            raise ValueError("'loss: dkd' has weights of its own: dkd.alpha and dkd.beta")
        if self.temperature is not None:
            if self.loss == "label-smoothing":
                raise ValueError("'loss: label-smoothing' has no temperature")
            if not self.share and self.loss != "dkd" and kind != "assistant":
                raise ValueError("'temperature' has no effect while alpha is 0")
        if kind == "self":
            self._has_no_student("'teacher: self' is for base's own architecture")
        return self

    def _only_as_published(self) -> None:
        given = [
            n for n in ("temperature", "teacher", "weight_decay") if getattr(self, n) is not None
        ]
        if self.loss != "logits":
            given.insert(0, "loss")
        if given:
            raise ValueError(f"'as_published' sets '{given[0]}' itself: leave it out")
        self._has_no_student("'as_published' is for base's own architecture")

    def _has_no_student(self, why: str) -> None:
        for name in ("student", "width", "options"):
            if getattr(self, name):
                raise ValueError(f"{why}: leave out '{name}'")


@TECHNIQUES.register("distill")
class Distill(TorchTechnique):
    """Train a student on the answers of a teacher, or on what it computes on the way to them.

    Each loss states its divergence's direction, base and factor T² in a note of the outcome and in
    edgebench.distillation. The usual one is (1 − α)·CE(labels) + α·T²·KL(teacher_T ‖ student_T) on
    logits, in nats. Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network",
    2015.
    """

    name = "distill"
    summary = "a smaller student learns a teacher's answers or features"
    Options: ClassVar[type[Options]] = DistillOptions
    replaces = True

    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """Train the student; `module` and base are left as they are."""
        from edgebench.distillation.teachers import count

        trainer = _trainer(context)
        student = self._first_weights(module, options, context)
        _check_form(student, options, trainer, context)
        base = context.base if context.base is not None else module
        settings = adapted(
            context.training,
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
        )
        if options.as_published is not None:
            settings = published_training(settings)
        tutor, objective = _lesson(options, student, base, trainer=trainer, context=context)
        trainer.train(student, objective, "student", "the student", settings)
        notes = _sizes(count(student), tutor)
        notes.append(f"the student minimised {objective.text}")
        if options.as_published is not None:
            notes += departures(settings)
        return student, Outcome(notes=[*notes, *(tutor.notes if tutor else []), *objective.notes])

    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """A new student."""
        with deterministic(context.init_seed("distill/init")):
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
        """The sources of student and teacher with its weights, where they are not base's."""
        found = {}
        if options.student is not None:
            source = find_model(options.student, weights=None, options=_passed(options))
            found["student"] = source.identity
        teacher = options.taught_by
        if teacher.model is not None:
            source = find_model(teacher.model, weights=teacher.weights, options=teacher.options)
            found["teacher"] = source.identity
        return found

    def check(self, options: Any) -> None:
        """Raise BuildError for a model that nobody registered, an ONNX file, or missing weights."""
        teacher = options.taught_by
        for noun, spec in (("student", options.student), ("teacher", teacher.model)):
            if spec is None:
                continue
            if spec.endswith(".onnx"):
                raise BuildError(
                    f"an ONNX file can be no {noun}: '{spec}'",
                    hint="give the network as package.module:factory, a teacher's with 'weights'",
                )
            if ":" not in spec:
                try:
                    MODELS.get(spec)
                except UnknownNameError as error:
                    raise BuildError(f"{noun}: {error.what}", hint=error.hint) from error
        if teacher.weights is not None and not Path(teacher.weights).is_file():
            raise BuildError(f"there is no file of the teacher's weights: '{teacher.weights}'")

    def _first_weights(self, module: nn.Module, options: Any, context: Context) -> nn.Module:
        if not options.from_first_weights:
            return self.restructure(module, options, {}, context)
        if context.initial_module is None:
            raise BuildError(
                "the student starts from base's first weights, and those are not known",
                hint="leave out the recipe's 'weights' so that base is trained here, or choose "
                "another teacher",
            )
        return context.initial_module()


def _lesson(
    options: DistillOptions,
    student: nn.Module,
    base: nn.Module,
    *,
    trainer: Trainer,
    context: Context,
) -> tuple[Tutor | None, Objective]:
    """The teacher, if the loss asks one, and what the student minimises."""
    from edgebench.distillation.as_published import USUAL_ALPHA, published_loss
    from edgebench.distillation.objectives import Answers, Looked, Objective
    from edgebench.distillation.teachers import find_tutor, network_tutor

    probabilities = context.probabilities
    smoothing = context.training.label_smoothing
    answers = Answers(trainer.y, options.softened, options.share, probabilities, smoothing)
    if options.as_published is not None:
        tutor = network_tutor(base, trainer)
        alpha = USUAL_ALPHA if options.alpha is None else options.alpha
        loss = published_loss(tutor.answers, trainer.y, alpha=alpha, probabilities=probabilities)
        return tutor, Objective(
            loss,
            f"as paper 000 published it, {alpha:.3g}·CE(labels) + {1 - alpha:.3g}·T²·KL(teacher ‖ "
            "student) of probabilities taken for logits (a double softmax), T = 3, in nats, by "
            "Adamax",
        )
    if options.loss == "label-smoothing":
        return None, answers.smoothed(context.classes)

    def on_answers(teacher: Any) -> Objective:
        if options.loss == "dkd":
            return answers.decoupled(teacher, options.dkd or DkdSettings())
        if options.loss == "cross-entropy":
            return answers.cross_entropy(teacher)
        return answers.logits(teacher)

    def for_assistants(teacher: Any) -> Objective:
        if options.loss not in ON_FEATURES:
            return on_answers(teacher)
        temperature, alpha = options.softened, USUAL["logits"][1]
        return Answers(trainer.y, temperature, alpha, probabilities, smoothing).logits(teacher)

    tutor = find_tutor(options.taught_by, base, context.new_module, trainer, for_assistants)
    if options.loss not in ON_FEATURES:
        return tutor, on_answers(tutor.answers)
    assert tutor.network is not None  # noqa: S101 - the options' validator saw to it
    looked = Looked(student, tutor.network, tutor.probabilities, context.example())
    with deterministic(context.init_seed("distill/heads")):
        return tutor, looked.objective(options.on_features, answers)


def _sizes(student: int, tutor: Tutor | None) -> list[str]:
    """How large student and teacher are, with a warning where the student is the larger."""
    if tutor is None or not tutor.sizes:
        return [f"the student has {student:,} parameters"]
    sizes = f"the student has {student:,} parameters, its teacher {sum(tutor.sizes):,}"
    if len(tutor.sizes) > 1:
        sizes += f" in {len(tutor.sizes)} networks"
    if student > max(tutor.sizes):
        teacher = "its teacher" if len(tutor.sizes) == 1 else "each of them"
        return [f"{WARNING}{sizes}: the student is larger than {teacher}"]
    return [sizes]


def _check_form(
    student: nn.Module, options: DistillOptions, trainer: Trainer, context: Context
) -> None:
    """Raise BuildError for a student that cannot be exported, or has another form than base.

    That is, one of them ends in a softmax and the other does not. Base's own architecture is known.
    """
    if options.student is None:
        return
    check_classifier(
        student, context.input_shape, context.classes, where=f"student '{options.student}'"
    )
    found = trainer.answers_probabilities(student)
    if found != context.probabilities:
        forms = ("probabilities", "logits") if found else ("logits", "probabilities")
        raise BuildError(
            f"the student '{options.student}' answers with {forms[0]} and base with {forms[1]}: "
            "their answers could not be compared",
            hint="end both in a softmax or neither",
        )
    if context.check_export is not None:
        try:
            context.check_export(student)
        except BuildError as error:
            raise BuildError(
                error.what, where=f"student '{options.student}'", hint=error.hint
            ) from error


def _trainer(context: Context) -> Trainer:
    from edgebench.distillation.teachers import Trainer

    x, y = context.tensors("distill")
    return Trainer(
        x,
        y,
        context.classes,
        context.training,
        init_seed=lambda purpose: context.init_seed(f"{purpose}/init"),
        order_seed=lambda purpose: context.order_seed(f"{purpose}/order"),
        checkpoint=context.checkpoint,
        on_epoch=context.on_epoch,
    )


def _passed(options: DistillOptions) -> dict[str, Any]:
    """What the student's factory gets: half the channels, where nothing else is said."""
    if options.from_first_weights:
        return {}
    width = options.width
    if width is None and not options.options and options.student is None:
        width = 0.5
    return {**options.options, **({} if width is None else {"width": width})}
