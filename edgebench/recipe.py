"""The recipe: what the user wrote, validated on load.

Names of techniques, metrics and models are looked up later, by the pipeline, before any work
starts; here it is the shape that is checked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edgebench.errors import RecipeError, UnknownNameError, UsageError
from edgebench.protocol import Protocol, resolve_protocol
from edgebench.search_space import Search
from edgebench.shipped import shipped_folder
from edgebench.training_settings import Training
from edgebench.validation import validated
from edgebench.yamlfile import parse_yaml, read_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
RESERVED = re.compile(r"base|independent-\d+|.+\.reference")


def reference_name(variant: str) -> str:
    """What the network that is measured beside a variant is called."""
    return f"{variant}.reference"


def _variant_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"'{name}' cannot name a variant: use lower-case letters, digits, '.', '_' and '-'"
        )
    if RESERVED.fullmatch(name):
        raise ValueError(f"'{name}' is a name edgebench gives itself; choose another")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(BaseModel):
    """One technique of a chain; all keys but `technique` are the technique's own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    technique: str

    @property
    def options(self) -> dict[str, Any]:
        """The technique's options as written."""
        return dict(self.model_extra or {})


class Controls(_Part):
    """Networks that give distance a scale: the same architecture, trained from another seed.

    `independent` of them are trained; `files` are ONNX files the user trained so, for a base that
    is a file itself. They are numbered on: independent-1, independent-2, …
    """

    independent: int = Field(2, ge=0, le=32)
    files: list[str] = Field(default_factory=list, max_length=32)


class DataLimits(_Part):
    """At most so many examples of each split, drawn per class by the seed.

    `validation` of the training examples are held out of all training; what a technique decides by
    accuracy, it decides on them.
    """

    train: int | None = Field(None, ge=2)
    test: int | None = Field(None, ge=2)
    validation: int | None = Field(None, ge=2)


class Gate(_Part):
    """One condition a variant must meet: `metric` within [`min`, `max`]."""

    metric: str
    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _has_a_limit(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError(f"the gate on '{self.metric}' has neither min nor max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the gate on '{self.metric}' has min above max")
        return self

    def describe(self) -> str:
        """The gate in words, e.g. `latency_ratio ≤ 1.05`."""
        parts = []
        if self.min is not None:
            parts.append(f"{self.metric} ≥ {self.min:g}")
        if self.max is not None:
            parts.append(f"{self.metric} ≤ {self.max:g}")
        return " and ".join(parts)


class Recipe(_Part):
    """What to do: model, data, variants, protocol, gates, seed."""

    name: str = "recipe"
    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    data: str
    data_limits: DataLimits = DataLimits()
    training: Training = Training()
    variants: dict[Annotated[str, AfterValidator(_variant_name)], list[Step]] = Field(
        default_factory=dict
    )
    search: Search | None = None
    controls: Controls = Controls()
    protocol: Protocol
    gates: list[Gate]
    seed: int = Field(0, ge=0, le=2**31 - 1)

    _where: str = PrivateAttr("recipe")

    @property
    def where(self) -> str:
        """The file it was read from, for messages."""
        return self._where

    @model_validator(mode="before")
    @classmethod
    def _has_work(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("search") and "variants" not in values:
            raise ValueError("there are no variants; a run needs at least one")
        return values

    @field_validator("gates", "variants", mode="before")
    @classmethod
    def _not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        if value in ([], {}):
            raise ValueError(f"there are no {info.field_name}; a run needs at least one")
        return value

    @field_validator("variants")
    @classmethod
    def _no_empty_chain(cls, variants: dict[str, list[Step]]) -> dict[str, list[Step]]:
        for name, chain in variants.items():
            if not chain:
                raise ValueError(f"the variant '{name}' has an empty chain; list its techniques")
        return variants

    def with_variants(self, variants: dict[str, list[dict[str, Any]]]) -> Recipe:
        """The same recipe with other variants."""
        steps = {
            name: [Step.model_validate(dict(step)) for step in chain]
            for name, chain in variants.items()
        }
        return self.model_copy(update={"variants": steps})


def load_recipe(
    source: str | None,
    *,
    overrides: dict[str, Any] | None = None,
    settings: list[str] | None = None,
) -> Recipe:
    """The recipe at a path or of a shipped name (none: `quickstart`).

    `overrides` replace whole top-level keys (from options such as `--model`), `settings` are
    `dotted.key=value` texts (from `--set`), applied last.
    """
    path = find_recipe(source or "quickstart")
    values = read_yaml(path, RecipeError, "recipe")
    where = str(path)
    if not isinstance(values, dict):
        validated(Recipe, values, RecipeError, where=where, noun="recipe")
    values = {"name": path.stem, **values, **(overrides or {})}
    for setting in settings or []:
        apply_setting(values, setting)
    protocol = values.get("protocol", "quick")
    if isinstance(protocol, (str, dict)):
        values["protocol"] = resolve_protocol(protocol, where=where)
    elif not isinstance(protocol, Protocol):
        raise RecipeError("'protocol' is neither a profile's name nor a mapping", where=where)
    recipe = validated(Recipe, values, RecipeError, where=where, noun="recipe")
    recipe._where = where
    return recipe


def find_recipe(source: str) -> Path:
    """The file of a recipe: a path as it stands, or a shipped recipe's name."""
    path = Path(source)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        return path
    shipped = {p.stem: p for p in shipped_folder("recipes").glob("*.yaml")}
    if source in shipped:
        return shipped[source]
    raise UnknownNameError("recipe", source, shipped)


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Set one `dotted.key=value` in `values`; the value is read as YAML, a number indexes a list.

    Mappings that are not there yet are made, so that validation names the unknown key.
    """
    key, sign, text = setting.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"--set takes key=value, not '{setting}'", hint="e.g. --set seed=1")
    value = parse_yaml(text, UsageError, where=f"--set {key}", noun="value")
    *parents, last = key.strip().split(".")
    place: Any = values
    for parent in parents:
        if isinstance(place, list):
            place = place[_index(place, parent, setting)]
            continue
        inner = place.setdefault(parent, {})
        if isinstance(inner, str) and parent == "protocol":
            inner = place[parent] = {"profile": inner}
        if not isinstance(inner, (dict, list)):
            raise UsageError(f"'{parent}' holds a single value", where=f"--set {setting}")
        place = inner
    if isinstance(place, list):
        place[_index(place, last, setting)] = value
    else:
        place[last] = value


def _index(items: list[Any], text: str, setting: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        raise UsageError(
            f"'{text}' is not a place in a list of {len(items)}",
            where=f"--set {setting}",
            hint="count from 0",
        )
    return int(text)


def read_policy(path: Path) -> list[Gate]:
    """The gates in a YAML file: a mapping with `gates:`, such as any recipe, or a bare list."""
    values = read_yaml(path, RecipeError, "policy")
    listed = values.get("gates") if isinstance(values, dict) else values
    if not isinstance(listed, list) or not listed:
        raise RecipeError("the policy has no list of gates", where=str(path))
    return [validated(Gate, one, RecipeError, where=str(path), noun="gate") for one in listed]
