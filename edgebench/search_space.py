"""The space that `edgebench search` looks through: chains in which some values are open.

In a chain of `search.chains`, any option's value may be `{choose: [a, b, …]}` or `{from: a, to: b}`
(with `step`, or `log: true`), at any depth; a step with `optional: true` may be left out.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from edgebench.hashing import named_seed

Number = Annotated[float, Field(allow_inf_nan=False)] | int


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(_Part):
    """One of several values, each anything that can stand in a recipe."""

    choose: list[Any] = Field(min_length=1)

    @field_validator("choose")
    @classmethod
    def _tells_them_apart(cls, values: list[Any]) -> list[Any]:
        texts = []
        for value in values:
            try:
                texts.append(json.dumps(value, sort_keys=True))
            except TypeError:
                kind = type(value).__name__
                raise ValueError(f"{value} is a {kind}; quote it to have it as text") from None
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands there twice")
        return values

    @property
    def texts(self) -> list[str]:
        """The values as JSON: 1, 1.0 and true are three values, and a mapping is one."""
        return [json.dumps(value, sort_keys=True) for value in self.choose]

    def examples(self) -> list[Any]:
        """Every value."""
        return self.choose


class Interval(_Part):
    """A number from `low` to `high`, both included: whole where both are, and `step` is."""

    low: Number = Field(alias="from")
    high: Number = Field(alias="to")
    step: Number | None = Field(None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _has_room(self) -> Interval:
        if not self.low < self.high:
            raise ValueError(f"'from: {self.low:g}' is not below 'to: {self.high:g}'")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("'log: true' needs 'from' above 0, and no step")
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9 * steps:
                raise ValueError(f"steps of {self.step:g} do not lead to 'to: {self.high:g}'")
        return self

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        given = (self.low, self.high, 1 if self.step is None else self.step)
        return all(isinstance(value, int) for value in given)

    def examples(self) -> list[float | int]:
        """Both ends, and one between that is no whole number by chance."""
        if self.step is not None:
            inner = self.low + self.step * (round((self.high - self.low) / self.step) // 2)
        else:
            inner = self.low + 0.382 * (self.high - self.low)
        return [self.low, round(inner) if self.whole else inner, self.high]


Open = Choice | Interval
# Asked with a name and what is open: the value to try.
Suggest = Callable[[str, Open], Any]
Chain = list[dict[str, Any]]
# How often the others of an open value are drawn before no chain is said to hold it.
RANDOM_FILLS = 200
OPTIONAL = "optional"
CHAIN = "chain"


class Search(_Part):
    """What to look for: `objectives` are improved, the limits are the recipe's gates.

    At most `trials` chains are tried. Of those that lie on the Pareto front within the limits,
    `keep`, best in the first objective first, are measured again as variants with the run's own
    protocol.
    """

    chains: dict[str, Chain] = Field(min_length=1)
    trials: int = Field(20, ge=1, le=10000)
    objectives: list[str] = Field(
        default_factory=lambda: ["latency_ratio", "accuracy_delta_pp"], min_length=1, max_length=3
    )
    keep: int = Field(3, ge=1, le=32)

    @field_validator("chains")
    @classmethod
    def _are_chains(cls, chains: dict[str, Chain]) -> dict[str, Chain]:
        for name, steps in chains.items():
            if not steps:
                raise ValueError(f"the chain '{name}' is empty; list its techniques")
            for step in steps:
                _check_step(name, step)
            # Reads every open value once, so that a wrong one is found now.
            opened(name, steps)
            if all(step.get(OPTIONAL) for step in steps):
                raise ValueError(f"every step of the chain '{name}' is optional")
        return chains

    @field_validator("objectives")
    @classmethod
    def _once(cls, objectives: list[str]) -> list[str]:
        if len(set(objectives)) != len(objectives):
            raise ValueError("an objective is named twice")
        return objectives

    def draw(self, suggest: Suggest) -> tuple[str, Chain]:
        """One chain with every open value filled in, and its name."""
        names = sorted(self.chains)
        name = str(suggest(CHAIN, Choice(choose=list(names)))) if len(names) > 1 else names[0]
        return name, fill(name, self.chains[name], suggest)

    def examples(self, seed: int) -> Iterator[tuple[str, Iterator[Chain]]]:
        """For every value that may be drawn: its chain's name, and chains that hold it.

        A value that makes all of its chains impossible is wrong; of those with an interval, both
        ends and one between are taken. All other values are each chain's first, then their last,
        then drawn: `RANDOM_FILLS` times, the same for the same `seed`.
        """
        for name, steps in self.chains.items():
            spaces = opened(name, steps)
            if not spaces:
                yield name, iter([fill(name, steps, _first)])
            for place, space in spaces.items():
                for value in space.examples():
                    yield name, _holding(name, steps, place, value, seed)

    def drawn_words(self, name: str, drawn: dict[str, Any]) -> list[tuple[str, Any]]:
        """What was drawn for a chain, for people: the option's name, and its value.

        A step that was left out stands there as ("without", technique).
        """
        words: list[tuple[str, Any]] = []
        for place, value in drawn.items():
            if place == CHAIN:
                continue
            index, _, rest = place.removeprefix(f"{name}.").partition(".")
            technique = self.chains[name][int(index)]["technique"]
            if place.endswith("?"):
                words += [] if value else [("without", technique)]
            else:
                words.append((rest.removeprefix(f"{technique}."), value))
        return words


def _check_step(name: str, step: dict[str, Any]) -> None:
    if type(step.get("technique")) is not str:
        raise ValueError(f"a step of the chain '{name}' names no technique")
    if type(step.get(OPTIONAL, False)) is not bool:
        raise ValueError(f"'optional' in the chain '{name}' is neither true nor false")


def fill(name: str, steps: Chain, suggest: Suggest) -> Chain:
    """The steps of the chain `name` with `suggest`'s values in place of the open ones."""
    chain = []
    for index, step in enumerate(steps):
        place = f"{name}.{index}.{step['technique']}"
        if step.get(OPTIONAL) and not suggest(f"{place}?", Choice(choose=[True, False])):
            continue
        rest = {key: value for key, value in step.items() if key != OPTIONAL}
        chain.append({key: _fill(f"{place}.{key}", v, suggest) for key, v in rest.items()})
    return chain


