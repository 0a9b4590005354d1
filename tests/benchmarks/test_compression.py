"""The proof of the techniques: its recipes are valid, and its page says what its files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compression.claims import claims
from benchmarks.compression.train import PHASES
from edgebench.models.base import MODELS
from edgebench.recipe import load_recipe
from edgebench.records import RunRecord
from edgebench.training_settings import Training

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "benchmarks" / "compression" / "recipes"
PAGE = ROOT / "reports" / "compression"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(str(recipe)).variants


def test_every_phase_of_base_is_a_training_that_a_recipe_may_ask_for() -> None:
    for phase in PHASES:
        assert Training.model_validate(phase.model_dump()) == phase


def test_what_was_not_run_is_not_claimed() -> None:
    assert {claim.shown for claim in claims(None, None, None)} == {None}


def test_the_page_says_what_its_runs_say() -> None:
    runs = [PAGE / f"{name}-run.json" for name in ("lenet-mnist", "resnet8-cifar10")]
    lenet, resnet = (
        RunRecord.model_validate_json(file.read_text()) if file.is_file() else None for file in runs
    )
    beside = PAGE / "side-by-side.json"
    found = claims(lenet, resnet, json.loads(beside.read_text()) if beside.is_file() else None)
    page = (PAGE / "README.md").read_text()
    for claim in found:
        assert f"| {' | '.join(claim.row())} |" in page


def test_the_committed_networks_load() -> None:
    from safetensors.torch import load_model

    files = sorted((PAGE / "networks").glob("*.safetensors"))
    for file in files:
        load_model(MODELS.get("resnet8")((3, 32, 32), 10), str(file))
