"""The drawings that techniques leave behind: curves, points and bars of their own numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgebench.records import Figure
from edgebench.report import format as fmt
from edgebench.report.svg import FONT_SIZE, INK, MUTED, inline_svg, new_figure, quiet_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, without yellow, which is illegible on white.
COLOURS = ("#0072b2", "#b3400a", "#007257", "#8b4a7c", "#835c00", "#3f8fc0", "#40484f")
DASHES = ((), (5, 2), (2, 2))
# A third way to tell series apart, where colours and dashes are used up.
MARKERS = ("o", "s", "^")
_WIDTH = 780.0
_PLOT = 260.0
_ROW = 16.0
_NAME_LIMIT = 34
_MOST_NAMES = len(COLOURS) * len(DASHES) * len(MARKERS)


def figure_svg(figure: Figure, name: str) -> str | None:
    """One drawing as an `<svg>` element; None where it has no point. `name`: unique in the page."""
    series = {key: points for key, points in figure.series.items() if points}
    if not series:
        return None
    return _bars(figure, series, name) if figure.kind == "bar" else _lines(figure, series, name)


def _lines(figure: Figure, series: dict[str, tuple[tuple[float, float], ...]], name: str) -> str:
    names = list(series)[:_MOST_NAMES]
    called = _names(series)
    columns = 3
    rows = -(-len(names) // columns)
    height = _PLOT + 76 + rows * _ROW
    drawing = new_figure(_WIDTH, height)
    axes = drawing.add_axes(
        (70 / _WIDTH, (56 + rows * _ROW) / height, (_WIDTH - 90) / _WIDTH, _PLOT / height)
    )
    quiet_axes(axes)
    for index, key in enumerate(names):
        xs, ys = zip(*series[key], strict=True)
        colour = COLOURS[index % len(COLOURS)]
        dashes = DASHES[index // len(COLOURS) % len(DASHES)]
        joined = figure.kind == "line"
        axes.plot(
            xs,
            ys,
            color=colour,
            linewidth=1.6 if joined else 0,
            dashes=dashes or (None, None),
            marker=MARKERS[index // (len(COLOURS) * len(DASHES))],
            markersize=3.5 if joined else 6,
            label=called[key],
        )
    _axis_titles(axes, figure.x + _left_out(series), figure.y)
    legend = axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -46 / _PLOT),
        ncols=columns,
        frameon=False,
        fontsize=FONT_SIZE - 1,
        labelcolor=INK,
        borderaxespad=0,
        handlelength=2.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    told = "; ".join(
        f"{called[k]} from {series[k][0][1]:.3g} to {series[k][-1][1]:.3g}" for k in names
    )
    return inline_svg(drawing, name, f"{figure.title}: {figure.y} against {figure.x}: {told}.")


def _bars(figure: Figure, series: dict[str, tuple[tuple[float, float], ...]], name: str) -> str:
    """One bar a series, of its first point's y."""
    values = {key: points[0][1] for key, points in list(series.items())[:_MOST_NAMES]}
    called = _names(series)
    row = 22.0
    height = row * len(values) + 60
    drawing = new_figure(_WIDTH, height)
    axes = drawing.add_axes(
        (250 / _WIDTH, 46 / height, (_WIDTH - 330) / _WIDTH, row * len(values) / height)
    )
    quiet_axes(axes, grid="x")
    axes.barh(range(len(values)), list(values.values()), color=COLOURS[0], height=0.6)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks(range(len(values)), labels=[called[key] for key in values])
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
        tick.set_color(INK)
    for index, value in enumerate(values.values()):
        axes.annotate(
            f"{value:.3g}",
            (max(value, 0.0), index),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE - 1,
            color=INK,
        )
    _axis_titles(axes, figure.y + _left_out(series), "")
    told = "; ".join(f"{called[key]} {value:.3g}" for key, value in values.items())
    return inline_svg(drawing, name, f"{figure.title}: {figure.y}: {told}.")


def _left_out(series: Mapping[str, object]) -> str:
    """What an axis title says of series that are too many to be told apart."""
    more = len(series) - _MOST_NAMES
    return f" ({more} more {'is' if more == 1 else 'are'} not drawn)" if more > 0 else ""


def _axis_titles(axes: Axes, x: str, y: str) -> None:
    for set_title, text in ((axes.set_xlabel, x), (axes.set_ylabel, y)):
        title = set_title(fmt.clean(text), color=MUTED, fontsize=FONT_SIZE)
        title.set_parse_math(False)


def _names(series: Mapping[str, object]) -> dict[str, str]:
    """What each series is called in the drawing: short, and no two alike."""
    short = {key: _shortened(fmt.clean(key)) for key in series}
    alike = Counter(short.values())
    return {
        key: name if alike[name] == 1 else f"{number}: {name}"
        for number, (key, name) in enumerate(short.items(), 1)
    }


def _shortened(name: str) -> str:
    """A dotted name with as many of its first words cut to a letter as it takes."""
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= _NAME_LIMIT:
            break
        parts[index] = part if part.isdigit() else part[:1]
    shown = ".".join(parts)
    return shown if len(shown) <= _NAME_LIMIT else f"…{shown[1 - _NAME_LIMIT :]}"
