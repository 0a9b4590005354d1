"""The figures of a report, each from the record to an SVG; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgebench.records import RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.evidence import invalid_reasons
from edgebench.report.labels import Label, place_labels
from edgebench.report.rows import draw_order, ordered, reference, tone, verdict_word
from edgebench.report.svg import (
    FONT_SIZE,
    INK,
    MUTED,
    TONE_COLOURS,
    TONE_MARKERS,
    inline_svg,
    new_figure,
    quiet_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME_LIMIT = 24
_WIDTH = 860.0
_LOG_FROM = 3.0
_AREA = 1100.0
_LEAST_BAND = 5.0
_FAR_SPREADS = 5.0
_LEAST_SPREAD = 0.005


class _Bar(NamedTuple):
    name: str
    point: float
    low: float | None
    high: float | None
    text: str
    tone: str


def latency_forest(run: RunRecord) -> str | None:
    """Latency ratios with intervals, base against itself on top, and the gate's limits."""
    bars = _ratio_bars(run)
    if not bars:
        return None
    limits = gate_limits(run, "latency_ratio")
    row = 30.0
    height = row * len(bars) + 70
    figure = new_figure(_WIDTH, height)
    left, right = 170.0, 175.0
    axes = figure.add_axes(
        (left / _WIDTH, 42 / height, (_WIDTH - left - right) / _WIDTH, row * len(bars) / height)
    )
    quiet_axes(axes, grid="x")
    seen = [v for bar in bars for v in (bar.point, bar.low, bar.high) if v is not None]
    _ratio_axis(axes, [*seen, *(value for _, value in limits), 1.0])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    self_test = bars[0] if bars[0].tone == "self" else None
    if self_test and self_test.low is not None and self_test.high is not None:
        low, high = _at_least_wide(axes, self_test.low, self_test.high)
        axes.axvspan(low, high, color="#0072b2", alpha=0.3, linewidth=0, zorder=0.8)
    axes.axvline(1.0, color=INK, linewidth=0.8, zorder=1.5)
    for sign, value in limits:
        axes.axvline(value, color=TONE_COLOURS["no-go"], linewidth=1.2, dashes=(5, 3), zorder=1.5)
        axes.text(
            value,
            -0.62,
            f"gate {sign} {value:g}",
            ha="left" if sign == "≤" else "right",
            va="bottom",
            fontsize=FONT_SIZE,
            color=TONE_COLOURS["no-go"],
        )
    for index, bar in enumerate(bars):
        colour = TONE_COLOURS.get(bar.tone, MUTED)
        low, high = bar.low or bar.point, bar.high or bar.point
        axes.plot([low, high], [index, index], color=colour, linewidth=2.2, zorder=3)
        marker = TONE_MARKERS.get(bar.tone, "o")
        hollow = bar.tone == "self"
        axes.plot(
            [bar.point],
            [index],
            marker=marker,
            markersize=8,
            markerfacecolor="white" if hollow else colour,
            markeredgecolor=colour,
            markeredgewidth=1.6,
            linestyle="none",
            zorder=4,
        )
        axes.annotate(
            bar.text,
            (1, index),
            xycoords=("axes fraction", "data"),
            xytext=(14, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
        )
    axes.set_yticks(range(len(bars)), labels=[bar.name for bar in bars])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
        tick.set_color(INK)
    axes.set_xlabel("Latency ÷ base's latency (left is faster)", color=MUTED, fontsize=FONT_SIZE)
    told = "; ".join(f"{bar.name} {bar.text}" for bar in bars).replace("\n", ", ")
    return inline_svg(figure, "latency", f"Latency ratio to base with intervals: {told}.")


def accuracy_latency(run: RunRecord) -> str | None:
    """Accuracy against median latency, area as file size, with the Pareto front."""
    base = run.variant("base")
    points = [p for v in ordered(run) if (p := _trade_off(v)) is not None]
    if len(points) < 2:
        return None
    height = 440.0
    figure = new_figure(_WIDTH, height)
    axes = figure.add_axes((72 / _WIDTH, 46 / height, 770 / _WIDTH, 384 / height))
    quiet_axes(axes)
    micro = (reference(base, "latency_p50_ms") or points[0].latency) < 0.1
    factor = 1e3 if micro else 1.0
    far = far_below([p.accuracy for p in points])
    spots = [(p.latency * factor, 100 * p.accuracy) for p in points]
    drawn = [spot for spot, below in zip(spots, far, strict=True) if not below]
    largest = max(p.size for p in points) or 1.0
    areas = [_AREA * p.size / largest for p in points]
    axes.set_xlim(_padded([x for x, _ in spots]))
    axes.set_ylim(_padded([y for _, y in drawn]))
    bottom, top = axes.get_ylim()
    if any(far):
        bottom -= 0.14 * (top - bottom)
        axes.set_ylim(bottom, top)
    edge = bottom + 0.08 * (top - bottom)
    front = pareto_front([(p.latency, p.accuracy) for p in points])
    corners = _staircase(sorted(spots[i] for i in front))
    axes.plot(*zip(*corners, strict=True), color=MUTED, linewidth=1.4, dashes=(2, 2), zorder=1.8)
    places = [(x, edge if below else y) for (x, y), below in zip(spots, far, strict=True)]
    for p, (x, y), area, below in zip(points, places, areas, far, strict=True):
        colour = TONE_COLOURS[p.tone]
        on_top = 4 + 0.1 * draw_order(p.tone)
        axes.scatter([x], [y], s=area, facecolor=colour, alpha=0.22, edgecolor="none", zorder=2.5)
        axes.scatter([x], [y], s=area, facecolor="none", edgecolor=colour, zorder=2.6)
        base_mark: dict[str, Any] = {"marker": "*", "markersize": 11, "color": INK}
        mark: dict[str, Any] = {"marker": TONE_MARKERS[p.tone], "markersize": 6, "color": colour}
        axes.plot([x], [y], zorder=on_top, **(base_mark if p.name == "base" else mark))
        if below:
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.6}
            axes.annotate("", (x, bottom), xytext=(x, y), arrowprops=arrow, zorder=on_top)
    place_labels(
        axes,
        [
            Label(
                x,
                y,
                f"{fmt.shorten(p.name, NAME_LIMIT)}, {fmt.point('size_bytes', p.size)}"
                + (f", {fmt.point('accuracy', p.accuracy)} ↓" if below else ""),
                max(5.0, math.sqrt(area / math.pi)),
            )
            for p, (x, y), area, below in zip(points, places, areas, far, strict=True)
        ],
        keep_clear=_along(corners),
    )
    unit = "µs" if micro else "ms"
    axes.set_xlabel(f"Latency p50, {unit} (left is better)", color=MUTED, fontsize=FONT_SIZE)
    axes.set_ylabel("Accuracy, % (up is better)", color=MUTED, fontsize=FONT_SIZE)
    told = "; ".join(
        f"{fmt.clean(p.name)} {fmt.point('accuracy', p.accuracy)} at "
        f"{fmt.point('latency_p50_ms', p.latency)}, {fmt.point('size_bytes', p.size)}"
        for p in points
    )
    best = ", ".join(fmt.clean(points[i].name) for i in front)
    return inline_svg(
        figure, "tradeoff", f"Accuracy against median latency: {told}. On the Pareto front: {best}."
    )


