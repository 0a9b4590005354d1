"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgebench.recipe import Recipe
    from edgebench.target import Target

RecipeArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RECIPE]", help="A recipe's file or name; none: quickstart."),
]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="A target's name or file; see 'targets list'.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run's folder; none: runs/RECIPE-TARGET."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="A named model, package.module:factory, or a file.onnx."),
]
WeightsOption = Annotated[
    str | None, typer.Option(help="The model's weights: safetensors, or a state dict.")
]
DataOption = Annotated[
    str | None, typer.Option(help="A named data set, a folder of class folders, or parquet.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, or target.KEY=VALUE."),
]
HostOption = Annotated[
    str | None, typer.Option(metavar="USER@HOST[:PORT]", help="Where a target over ssh is.")
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="VARIANT", help="This variant must be GO; repeatable."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print run.json on standard output, and nothing else.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def recipe_and_target(
    recipe: str | None,
    *,
    target: str,
    model: str | None,
    weights: str | None,
    data: str | None,
    settings: list[str] | None,
    host: str | None,
) -> tuple[Recipe, Target]:
    """The recipe and the target as the command line changes them."""
    from edgebench.recipe import load_recipe
    from edgebench.target import load_target

    overrides: dict[str, Any] = {
        name: value
        for name, value in (("model", model), ("weights", weights), ("data", data))
        if value is not None
    }
    if overrides and recipe is None:
        overrides["name"] = "-".join(short_name(v) for v in (model, data) if v) or "quickstart"
    mine = [s for s in settings or [] if not s.strip().startswith("target.")]
    theirs = [s.strip().removeprefix("target.") for s in settings or [] if s not in mine]
    return (
        load_recipe(recipe, overrides=overrides, settings=mine),
        load_target(target, host=host, settings=theirs),
    )


def short_name(spec: str) -> str:
    """A word for a model or data set in a folder's name."""
    word = Path(spec.rpartition(":")[2]).stem.lower()
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in word).strip("-.") or "custom"


def run_folder(out: Path | None, recipe: Recipe, target: Target) -> Path:
    """The folder of a run: the one named, or one in ./runs that the same command finds again."""
    return out if out is not None else Path("runs") / f"{recipe.name}-{target.name}"
