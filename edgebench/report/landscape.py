"""The figure of the models as functions: base in the middle, and how far each one moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebench.records import RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.charts import NAME_LIMIT, gate_limits
from edgebench.report.labels import Label, place_labels
from edgebench.report.rows import draw_order, ordered, tone, verdict_word
from edgebench.report.svg import (
    FONT_SIZE,
    GRID,
    INK,
    MUTED,
    TONE_COLOURS,
    TONE_MARKERS,
    inline_svg,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CONTROL_COLOUR = "#4a525a"
_SIZE = (720.0, 540.0)


def functional_landscape(run: RunRecord) -> str | None:
    """Base, variants and controls in the plane of the landscape, with a bar of distance."""
    if run.landscape is None:
        return None
    shown = [
        (variant, x, y)
        for variant in ordered(run, controls=True)
        for x, y in [run.landscape.points.get(variant.name, (math.nan, math.nan))]
        if math.isfinite(x) and math.isfinite(y)
    ]
    if len(shown) < 2:
        return None
    width, height = _SIZE
    figure = new_figure(width, height)
    axes = figure.add_axes((10 / width, 10 / height, 1 - 20 / width, 1 - 20 / height))
    home = next(((x, y) for v, x, y in shown if v.name == "base"), None)
    rings = _rings(run) if home else []
    reach = max((ring.radius for ring in rings), default=0.0)
    corners = [(home[0] + s * reach, home[1] + s * reach) for s in (-1, 1)] if home else []
    _equal_limits(axes, [*((x, y) for _, x, y in shown), *corners], (width - 20) / (height - 20))
    axes.set_xticks([])
    axes.set_yticks([])
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_color(GRID)
    clear = []
    for ring in rings:
        clear += _draw_ring(axes, ring, home or (0.0, 0.0))
    for variant, x, y in shown:
        _landscape_mark(axes, variant, x, y)
    _scale_bar(axes)
    place_labels(
        axes,
        [
            Label(
                x,
                y,
                fmt.shorten(v.name, NAME_LIMIT),
                9.0 if v.name == "base" else 6.0,
                _CONTROL_COLOUR if v.control else INK,
            )
            for v, x, y in shown
        ],
        keep_clear=clear,
    )
    told = "; ".join(
        f"{fmt.clean(v.name)} at {fmt.point('activation_distance', math.dist(home, (x, y)))}"
        for v, x, y in shown
        if home and v.name != "base"
    )
    beyond = ", ".join(
        f"{fmt.clean(name)} at {fmt.point('activation_distance', distance)}"
        for name, distance in run.landscape.beyond.items()
    )
    return inline_svg(
        figure,
        "landscape",
        f"The models as points; distances in the plane from base: {told or 'base is missing'}. "
        + (f"Too far out to be drawn: {beyond}. " if beyond else "")
        + f"Stress {fmt.number(run.landscape.stress)}.",
    )


def control_distance(run: RunRecord) -> float | None:
    """Mean activation distance of the independent controls from base; None without controls."""
    found = [
        estimate.point
        for v in run.variants
        if v.control and (estimate := v.comparisons.get("activation_distance"))
        if estimate.point is not None and math.isfinite(estimate.point)
    ]
    return sum(found) / len(found) if found else None


def _equal_limits(axes: Axes, spots: Sequence[tuple[float, float]], aspect: float) -> None:
    """Limits with the same scale on both axes that hold all spots in a frame of `aspect`."""
    xs, ys = zip(*spots, strict=True)
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    height = max(height, width / aspect) * 1.12 or 1.0
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    axes.set_xlim(middle[0] - height * aspect / 2, middle[0] + height * aspect / 2)
    axes.set_ylim(middle[1] - height / 2, middle[1] + height / 2)
    axes.set_aspect("equal")


class _Ring(NamedTuple):
    radius: float
    text: str
    colour: str


def _rings(run: RunRecord) -> list[_Ring]:
    """As far as a network trained anew, and where the gate on preservation has its limit."""
    far = control_distance(run)
    if not far:
        return []
    gates = [
        _Ring((1 - value) * far, f"gate {sign} {value:g}", TONE_COLOURS["no-go"])
        for sign, value in gate_limits(run, "functional_preservation")
        if 0 < value < 1
    ]
    return [_Ring(far, "preservation 0", MUTED), *gates]


def _draw_ring(axes: Axes, ring: _Ring, home: tuple[float, float]) -> list[tuple[float, float]]:
    """Draw a circle about base and its name under it; returns spots on the line."""
    from matplotlib.patches import Circle

    axes.add_patch(
        Circle(
            home,
            ring.radius,
            fill=False,
            edgecolor=ring.colour,
            linewidth=1,
            linestyle=(0, (4, 3)),
        )
    )
    axes.annotate(
        ring.text,
        (home[0], home[1] - ring.radius),
        xytext=(0, -4),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=FONT_SIZE,
        color=ring.colour,
    )
    return [
        (home[0] + ring.radius * math.cos(k / 36), home[1] + ring.radius * math.sin(k / 36))
        for k in range(round(72 * math.pi))
    ]


def _landscape_mark(axes: Axes, variant: Variant, x: float, y: float) -> None:
    style: dict[str, Any] = {"marker": "o", "markersize": 8, "color": _CONTROL_COLOUR}
    if variant.name == "base":
        style = {"marker": "*", "markersize": 17, "color": INK}
    elif variant.control:
        style |= {"markerfacecolor": "white", "markeredgewidth": 1.6}
    else:
        family = tone(verdict_word(variant))
        style |= {"marker": TONE_MARKERS[family], "color": TONE_COLOURS[family]}
    on_top = 4 + 0.1 * draw_order(tone(verdict_word(variant)))
    axes.plot([x], [y], linestyle="none", zorder=on_top, **style)


def _scale_bar(axes: Axes) -> None:
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    wanted = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    x, y = low + 0.025 * (high - low), bottom + 0.05 * (top - bottom)
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2.5, solid_capstyle="butt")
    axes.annotate(
        f"activation distance {length:.6g}",
        (x, y),
        xytext=(0, 5),
        textcoords="offset points",
        va="bottom",
        fontsize=FONT_SIZE,
        color=INK,
    )