def far_below(accuracies: Sequence[float]) -> list[bool]:
    """Which accuracies lie so far below the others that an axis with them would hide the rest.

    That is more than five times the spread between the quartiles of all better ones below the
    lower of these; a spread of less than half a percentage point counts as that. At least three
    models, and more than half of them, stay on the axis.
    """
    least = -math.inf
    for value in sorted(set(accuracies)):
        better = [other for other in accuracies if other > value]
        if len(better) < 3 or 2 * len(better) <= len(accuracies):
            break
        lower, upper = (float(q) for q in np.percentile(better, (25, 75)))
        if value < lower - _FAR_SPREADS * max(upper - lower, _LEAST_SPREAD):
            least = value
    return [value <= least for value in accuracies]


def gate_limits(run: RunRecord, metric: str) -> list[tuple[str, float]]:
    """The limits the recipe's gates set on a metric: (`≤` or `≥`, value)."""
    limits: list[tuple[str, float]] = []
    gates = run.recipe.get("gates")
    for gate in gates if isinstance(gates, list) else []:
        if isinstance(gate, dict) and gate.get("metric") == metric:
            for sign, key in (("≥", "min"), ("≤", "max")):
                value = gate.get(key)
                if isinstance(value, (int, float)) and math.isfinite(value):
                    limits.append((sign, float(value)))
    return limits


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, accuracy) points that none beats in one and equals in the other."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(u <= x and v >= y and (u, v) != (x, y) for u, v in points)
    ]


