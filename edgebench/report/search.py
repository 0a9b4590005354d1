"""What a search tried: the Pareto front as a drawing, and every trial as a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from edgebench.records import RunRecord, SearchRecord, TriedChain
from edgebench.report import format as fmt
from edgebench.report.charts import gate_limits
from edgebench.report.glossary import words
from edgebench.report.labels import Label, place_labels
from edgebench.report.svg import (
    FONT_SIZE,
    INK,
    MUTED,
    TONE_COLOURS,
    inline_svg,
    new_figure,
    quiet_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import RenderableType

_WIDTH, _HEIGHT = 860.0, 440.0
_LEFT, _BOTTOM = 84.0, 76.0
# A chain so many times as far out as what has to be seen would squeeze all others together.
_FAR = 3.0
# What base is to itself, by the kind of metric.
_BASE = {"ratio": 1.0, "points": 0.0, "percent": 0.0}


@dataclass(frozen=True)
class TrialRow:
    """One trial: its number and name, its chain, what it reached, and what became of it."""

    name: str
    chain: str
    values: tuple[str, ...]
    outcome: str
    tone: str


class _Kind(NamedTuple):
    """How the trials of one kind are drawn."""

    label: str
    colour: str
    marker: str
    hollow: bool


_KINDS = {
    "beyond": _Kind("misses a limit", "#6b747e", "s", True),
    "within": _Kind("within the limits", "#0072b2", "o", True),
    "front": _Kind("on the front", TONE_COLOURS["go"], "o", False),
}


def search_columns(run: RunRecord) -> tuple[str, ...]:
    """What is shown of each trial, as column titles: the objectives, then the other limits."""
    return tuple(words(name).label for name in _shown(run))


def search_rows(run: RunRecord) -> list[TrialRow]:
    """The front, best in the first objective first, then the other trials in order."""
    if run.search is None:
        return []
    return [
        TrialRow(
            _name(trial),
            fmt.chain(trial.chain),
            tuple(_value(trial, name) for name in _shown(run)),
            _outcome(trial, run),
            "go" if trial.on_front else "none",
        )
        for trial in [*_front(run.search), *(t for t in run.search.trials if not t.on_front)]
    ]


def front_table(run: RunRecord) -> RenderableType | None:
    """The front for a terminal, one row a chain; None where nothing met the limits."""
    if run.search is None or not _front(run.search):
        return None
    from rich.table import Table
    from rich.text import Text

    tried = len(run.search.trials)
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=f"The Pareto front of {tried} chain{'s' * (tried > 1)}, as the search saw them",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("Trial", no_wrap=True)
    for name in run.search.objectives:
        table.add_column(words(name).label, justify="right")
    table.add_column("Chain", overflow="fold")
    for trial in _front(run.search):
        values = (Text(_value(trial, name), no_wrap=True) for name in run.search.objectives)
        mark = "" if trial.variant else " (not kept)"
        table.add_row(Text(f"{_name(trial)}{mark}"), *values, Text(fmt.chain(trial.chain)))
    return table


def search_figure(run: RunRecord) -> str | None:
    """The first two objectives of every trial that was measured, and the front among them.

    None where there is one objective, or no trial has both. What lies far from the limits, from
    base and from whatever met the limits stands at the edge, as a triangle.
    """
    if run.search is None or len(run.search.objectives) < 2:
        return None
    first, second = run.search.objectives[:2]
    shown = [t for t in run.search.trials if first in t.metrics and second in t.metrics]
    if not shown:
        return None
    figure = new_figure(_WIDTH, _HEIGHT)
    axes = figure.add_axes(
        (
            _LEFT / _WIDTH,
            _BOTTOM / _HEIGHT,
            (_WIDTH - _LEFT - 24) / _WIDTH,
            (_HEIGHT - _BOTTOM - 14) / _HEIGHT,
        )
    )
    quiet_axes(axes)
    base = (_BASE.get(words(first).kind), _BASE.get(words(second).kind))
    ranges = [
        _range(
            [t.metrics[name] for t in shown],
            [
                *(t.metrics[name] for t in shown if t.within),
                *(value for _, value in gate_limits(run, name)),
                *([own] if own is not None else []),
            ],
        )
        for name, own in zip((first, second), base, strict=True)
    ]
    axes.set_xlim(*ranges[0])
    axes.set_ylim(*ranges[1])
    _draw_limits(axes, run, first, second)
    if base[0] is not None and base[1] is not None:
        axes.plot(
            base[0], base[1], marker="*", markersize=12, color=INK, linestyle="none", label="base"
        )
    labels = []
    for kind, look in _KINDS.items():
        mine = [t for t in shown if _kind(t) == kind]
        _draw(axes, look, [(t.metrics[first], t.metrics[second]) for t in mine])
        if kind == "front":
            labels = [Label(t.metrics[first], t.metrics[second], _name(t), 6.0) for t in mine]
    if base[0] is not None and base[1] is not None:
        labels.append(Label(base[0], base[1], "base", 7.0))
    place_labels(axes, labels)
    _finish(axes, first, second)
    told = "; ".join(
        f"{_name(t)} {words(first).label} {_value(t, first)}, {words(second).label} "
        f"{_value(t, second)}, {_KINDS[_kind(t)].label}"
        for t in shown
    )
    return inline_svg(figure, "search", f"What the search tried: {told}.")


def _shown(run: RunRecord) -> tuple[str, ...]:
    """The metrics a reader decides by."""
    if run.search is None:
        return ()
    gates = run.recipe.get("gates")
    limits = [str(g["metric"]) for g in (gates if isinstance(gates, list) else [])]
    return tuple(dict.fromkeys([*run.search.objectives, *limits]))


def _front(search: SearchRecord) -> list[TriedChain]:
    first = search.objectives[0]
    sign = 1.0 if words(first).better == "lower" else -1.0
    # What has no finite value is identical to base.
    return sorted(
        (t for t in search.trials if t.on_front),
        key=lambda t: (first in t.metrics, sign * t.metrics.get(first, 0.0)),
    )


def _name(trial: TriedChain) -> str:
    return fmt.clean(trial.variant or f"trial-{trial.number}")


def _value(trial: TriedChain, name: str) -> str:
    if name in trial.metrics:
        return fmt.point(name, trial.metrics[name])
    return fmt.MISSING if trial.problem else fmt.NOT_FINITE


def _kind(trial: TriedChain) -> str:
    if trial.on_front:
        return "front"
    return "within" if trial.within else "beyond"


def _outcome(trial: TriedChain, run: RunRecord) -> str:
    if trial.problem:
        return fmt.plain(trial.problem)
    if trial.variant:
        return "on the front, kept" if trial.on_front else "nearest to the limits, kept"
    if trial.on_front:
        return "on the front"
    if trial.within:
        return "within the limits"
    missed = [
        words(name).label.lower()
        for name in dict.fromkeys(_shown(run))
        if any(
            value < limit if sign == "≥" else value > limit
            for sign, limit in gate_limits(run, name)
            if (value := trial.metrics.get(name)) is not None
        )
    ]
    return f"misses: {', '.join(missed)}" if missed else "misses a limit"


def _range(values: Sequence[float], core: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: all of `core`, and of `values` what is not far from it."""
    core = core or values
    low, high = min(core), max(core)
    room = _FAR * (high - low) or abs(high) or 1.0
    inside = [v for v in values if low - room <= v <= high + room]
    low, high = min([low, *inside]), max([high, *inside])
    pad = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def _draw(axes: Axes, look: _Kind, points: Sequence[tuple[float, float]]) -> None:
    """Points where they lie; those outside of the axes at their edge, pointing outwards."""
    ends = axes.get_xlim(), axes.get_ylim()
    face = "white" if look.hollow else look.colour
    for x, y in points:
        place, marker = [x, y], look.marker
        for axis, (low, high) in enumerate(ends):
            spare = 0.02 * (high - low)
            if place[axis] < low or place[axis] > high:
                beyond = bool(place[axis] > high)
                marker = (("<", ">"), ("v", "^"))[axis][beyond]
                place[axis] = high - spare if beyond else low + spare
        axes.plot(
            *place,
            marker=marker,
            markersize=7.5,
            markerfacecolor=face,
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
            linestyle="none",
            zorder=3 if look.hollow else 4,
        )
    if points:
        # For the legend: the first point itself may stand at the edge, as a triangle.
        axes.plot(
            [],
            [],
            marker=look.marker,
            markersize=7.5,
            markerfacecolor=face,
            markeredgecolor=look.colour,
            markeredgewidth=1.5,
            linestyle="none",
            label=look.label,
        )


