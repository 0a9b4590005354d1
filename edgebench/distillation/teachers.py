"""Who teaches: base, networks trained for it, a chain of assistants, or noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from edgebench.distillation.noise import NOISES, fixed_teacher, noise_logits
from edgebench.distillation.objectives import Objective
from edgebench.distillation.settings import TeacherSettings, adapted, told_epochs
from edgebench.errors import BuildError, ModelError
from edgebench.metrics.base import looks_like_probabilities
from edgebench.models.source import check_classifier, find_model, load_weights
from edgebench.records import WARNING
from edgebench.training.loop import OnEpoch, deterministic, fit, naming, predict
from edgebench.training.losses import Batch, Teacher, cross_entropy, network_teacher
from edgebench.training_settings import Jitter, Training

USUAL_MEMBERS = 3
USUAL_ASSISTANTS = (0.75,)
EXAMPLES = 32


@dataclass(frozen=True)
class Trainer:
    """Trains the networks that a distillation takes.

    `x`: float32 [N, ...]; `y`: int64 [N]; `settings`: how base was trained. `init_seed` and
    `order_seed` give the seeds of named first weights and orders of examples, `checkpoint` the file
    where a named training keeps where it stands.
    """

    x: torch.Tensor
    y: torch.Tensor
    classes: int
    settings: Training
    init_seed: Callable[[str], int]
    order_seed: Callable[[str], int]
    checkpoint: Callable[[str], Path | None]
    on_epoch: OnEpoch | None = None

    def fresh(self, purpose: str, make: Callable[[], nn.Module]) -> nn.Module:
        """A network with first weights of its own."""
        with deterministic(self.init_seed(f"distill/{purpose}")):
            return make()

    def train(
        self,
        module: nn.Module,
        objective: Objective,
        purpose: str,
        what: str,
        settings: Training,
    ) -> nn.Module:
        """`module`, trained in place; `what` names it in messages."""
        watch = naming(self.on_epoch, what) if self.on_epoch is not None else None

        def on_epoch(done: int, epochs: int, loss: float) -> None:
            objective.epoch_done(done)
            if watch is not None:
                watch(done, epochs, loss)

        try:
            fit(
                module,
                self.x,
                objective.loss,
                settings,
                seed=self.order_seed(f"distill/{purpose}"),
                what=what,
                on_epoch=on_epoch,
                beside=objective.beside,
                rises=objective.rises,
                checkpoint=self.checkpoint(f"distill/{purpose}"),
            )
        finally:
            objective.release()
        return module

    def train_on_labels(
        self, module: nn.Module, purpose: str, what: str, settings: Training
    ) -> nn.Module:
        """`module`, trained in place as base was."""
        loss = cross_entropy(
            self.y,
            probabilities=self.answers_probabilities(module),
            smoothing=settings.label_smoothing,
        )
        return self.train(module, Objective(loss, "the labels alone"), purpose, what, settings)

    def answers_probabilities(self, module: nn.Module) -> bool:
        """Whether a network ends in a softmax."""
        return looks_like_probabilities(predict(module, self.x[:EXAMPLES]).numpy())


@dataclass(frozen=True)
class Tutor:
    """A teacher and what is known of it.

    `network`: what it computes can be looked into; None for an ensemble and for noise.
    `sizes`: the parameters of each of its networks; noise has none.
    """

    answers: Teacher
    network: nn.Module | None = None
    probabilities: bool = False
    sizes: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)


# Given a teacher: what a student is to minimise.
ObjectiveOf = Callable[[Teacher], Objective]
NewModule = Callable[..., nn.Module]


@dataclass(frozen=True)
class Architecture:
    """Base's architecture: base, the factory of more like it, and how they are trained."""

    base: nn.Module
    new_module: NewModule
    trainer: Trainer
    settings: Training


def find_tutor(
    how: TeacherSettings,
    base: nn.Module,
    new_module: NewModule | None,
    trainer: Trainer,
    objective_of: ObjectiveOf,
) -> Tutor:
    """The teacher the settings name, trained where it has to be.

    `objective_of` is what each assistant learns from the one before it.
    """
    if how.kind in {"base", "self"}:
        return network_tutor(base, trainer)
    if how.kind in NOISES:
        return _noise(how.kind, trainer)
    settings = adapted(trainer.settings, epochs=how.epochs)
    if how.kind == "network":
        return _named_network(how, trainer, settings)
    if new_module is None:
        raise BuildError(f"an ONNX file is no factory of networks: no '{how.kind}' can be made")
    like = Architecture(base, new_module, trainer, settings)
    if how.kind == "ensemble":
        return ensemble(like, how.members or USUAL_MEMBERS)
    if how.kind == "assistant":
        return assistants(like, how.assistants or USUAL_ASSISTANTS, objective_of)
    return jittered(like, how.jitter or Jitter())


def network_tutor(network: nn.Module, trainer: Trainer) -> Tutor:
    """One trained network as a teacher."""
    probabilities = trainer.answers_probabilities(network)
    return Tutor(
        network_teacher(network, trainer.x, probabilities=probabilities),
        network,
        probabilities,
        (count(network),),
    )


def ensemble(like: Architecture, members: int) -> Tutor:
    """Base and `members` − 1 networks of its architecture, trained alike from seeds of their own.

    Their answer is the mean of their logits: the geometric mean of their probabilities, which
    commutes with the temperature (softened answers average to the softened average). Source: one
    of the two means of Hinton, Vinyals, Dean, 2015.
    """
    trainer, settings = like.trainer, like.settings
    tutors = [network_tutor(like.base, trainer)]
    for number in range(2, members + 1):
        purpose = f"member-{number}"
        module = trainer.fresh(purpose, like.new_module)
        what = f"teacher {number} of {members}"
        trainer.train_on_labels(module, purpose, what, settings)
        tutors.append(network_tutor(module, trainer))

    def teach(batch: Batch) -> torch.Tensor:
        return torch.stack([tutor.answers(batch) for tutor in tutors]).mean(0)

    return Tutor(
        teach,
        sizes=tuple(size for tutor in tutors for size in tutor.sizes),
        notes=[
            f"the teacher is base and {members - 1} more of its architecture, trained for "
            f"{told_epochs(settings.epochs)} from other seeds; it answers with the mean of their "
            "logits"
        ],
    )


def assistants(like: Architecture, widths: Sequence[float], objective_of: ObjectiveOf) -> Tutor:
    """A chain of networks of falling width, each taught by the one before, base first.

    Source: Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", 2020.
    """
    trainer = like.trainer
    tutor = network_tutor(like.base, trainer)
    sizes = [count(like.base)]
    for number, width in enumerate(widths, start=1):
        purpose, what = f"assistant-{number}", f"the assistant of width {width:g}"
        try:
            module = trainer.fresh(purpose, partial(like.new_module, width=width))
        except ModelError as error:
            raise BuildError(
                f"no assistant: {error.what}",
                where=error.where,
                hint="assistants need a factory that takes 'width'; a network of your own teaches "
                "with 'teacher: {model: …}'",
            ) from error
        sizes.append(count(module))
        trainer.train(module, objective_of(tutor.answers), purpose, what, like.settings)
        tutor = network_tutor(module, trainer)
    chain = " → ".join(f"{size:,}" for size in sizes)
    note = (
        f"the teacher is the last of a chain of {chain} parameters, each taught by the one before"
    )
    if any(after >= before for before, after in pairwise(sizes)):
        note = f"{WARNING}{note}: the chain does not get smaller"
    tutor.notes.append(note)
    return tutor


def jittered(like: Architecture, how: Jitter) -> Tutor:
    """A network of base's architecture, trained as base was on images whose colours are jittered.

    Source: "Advanced ML PA3", whose students learn a teacher's indifference to colour.
    """
    trainer = like.trainer
    augment = like.settings.augment.model_copy(update={"jitter": how})
    settings = like.settings.model_copy(update={"augment": augment})
    module = trainer.fresh("jitter", like.new_module)
    trainer.train_on_labels(module, "jitter", "the jitter-trained teacher", settings)
    tutor = network_tutor(module, trainer)
    strengths = ", ".join(f"{name} {value:g}" for name, value in how.model_dump().items())
    tutor.notes.append(
        f"the teacher is of base's architecture, trained for {told_epochs(settings.epochs)} with "
        f"colour jitter ({strengths})"
    )
    return tutor


def count(module: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(p.numel() for p in module.parameters())


def _named_network(how: TeacherSettings, trainer: Trainer, settings: Training) -> Tutor:
    assert how.model is not None  # noqa: S101 - the settings' validator saw to it
    source = find_model(how.model, weights=how.weights, options=how.options)
    shape = tuple(trainer.x.shape[1:])
    module = trainer.fresh("teacher", lambda: source.build(shape, trainer.classes))
    check_classifier(module, shape, trainer.classes, where=f"teacher '{how.model}'")
    if source.weights is not None:
        load_weights(module, source.weights)
        learnt = f"with the weights of {source.weights.name}"
    else:
        trainer.train_on_labels(module, "teacher", f"the teacher '{how.model}'", settings)
        learnt = f"trained for {told_epochs(settings.epochs)}"
    tutor = network_tutor(module.eval(), trainer)
    tutor.notes.append(f"the teacher is '{how.model}', {learnt}")
    return tutor


def _noise(kind: str, trainer: Trainer) -> Tutor:
    seed = trainer.init_seed(f"distill/{kind}")
    logits = noise_logits(kind, len(trainer.y), trainer.classes, seed)
    note = f"the teacher is noise: logits from {NOISES[kind]}, drawn once for each training example"
    return Tutor(fixed_teacher(logits), notes=[note])
