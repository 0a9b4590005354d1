"""The space that `edgebench search` looks through: chains in which some values are open.

In a chain of `search.chains`, any option's value may be `{choose: [a, b, …]}` or `{from: a, to: b}`
(with `step`, or `log: true`), at any depth; a step with `optional: true` may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Scalar = bool | int | float | str | None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(_Part):
    """One of several values."""

    choose: list[Scalar] = Field(min_length=1)


class Interval(_Part):
    """A number from `low` to `high`, both included: whole where both are, and `step` is."""

    low: float | int = Field(alias="from")
    high: float | int = Field(alias="to")
    step: float | int | None = Field(None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _has_room(self) -> Interval:
        if not self.low < self.high:
            raise ValueError(f"'from: {self.low:g}' is not below 'to: {self.high:g}'")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("'log: true' needs 'from' above 0, and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        given = (self.low, self.high, 1 if self.step is None else self.step)
        return all(isinstance(value, int) for value in given)


Open = Choice | Interval
# Asked with a name and what is open: the value to try.
Suggest = Callable[[str, Open], Scalar]
OPTIONAL = "optional"


class Search(_Part):
    """What to look for: `objectives` are improved, the limits are the recipe's gates.

    `trials` chains are tried. Of those that lie on the Pareto front within the limits, `keep`, best
    in the first objective first, are measured again as variants with the run's own protocol.
    """

    chains: dict[str, list[dict[str, Any]]] = Field(min_length=1)
    trials: int = Field(20, ge=1, le=100000)
    objectives: list[str] = Field(
        default_factory=lambda: ["latency_ratio", "accuracy_delta_pp"], min_length=1, max_length=3
    )
    keep: int = Field(3, ge=1, le=32)

    @field_validator("chains")
    @classmethod
    def _are_chains(
        cls, chains: dict[str, list[dict[str, Any]]]
    ) -> dict[str, list[dict[str, Any]]]:
        for name, steps in chains.items():
            if not steps:
                raise ValueError(f"the chain '{name}' is empty; list its techniques")
            for step in steps:
                _check_step(name, step)
            # Reads every open value once, so that a wrong one is found now.
            list(opened(name, steps))
            if all(step.get(OPTIONAL) for step in steps):
                raise ValueError(f"every step of the chain '{name}' is optional")
        return chains

    @field_validator("objectives")
    @classmethod
    def _once(cls, objectives: list[str]) -> list[str]:
        if len(set(objectives)) != len(objectives):
            raise ValueError("an objective is named twice")
        return objectives

    def draw(self, suggest: Suggest) -> tuple[str, list[dict[str, Any]]]:
        """One chain with every open value filled in, and its name."""
        names = sorted(self.chains)
        name = str(suggest("chain", Choice(choose=list(names)))) if len(names) > 1 else names[0]
        return name, fill(name, self.chains[name], suggest)

    def corners(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Each chain with its first and with its last values: what can be checked beforehand."""
        for name, steps in self.chains.items():
            yield name, fill(name, steps, lambda _, space: _end(space, first=True))
            yield name, fill(name, steps, lambda _, space: _end(space, first=False))


def _check_step(name: str, step: dict[str, Any]) -> None:
    if type(step.get("technique")) is not str:
        raise ValueError(f"a step of the chain '{name}' names no technique")
    if type(step.get(OPTIONAL, False)) is not bool:
        raise ValueError(f"'optional' in the chain '{name}' is neither true nor false")


def fill(name: str, steps: list[dict[str, Any]], suggest: Suggest) -> list[dict[str, Any]]:
    """The steps of the chain `name` with `suggest`'s values in place of the open ones."""
    chain = []
    for index, step in enumerate(steps):
        place = f"{name}.{index}.{step['technique']}"
        if step.get(OPTIONAL) and not suggest(f"{place}?", Choice(choose=[True, False])):
            continue
        rest = {key: value for key, value in step.items() if key != OPTIONAL}
        chain.append({key: _fill(f"{place}.{key}", v, suggest) for key, v in rest.items()})
    return chain


def opened(name: str, steps: list[dict[str, Any]]) -> Iterator[tuple[str, Open]]:
    """Every open value of a chain, by name."""
    found: list[tuple[str, Open]] = []

    def note(place: str, space: Open) -> Scalar:
        found.append((place, space))
        return _end(space, first=True)

    fill(name, steps, note)
    yield from found


def _fill(place: str, value: Any, suggest: Suggest) -> Any:
    space = _read(value)
    if space is not None:
        return suggest(place, space)
    if isinstance(value, dict):
        return {key: _fill(f"{place}.{key}", inner, suggest) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(f"{place}.{index}", inner, suggest) for index, inner in enumerate(value)]
    return value


def _read(value: Any) -> Open | None:
    if isinstance(value, dict) and "choose" in value:
        return Choice.model_validate(value)
    if isinstance(value, dict) and {"from", "to"} <= value.keys():
        return Interval.model_validate(value)
    return None


def _end(space: Open, *, first: bool) -> Scalar:
    if isinstance(space, Choice):
        return space.choose[0 if first else -1]
    return space.low if first else space.high
