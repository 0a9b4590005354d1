"""What all parts of the CIFAR-10 proof share, read from its recipe."""

from __future__ import annotations

from pathlib import Path

from edgebench.recipe import load_recipe

RECIPES = Path(__file__).parent / "recipes"
# The trained networks are kept with the page, so that whoever repeats the rest need not train them.
NETWORKS = Path("reports/compression/networks")
CIFAR_RECIPE = RECIPES / "resnet8-cifar10.yaml"

_recipe = load_recipe(str(CIFAR_RECIPE))
MODEL, DATA = _recipe.model, _recipe.data
VALIDATION = _recipe.data_limits.validation