def _draw_limits(axes: Axes, run: RunRecord, first: str, second: str) -> None:
    dashed = {"color": TONE_COLOURS["no-go"], "linewidth": 1.2, "dashes": (5, 3), "zorder": 1.5}
    limits = [
        *((axes.axvline, value) for _, value in gate_limits(run, first)),
        *((axes.axhline, value) for _, value in gate_limits(run, second)),
    ]
    for index, (draw, value) in enumerate(limits):
        draw(value, label="limit" if index == 0 else None, **dashed)


def _finish(axes: Axes, first: str, second: str) -> None:
    """Titles, ticks with units, and the legend."""
    from matplotlib.ticker import FuncFormatter

    for axis, name in ((axes.xaxis, first), (axes.yaxis, second)):
        shown = words(name)
        axis.set_major_formatter(FuncFormatter(_tick(name)))
        title = axis.set_label_text(
            fmt.clean(f"{shown.label} ({shown.better} is better)" if shown.better else shown.label),
            color=MUTED,
            fontsize=FONT_SIZE,
        )
        title.set_parse_math(False)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -44 / (_HEIGHT - _BOTTOM - 14)),
        ncols=5,
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=INK,
        borderaxespad=0,
    )


def _tick(metric: str) -> Callable[[float, int | None], str]:
    return lambda value, _: fmt.point(metric, value)
