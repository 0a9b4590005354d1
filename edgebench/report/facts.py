"""What a reader is told of a measurement, and how untrusted JSON is read without trusting it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from edgebench.records import Estimate
from edgebench.report import format as fmt

T = TypeVar("T")

# A number from a device may be anything.
_LONG = 1e15


class Fact(NamedTuple):
    """One thing that was seen, in words. `doubtful`: a sceptic should know of it."""

    title: str
    text: str
    doubtful: bool = False


class Table(NamedTuple):
    """Several numbers of one kind; the first column is text, the others are numbers."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Section(NamedTuple):
    """Facts that belong together, and the tables that are too long for a sentence."""

    title: str
    facts: tuple[Fact, ...]
    tables: tuple[Table, ...] = ()


class Told:
    """A mapping from a device, from which values are taken if they are what they should be.

    What nobody takes, or is of another kind than it should be, stays in `left`.
    """

    def __init__(self, values: object) -> None:
        self.left: dict[str, Any] = {
            str(key): value for key, value in mapping(values).items() if value is not None
        }

    def take(self, key: str, read: Callable[[Any], T | None]) -> T | None:
        """The value under `key`, or None where there is none that `read` can read."""
        found = read(self.left.get(key))
        if found is not None:
            del self.left[key]
        return found

    def inside(self, key: str) -> Told:
        """The mapping under `key`; an empty one where it is none."""
        found = self.left.get(key)
        if isinstance(found, Mapping):
            del self.left[key]
            return Told(found)
        return Told({})

    def rest(self) -> list[Fact]:
        """What nobody took, as it is."""
        return [Fact(title(key), fmt.plain(value)) for key, value in self.left.items()]


def title(key: object) -> str:
    """A key as words."""
    return fmt.plain(key).replace("_", " ")


def mapping(value: object) -> Mapping[Any, Any]:
    """`value`, or an empty mapping where it is none."""
    return value if isinstance(value, Mapping) else {}


def amount(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def flag(value: object) -> bool | None:
    """True or False, or None where it is neither."""
    return value if isinstance(value, bool) else None


def text(value: object) -> str | None:
    """A text on one line, or None."""
    return fmt.plain(value) if isinstance(value, str) and value else None


def texts(value: object) -> list[str] | None:
    """A list of texts, or None where it is none or another thing is in it."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        return None
    return [fmt.plain(v) for v in value]


def amounts(value: object) -> dict[str, float] | None:
    """A mapping of names to numbers, or None where it is none or another thing is in it."""
    if not isinstance(value, Mapping):
        return None
    found = {fmt.plain(key): amount(number) for key, number in value.items()}
    known = {key: number for key, number in found.items() if number is not None}
    return known if len(known) == len(found) else None


def rows(value: object) -> list[Mapping[str, Any]] | None:
    """A list of mappings that is not empty, or None."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    return list(value) if all(isinstance(v, Mapping) for v in value) else None


def interval(value: object) -> Estimate | None:
    """An estimate, or None where it is none."""
    try:
        return Estimate.model_validate(value)
    except ValidationError:
        return None


def whole(number: float) -> str:
    """A whole number: `2,000`; what is too long to be one is written shorter."""
    return f"{number:{',.0f' if abs(number) < _LONG else '.3g'}}".replace("-", "−")


def count(number: float, singular: str, plural: str = "") -> str:
    """`1 query`, `2,000 queries`: a number and what it counts."""
    return f"{whole(number)} {singular if number == 1 else plural or f'{singular}s'}"


def share(value: float) -> str:
    """A share as per cent: `0.80 %`, `1.5 %`, `12 %`."""
    percent = 100 * value
    if not percent:
        return "0 %"
    if abs(percent) < 0.01:
        return "under 0.01 %"
    if abs(percent) >= _LONG:
        return f"{percent:.3g} %"
    decimals = 0 if abs(percent) >= 10 else 1 if abs(percent) >= 1 else 2
    return f"{percent:.{decimals}f} %".replace("-", "−")


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first `most` names, and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
