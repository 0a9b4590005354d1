"""Check everything a recipe names before any work starts: techniques, options, order, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgebench.errors import BuildError, RecipeError, UnknownNameError
from edgebench.metrics.base import METRICS, Kind
from edgebench.metrics.scenarios import scenario_of
from edgebench.recipe import Gate, Recipe, Step
from edgebench.scenario import Scenario
from edgebench.techniques.base import TECHNIQUES, Options, Technique, TorchTechnique
from edgebench.validation import validated


@dataclass(frozen=True)
class PlannedStep:
    """One technique of a chain with its validated options."""

    technique: Technique
    options: Options

    @property
    def on_torch(self) -> bool:
        """Whether the step works on a module (else on an ONNX file)."""
        return isinstance(self.technique, TorchTechnique)

    def record(self) -> dict[str, Any]:
        """The step as it stands in `run.json`."""
        return {"technique": self.technique.name, **self.options.model_dump(mode="json")}


@dataclass(frozen=True)
class PlannedVariant:
    """A variant's chain, ready to be built."""

    name: str
    steps: tuple[PlannedStep, ...]


def plan_variants(recipe: Recipe) -> tuple[PlannedVariant, ...]:
    """The chains of a recipe; raises RecipeError or UnknownNameError in one line."""
    planned = []
    for name, chain in recipe.variants.items():
        place = f"{recipe.where}: variant '{name}'"
        planned.append(PlannedVariant(name, plan_chain(chain, place)))
    return tuple(planned)


def plan_chain(chain: Sequence[Step], place: str) -> tuple[PlannedStep, ...]:
    """One chain, ready to be built; `place` is what messages call it."""
    steps = []
    for step in chain:
        technique = TECHNIQUES.get(step.technique, where=place)
        options = validated(
            technique.Options,
            step.options,
            RecipeError,
            where=place,
            noun=f"options of '{step.technique}'",
        )
        made = technique()
        try:
            made.check(options)
        except BuildError as error:
            raise RecipeError(error.what, where=place, hint=error.hint) from error
        steps.append(PlannedStep(made, options))
    _check_order(steps, place)
    return tuple(steps)


def check_gates(
    gates: Sequence[Gate], *, where: str = "recipe", scenarios: Sequence[Scenario] | None = None
) -> None:
    """Raise UnknownNameError or RecipeError for a gate that cannot be judged, or never be met.

    `scenarios` are those that will be measured, where that is known.
    """
    for gate in gates:
        metric = METRICS.get(gate.metric, where=f"{where}: gates")
        if metric.certainty == "none":
            raise RecipeError(
                f"'{gate.metric}' has no interval and cannot be a gate", where=f"{where}: gates"
            )
        positive = metric.of == "measured" and metric.better == "lower"
        if positive and gate.max is not None and gate.max <= 0:
            raise RecipeError(
                f"'{gate.metric}' is always above 0: nothing can meet max: {gate.max:g}",
                where=f"{where}: gates",
            )
        kind = scenario_of(gate.metric)
        if scenarios is not None and kind and all(kind != one.scenario for one in scenarios):
            raise RecipeError(
                f"the gate on '{gate.metric}' needs the scenario {kind}",
                where=f"{where}: gates",
                hint=f"add '- {{scenario: {kind}}}' to protocol.scenarios",
            )


def check_kind(gates: Sequence[Gate], answers: Kind, *, where: str) -> None:
    """Raise RecipeError for a gate on what is not known of answers of this kind."""
    for gate in gates:
        metric = METRICS.get(gate.metric, where=where)
        if metric.judges(answers):
            continue
        others = [
            name
            for name, one in METRICS.items()
            if one.of == "pair" and one.certainty != "none" and one.judges(answers)
        ]
        what = "classes" if answers == "any" else "other answers than classes"
        raise RecipeError(
            f"'{gate.metric}' is a metric of {what}, which this data does not give",
            where=where,
            hint=f"gate on {', '.join(others)}",
        )


def check_required(recipe: Recipe, require: Sequence[str]) -> None:
    """Raise UnknownNameError where `--require` names no variant of the recipe."""
    for name in require:
        if name not in recipe.variants:
            raise UnknownNameError("variant", name, recipe.variants, where="--require")


def _check_order(steps: Sequence[PlannedStep], place: str) -> None:
    for index, later in enumerate(steps):
        for earlier in steps[:index]:
            why = _refusal(earlier, later)
            if why is None:
                continue
            first, second = earlier.technique.name, later.technique.name
            other_way = f"put '{second}' before '{first}'"
            refused_too = _refusal(later, earlier) is not None
            raise RecipeError(
                why, where=place, hint="leave one of them out" if refused_too else other_way
            )


def _refusal(earlier: PlannedStep, later: PlannedStep) -> str | None:
    """Why one step cannot come anywhere after another; None where it can."""
    first, second = earlier.technique, later.technique
    if (undone := first.undone_by(earlier.options, second.name, later.options)) is not None:
        return f"'{second.name}' would undo '{first.name}': {undone}"
    if (closed := first.closed_by(earlier.options)) is not None:
        return f"'{second.name}' cannot follow '{first.name}': {closed}"
    if second.replaces:
        return f"'{second.name}' starts a new network and would lose '{first.name}'"
    if later.on_torch and not earlier.on_torch:
        return (
            f"'{second.name}' works on the module and cannot follow '{first.name}', which works on "
            "the exported file"
        )
    return None
