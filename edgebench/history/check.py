"""Judge series of past runs: what got worse, what got better, what cannot be told yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgebench.errors import EXIT_GO, EXIT_INCONCLUSIVE, EXIT_NO_GO
from edgebench.history.changes import PERSISTING, level_changes
from edgebench.history.series import ABSOLUTE, HIGHER_IS_BETTER, NEUTRAL, Point, Series, SeriesKey

State = Literal["regression", "improvement", "changed", "steady", "too few runs"]
ORDER: tuple[State, ...] = ("regression", "changed", "improvement", "too few runs", "steady")

# What a half width of 95 % says of the standard deviation.
_TO_SIGMA = 1 / 1.96


@dataclass(frozen=True)
class Finding:
    """What one series says. Only its last change decides; `earlier` counts those before it.

    `since` is the run that first showed the level of now; `before` and `after` are in the metric's
    unit, `change` and `delta` (what counts as a change) are shares.
    """

    key: SeriesKey
    state: State
    runs: int
    delta: float
    now: float
    before: float | None = None
    after: float | None = None
    change: float | None = None
    since: str | None = None
    earlier: int = 0
    detail: str = ""

    def record(self) -> dict[str, Any]:
        """The finding as JSON."""
        return asdict(self)


def check_series(series: Series, limit: float) -> Finding:
    """The finding on one series; `limit` is the least share of a timed metric worth a word."""
    return _timed(series, limit) if series.timed else _exact(series)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 where anything got worse, 3 where a series is too short to tell, else 0."""
    states = {finding.state for finding in findings}
    if "regression" in states:
        return EXIT_NO_GO
    return EXIT_INCONCLUSIVE if "too few runs" in states or not findings else EXIT_GO


def noise_of(points: Sequence[Point]) -> tuple[float, float]:
    """The noise floor δ is at least, and the standard deviation of one value: both shares.

    The floor is twice the half width of base against itself, which a run carries with it; a metric
    that is not of the clock takes twice the half width of its own interval. Of several runs, the
    median.
    """
    floors = [p.floor for p in points if p.floor is not None]
    widths = [p.half_width for p in points if p.half_width is not None]
    width = float(np.median(widths)) if widths else 0.0
    floor = float(np.median(floors)) if floors else 2 * width
    return floor, width * _TO_SIGMA


def _timed(series: Series, limit: float) -> Finding:
    points = series.points
    floor, noise = noise_of(points)
    delta = max(limit, floor)
    now = points[-1].value
    if len(points) < 2 * PERSISTING:
        return Finding(series.key, "too few runs", len(points), delta, now)
    changes = level_changes(np.array([p.value for p in points]), delta, noise)
    if not changes:
        return Finding(series.key, "steady", len(points), delta, now)
    last = changes[-1]
    state = _direction(series.key.metric, last.after - last.before)
    if series.key.metric in ABSOLUTE and any(p.shared for p in points):
        # Other work on the device would do as an explanation; the ratio to base tells them apart.
        state = "changed"
    return Finding(
        series.key,
        state,
        len(points),
        delta,
        now,
        before=last.before,
        after=last.after,
        change=last.relative,
        since=points[last.index].run_id,
        earlier=len(changes) - 1,
    )


def _exact(series: Series) -> Finding:
    points = series.points
    now = points[-1].value
    if len(points) < 2:
        return Finding(series.key, "too few runs", len(points), 0.0, now)
    changed = [
        place
        for place in range(1, len(points))
        if (points[place].value, points[place].detail)
        != (points[place - 1].value, points[place - 1].detail)
    ]
    if not changed:
        return Finding(series.key, "steady", len(points), 0.0, now)
    before, after = points[changed[-1] - 1], points[changed[-1]]
    return Finding(
        series.key,
        _direction(series.key.metric, after.value - before.value),
        len(points),
        0.0,
        now,
        before=before.value,
        after=after.value,
        change=after.value / before.value - 1 if before.value else None,
        since=after.run_id,
        earlier=len(changed) - 1,
        detail=_moved(before.detail, after.detail),
    )


def _direction(metric: str, difference: float) -> State:
    if metric in NEUTRAL or difference == 0:
        return "changed"
    return "improvement" if (difference > 0) == (metric in HIGHER_IS_BETTER) else "regression"


def _moved(before: dict[str, int], after: dict[str, int]) -> str:
    """The operators whose number differs: `QLinearConv 3 → 0`."""
    names = sorted({*before, *after})
    return ", ".join(
        f"{name} {before.get(name, 0)} → {after.get(name, 0)}"
        for name in names
        if before.get(name, 0) != after.get(name, 0)
    )
