"""What a recipe may say of a training, and the one line for what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgebench.errors import RecipeError
from edgebench.recipe import load_recipe
from edgebench.training_settings import Augment, Jitter, Training
from edgebench.validation import validated

STEPS = {"schedule": "multi-step", "epochs": 90, "milestones": [60, 80]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"milestones": [5]}, "milestones need 'schedule: multi-step'"),
        (
            {"schedule": "multi-step"},
            "'schedule: multi-step' needs milestones, e.g. [60, 80]",
        ),
        ({**STEPS, "epochs": 80}, "the milestone 80 lies beyond the 80 epochs"),
        (
            {**STEPS, "milestones": [60, 60]},
            "'milestones' in the training: milestones must be rising numbers of epochs, from 1 on",
        ),
        (
            {**STEPS, "milestones": [0, 60]},
            "'milestones' in the training: milestones must be rising numbers of epochs, from 1 on",
        ),
        (
            {"epochs": 5, "warmup_epochs": 5.5},
            "5.5 warmup_epochs are more than the 5 epochs",
        ),
        (
            {"learning_rate": 0.01, "final_learning_rate": 0.1},
            "final_learning_rate 0.1 is above learning_rate 0.01",
        ),
        (
            {"schedule": "constant", "final_learning_rate": 1e-5},
            "final_learning_rate needs 'schedule: cosine'",
        ),
        ({**STEPS, "final_learning_rate": 1e-5}, "final_learning_rate needs 'schedule: cosine'"),
        ({"decay": 0.5}, "decay needs 'schedule: multi-step'"),
        ({"schedule": "constant", "decay": 0.5}, "decay needs 'schedule: multi-step'"),
        ({"momentum": 0.5}, "momentum needs 'optimizer: sgd'"),
        ({"momentum": 0.5, "optimizer": "adamax"}, "momentum needs 'optimizer: sgd'"),
        ({"momentum": 0.95, "optimizer": "adamw"}, "momentum needs 'optimizer: sgd'"),
        ({"nesterov": True}, "nesterov needs 'optimizer: sgd'"),
        (
            {"nesterov": True, "optimizer": "sgd", "momentum": 0},
            "nesterov needs a momentum above 0",
        ),
        (
            {"augment": {"jitter": {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}}},
            "'augment.jitter' in the training: a jitter whose strengths are all 0 changes nothing: "
            "leave it out",
        ),
        (
            {"optimizer": "adagrad"},
            "'optimizer' in the training: input should be 'adam', 'adamax', 'adamw' or 'sgd' "
            "(given 'adagrad')",
        ),
        (
            {"ema": 1},
            "'ema' in the training: input should be less than 1 (given 1)",
        ),
        (
            {"epochs": 0},
            "'epochs' in the training: input should be greater than or equal to 1 (given 0)",
        ),
        (
            {"learning_rate": float("nan")},
            "'learning_rate' in the training: input should be less than or equal to 10 (given nan)",
        ),
        (
            {"augment": {"crop": -1}},
            "'augment.crop' in the training: input should be greater than or equal to 0 (given -1)",
        ),
        (
            {"augment": {"flips": True}},
            "unknown key 'augment.flips' in the training; did you mean 'flip'?",
        ),
        ({"epoch": 3}, "unknown key 'epoch' in the training; did you mean 'epochs'?"),
    ],
)
def test_what_makes_no_sense_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        validated(Training, values, RecipeError, where="r.yaml", noun="training")
    assert str(caught.value) == f"r.yaml: {message}"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: lenet\ndata: digits\n"
        "variants: {int8: [{technique: ptq}]}\ngates: [{metric: latency_ratio, max: 1}]\n"
        "training: {epochs: 90, schedule: multi-step, milestones: [60, 80]}\n"
    )
    return str(path)


def test_a_default_may_be_written_out_where_it_has_no_effect() -> None:
    Training(momentum=0.9, decay=0.2, final_learning_rate=0, milestones=[], nesterov=False)


def test_what_is_changed_keeps_nothing_that_the_change_makes_no_use_of() -> None:
    first = Training.model_validate({**STEPS, "decay": 0.5, "optimizer": "sgd", "momentum": 0.8})
    plain = first.changed(schedule="constant", optimizer="adam")
    assert plain == Training(epochs=90, schedule="constant")
    assert first.changed(weight_decay=0.1).decay == 0.5


def test_fewer_epochs_than_milestones_are_refused_on_the_command_line_too(recipe: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, settings=["training.epochs=10"])
    assert str(caught.value) == (
        f"{recipe}: 'training' in the recipe: the milestone 80 lies beyond the 10 epochs"
    )
    shorter = load_recipe(recipe, settings=["training.epochs=10", "training.milestones=[6, 8]"])
    assert (shorter.training.epochs, shorter.training.milestones) == (10, [6, 8])


def test_what_is_shortened_follows_one_cosine() -> None:
    first = Training.model_validate(
        {
            **STEPS,
            "decay": 0.5,
            "warmup_epochs": 5,
            "optimizer": "sgd",
            "nesterov": True,
            "batch_size": 128,
            "weight_decay": 5e-4,
            "ema": 0.99,
            "label_smoothing": 0.1,
            "augment": {"flip": True, "crop": 4, "jitter": {"hue": 0.1}},
            "init_seed": 3,
            "order_seed": 4,
        }
    )
    short = first.shortened(7, 0.002)
    changed = {"epochs", "learning_rate", "schedule", "warmup_epochs", "milestones", "decay"}
    assert (short.epochs, short.learning_rate, short.schedule) == (7, 0.002, "cosine")
    assert (short.warmup_epochs, short.final_learning_rate, short.milestones) == (0.0, 0.0, [])
    assert short.model_dump(exclude=changed) == first.model_dump(exclude=changed)
    assert Training.model_validate(short.model_dump()) == short


@pytest.mark.parametrize(("epochs", "rate"), [(0, 0.1), (3, 0.0), (3, 11.0)])
def test_what_no_recipe_may_ask_for_cannot_be_reached_by_shortening(
    epochs: int, rate: float
) -> None:
    with pytest.raises(ValidationError):
        Training().shortened(epochs, rate)


def test_the_cosine_of_a_shortened_training_ends_at_zero() -> None:
    assert Training(final_learning_rate=1e-3).shortened(5, 1e-4).final_learning_rate == 0


@pytest.mark.parametrize(
    ("augment", "nothing"),
    [
        (Augment(), True),
        (Augment(flip=True), False),
        (Augment(crop=1), False),
        (Augment(jitter=Jitter()), False),
    ],
)
def test_whether_anything_is_augmented(augment: Augment, nothing: bool) -> None:
    assert augment.nothing is nothing


def test_settings_survive_json() -> None:
    settings = Training.model_validate({**STEPS, "augment": {"jitter": {"hue": 0.25}}})
    assert Training.model_validate_json(settings.model_dump_json()) == settings
