"""What all tables are made of: rows of the log in groups, rates with their intervals, cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

SHOWN, NOT_MET, TOO_FEW = "shown", "not met", "n too small to show it"
_MARKS = {"aa": "judged", "power": "judged", "truth": "added_us", "omission": "server"}


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, with the exact binomial 95 % interval of the true share.

    `least` and `most` are what is wanted of the true share; 0 and 1: nothing. Source: Clopper and
    Pearson, Biometrika 26 (1934).
    """

    hits: int
    n: int
    least: float = 0.0
    most: float = 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """Its low and high end; 0 and 1 where nothing was tried."""
        if self.n == 0:
            return 0.0, 1.0
        from scipy.stats import binomtest

        found = binomtest(self.hits, self.n).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    @property
    def word(self) -> str:
        """Whether the whole interval is what is wanted, is not, or is too wide to tell."""
        if self.n == 0 or (self.least, self.most) == (0.0, 1.0):
            return ""
        low, high = self.interval
        if self.least <= low and high <= self.most:
            return SHOWN
        return NOT_MET if high < self.least or low > self.most else TOO_FEW

    def __str__(self) -> str:
        if self.n == 0:
            return "–"
        low, high = self.interval
        share = 100 * self.hits / self.n
        told = f"{share:.1f} % ({self.hits} of {self.n}; {100 * low:.1f} to {100 * high:.1f})"
        return f"{told}: {self.word}" if self.word else told

    @property
    def short(self) -> str:
        """The share alone."""
        return f"{100 * self.hits / self.n:.0f} %" if self.n else "–"


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, the cells as text, and what a reader must know."""

    heading: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str | Rate, ...], ...]
    note: str
    # How many of the first columns say what a line is about.
    about: int


def rate(flags: Iterable[bool], *, least: float = 0.0, most: float = 1.0) -> Rate:
    """How many of them are true, and how many should be."""
    known = list(flags)
    return Rate(sum(known), len(known), least, most)


def trials_of(rows: Sequence[Row], experiment: str) -> list[Row]:
    """The finished trials of an experiment; a measurement that only served as a floor is none."""
    mark = _MARKS[experiment]
    return [r for r in rows if r["experiment"] == experiment and mark in r["result"]]


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some settings, in the order in which these first came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(k) for k in keys), []).append(row)
    return groups


def half_width(ratio: dict[str, Any]) -> float:
    """Half the width of a ratio's interval, relative to it."""
    return math.sqrt(ratio["high"] / ratio["low"]) - 1


def seconds_of(row: Row) -> float:
    """What edgebench spent on a trial of A/A or power: both measurements, with their second looks.

    `floor` is base against base, `measured` the second model against base.
    """
    result = row["result"]
    return float(result["floor"]["seconds"] + result["measured"]["seconds"])