def opened(name: str, steps: Chain) -> dict[str, Open]:
    """Every open value of a chain, by its place."""
    found: dict[str, Open] = {}

    def note(place: str, space: Open) -> Any:
        found[place] = space
        return _first(place, space)

    fill(name, steps, note)
    return found


def _first(place: str, space: Open) -> Any:
    del place
    return space.examples()[0]


def _last(place: str, space: Open) -> Any:
    # A step that is left out would hide what is wrong with its values.
    return True if place.endswith("?") else space.examples()[-1]


def _holding(name: str, steps: Chain, place: str, value: Any, seed: int) -> Iterator[Chain]:
    """Chains that hold a value at a place."""
    rng = random.Random(named_seed(seed, f"search/{place}"))  # noqa: S311 - no secret

    def drawn(at: str, space: Open) -> Any:
        # A step that is left out would hold nothing.
        kept = at.endswith("?") and place.startswith(f"{at[:-1]}.")
        return True if kept else rng.choice(space.examples())

    for others in (_first, _last, *[drawn] * RANDOM_FILLS):
        yield fill(name, steps, _with(place, value, others))


def _with(place: str, value: Any, others: Suggest) -> Suggest:
    return lambda at, space: value if at == place else others(at, space)


def _fill(place: str, value: Any, suggest: Suggest) -> Any:
    space = _read(place, value)
    if space is not None:
        return suggest(place, space)
    if isinstance(value, dict):
        return {key: _fill(f"{place}.{key}", inner, suggest) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(f"{place}.{index}", inner, suggest) for index, inner in enumerate(value)]
    return value


def _read(place: str, value: Any) -> Open | None:
    if not isinstance(value, dict):
        return None
    kind = Choice if "choose" in value else Interval if {"from", "to"} & value.keys() else None
    if kind is None:
        return None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"][:1]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {f'{key}: ' if key else ''}{message}") from None