def _ratio_bars(run: RunRecord) -> list[_Bar]:
    bars = []
    for variant in ordered(run):
        estimate = variant.comparisons.get("latency_ratio")
        point = fmt.finite(estimate.point) if estimate else None
        if estimate is None or point is None or point <= 0:
            continue
        low, high = (
            v if (v := fmt.finite(end)) and v > 0 else None for end in (estimate.low, estimate.high)
        )
        is_base = variant.name == "base"
        name = "base against itself" if is_base else fmt.shorten(variant.name, NAME_LIMIT)
        kind = "self" if is_base else tone(verdict_word(variant))
        text = fmt.estimate("latency_ratio", estimate)
        text += "\nnot valid" if invalid_reasons(variant) else ""
        bars.append(_Bar(name, point, low, high, text, kind))
    return bars


def _at_least_wide(axes: Axes, low: float, high: float) -> tuple[float, float]:
    """The ends of a band, in data units, drawn apart where it would be too narrow to be seen."""
    (left, y), (right, _) = (axes.transData.transform((end, 0.0)) for end in (low, high))
    spare = max(0.0, _LEAST_BAND - (right - left)) / 2
    inverse = axes.transData.inverted()
    return (
        float(inverse.transform((left - spare, y))[0]),
        float(inverse.transform((right + spare, y))[0]),
    )


def _ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    positive = [v for v in values if v > 0]
    low, high = min(positive), max(positive)
    if high / low > _LOG_FROM:
        axes.set_xscale("log", base=2)
        axes.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
        powers = range(math.floor(math.log2(low)) - 1, math.ceil(math.log2(high)) + 2)
        between = [1.5 * 2.0**k for k in powers] if high / low < 6 else []
        axes.xaxis.set_major_locator(FixedLocator([*(2.0**k for k in powers), *between]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = max(0.06 * (high - low), 0.005)
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


class _TradeOff(NamedTuple):
    name: str
    latency: float
    accuracy: float
    size: float
    tone: str


def _trade_off(variant: Variant) -> _TradeOff | None:
    latency = fmt.finite(variant.metrics.get("latency_p50_ms"))
    accuracy = fmt.finite(variant.metrics.get("accuracy"))
    if latency is None or accuracy is None or latency <= 0:
        return None
    size = variant.artifact.bytes if variant.artifact else 0
    return _TradeOff(
        variant.name,
        latency,
        accuracy,
        float(max(size, 0)),
        tone(verdict_word(variant)),
    )


def _staircase(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of the front: flat to the next point's latency, then up to its accuracy."""
    corners = [steps[0]]
    for x, y in steps[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return corners


def _along(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spots on the lines between the corners, close enough for a label to meet one of them."""
    return [
        (a[0] + (b[0] - a[0]) * k / 24, a[1] + (b[1] - a[1]) * k / 24)
        for a, b in pairwise(corners)
        for k in range(25)
    ]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.16 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad
