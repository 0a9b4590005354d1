"""What can be set of a distillation, and what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from edgebench.distillation.settings import (
    TeacherSettings,
    adapted,
    departures,
    published_training,
)
from edgebench.errors import RecipeError
from edgebench.techniques.base import TECHNIQUES
from edgebench.training_settings import Training
from edgebench.validation import validated

OPTIONS = TECHNIQUES.get("distill").Options


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"loss": "kd"}, "'loss' in the options: input should be 'logits'"),
        ({"loss": "dkd", "alpha": 0.5}, "has weights of its own: dkd.alpha and dkd.beta"),
        ({"dkd": {"beta": 2}}, "'dkd' is for 'loss: dkd', not for 'loss: logits'"),
        ({"loss": "dkd", "hints": {}}, "'hints' is for 'loss: hints', not for 'loss: dkd'"),
        ({"loss": "crd", "attention": {}}, "'attention' is for 'loss: attention'"),
        ({"loss": "hints", "crd": {}}, "'crd' is for 'loss: crd'"),
        ({"loss": "dkd", "dkd": {"gamma": 1}}, "unknown key 'dkd.gamma'"),
        ({"loss": "crd", "crd": {"layers": ["a:b", "c:d"]}}, "'crd.layers'"),
        ({"loss": "hints", "hints": {"layers": ["a"]}}, "'a' is no pair of layers"),
        ({"loss": "hints", "hints": {"layers": ["a:b:c"]}}, "'a:b:c' is no pair of layers"),
        ({"loss": "attention", "attention": {"layers": [":b"]}}, "':b' is no pair of layers"),
        ({"loss": "label-smoothing", "teacher": "base"}, "asks no teacher: leave out 'teacher'"),
        ({"loss": "label-smoothing", "temperature": 2}, "has no temperature"),
        ({"loss": "crd", "temperature": 2}, "'temperature' has no effect while alpha is 0"),
        ({"alpha": 0, "temperature": 2}, "'temperature' has no effect while alpha is 0"),
        ({"loss": "crd", "teacher": "ensemble"}, "the teacher cannot be 'ensemble'"),
        ({"loss": "hints", "teacher": "uniform-noise"}, "the teacher cannot be 'uniform-noise'"),
        ({"teacher": "self", "width": 0.5}, "base's own architecture: leave out 'width'"),
        ({"teacher": "self", "student": "lenet"}, "leave out 'student'"),
        ({"teacher": "self", "options": {"width": 1}}, "leave out 'options'"),
        ({"teacher": "bse"}, "'teacher.kind' in the options: input should be 'base'"),
        ({"teacher": 3}, "'teacher'"),
        ({"teacher": "network"}, "the teacher 'network' needs its 'model'"),
        ({"teacher": {"modl": "lenet"}}, "unknown key 'teacher.modl'"),
        ({"teacher": {"model": "lenet", "members": 2}}, "'members' is for the teachers ensemble"),
        ({"teacher": {"kind": "base", "model": "lenet"}}, "'model' is for the teachers network"),
        ({"teacher": {"kind": "base", "epochs": 2}}, "'epochs' is for the teachers assistant, "),
        ({"teacher": {"kind": "ensemble", "members": 1}}, "teacher.members"),
        ({"teacher": {"kind": "ensemble", "jitter": {}}}, "'jitter' is for the teachers jitter"),
        ({"teacher": {"kind": "assistant", "assistants": [0.5, 0.7]}}, "must be falling widths"),
        ({"teacher": {"kind": "assistant", "assistants": [1.5]}}, "must be falling widths"),
        ({"teacher": {"kind": "assistant", "assistants": []}}, "teacher.assistants"),
        ({"teacher": {"model": "lenet", "weights": "f", "epochs": 2}}, "is not trained"),
        ({"as_published": "001"}, "'as_published' in the options: input should be '000'"),
        ({"as_published": "000", "temperature": 4}, "sets 'temperature' itself"),
        ({"as_published": "000", "loss": "dkd"}, "sets 'loss' itself"),
        ({"as_published": "000", "teacher": "jitter"}, "sets 'teacher' itself"),
        ({"as_published": "000", "weight_decay": 0.1}, "sets 'weight_decay' itself"),
        ({"as_published": "000", "width": 0.5}, "base's own architecture: leave out 'width'"),
        ({"weight_decay": -1}, "weight_decay"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(values: dict[str, Any], text) -> None:
    with pytest.raises(RecipeError) as caught:
        validated(OPTIONS, values, RecipeError, where="here", noun="options")
    line = str(caught.value)
    assert text in line
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "crd", "crd": {"negatives": 5, "layers": ["a.0:b.1"]}},
        {"loss": "attention", "alpha": 0.5, "temperature": 3},
        {"loss": "attention", "teacher": "assistant", "temperature": 3},
        {"loss": "dkd", "temperature": 2, "dkd": {"beta": 2, "warmup_epochs": 3}},
        {"teacher": {"model": "lenet", "options": {"width": 2}, "epochs": 3}},
        {"teacher": {"kind": "jitter", "jitter": {"hue": 0.1}}},
        {"as_published": "000", "alpha": 0.1, "epochs": 2, "learning_rate": 0.01},
    ],
)
def test_what_is_recorded_can_be_read_again(values: dict[str, Any]) -> None:
    options = OPTIONS.model_validate(values)
    assert OPTIONS.model_validate(options.model_dump(mode="json")) == options


def test_a_teacher_is_named_or_described() -> None:
    named = OPTIONS.model_validate({"teacher": "ensemble"}).taught_by
    assert named == TeacherSettings(kind="ensemble")
    assert OPTIONS().taught_by.kind == "base"
    assert TeacherSettings.model_validate({"model": "lenet"}).kind == "network"


@pytest.mark.parametrize(
    ("loss", "temperature", "alpha"),
    [("logits", 4, 0.9), ("cross-entropy", 1, 0.9), ("label-smoothing", 1, 0.1), ("crd", 4, 0)],
)
def test_each_loss_has_its_usual_temperature_and_alpha(loss, temperature, alpha) -> None:
    options = OPTIONS.model_validate({"loss": loss})
    assert (options.softened, options.share) == (temperature, alpha)
    options = OPTIONS.model_validate({"loss": "logits", "temperature": 2, "alpha": 0.5})
    assert (options.softened, options.share) == (2, 0.5)


BASE = Training(
    epochs=100,
    schedule="multi-step",
    milestones=[60, 90],
    decay=0.1,
    warmup_epochs=10,
    learning_rate=0.1,
)
COSINE = Training(epochs=100, learning_rate=0.1, final_learning_rate=1e-4)


def test_the_course_of_the_rate_keeps_its_proportions() -> None:
    half = adapted(BASE, epochs=50, learning_rate=0.01, weight_decay=0.5)
    assert (half.epochs, half.milestones, half.warmup_epochs) == (50, [30, 45], 5)
    assert adapted(COSINE, learning_rate=0.01).final_learning_rate == pytest.approx(1e-5)
    assert (half.learning_rate, half.weight_decay) == (0.01, 0.5)
    assert adapted(BASE, epochs=3).milestones == [2]
    assert adapted(BASE) == BASE


def test_without_a_milestone_left_the_rate_stays() -> None:
    one = adapted(BASE, epochs=1)
    assert (one.schedule, one.milestones, one.warmup_epochs) == ("constant", [], 0.1)
    assert one.decay == Training().decay


def test_a_published_training_is_the_papers_whatever_base_had() -> None:
    base = Training(
        epochs=25,
        optimizer="sgd",
        momentum=0.8,
        nesterov=True,
        weight_decay=0.1,
        label_smoothing=0.1,
        schedule="multi-step",
        milestones=[10],
        decay=0.5,
        warmup_epochs=2,
        ema=0.9,
        augment={"flip": True},
        order_seed=3,
    )
    wanted = Training(epochs=25, optimizer="adamax", schedule="constant", order_seed=3)
    assert published_training(base) == wanted
    assert published_training(Training(final_learning_rate=1e-5)).final_learning_rate == 0


def test_what_departs_from_the_paper_is_noted() -> None:
    assert departures(Training(epochs=25)) == []
    assert departures(Training(epochs=2, batch_size=32)) == [
        "trained with batch_size 32, epochs 2, where paper 000 had batch_size 64, epochs 25"
    ]
    assert departures(Training(epochs=25, learning_rate=0.01)) == [
        "trained with learning_rate 0.01, where paper 000 had learning_rate 0.001"
    ]
