"""Names beside points, placed so that they cover neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebench.report.svg import FONT_SIZE, INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

_DISTANCES = (4.0, 10.0, 18.0, 28.0, 40.0, 54.0, 70.0, 88.0)
_ANGLES = tuple(math.radians(a) for a in (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200))
_LEADER_FROM = 10.0


class Label(NamedTuple):
    """A text for the point (`x`, `y`) in data units, drawn with `radius` points around it."""

    x: float
    y: float
    text: str
    radius: float
    colour: str = INK


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def outside(self, frame: _Box) -> float:
        area = (self.right - self.left) * (self.top - self.bottom)
        return area - self.overlap(frame)


def place_labels(
    axes: Axes, labels: Sequence[Label], keep_clear: Sequence[tuple[float, float]] = ()
) -> None:
    """Write the labels into `axes`, whose limits are final; a line leads to those further off.

    Greedy: the points with the most neighbours choose first, among places around the point, the
    nearest that covers least of the points and of the texts already there. `keep_clear` are
    further spots, in data units, not to write on.
    """
    axes.apply_aspect()
    spots = [_pixels(axes, label) for label in labels]
    frame = _Box(*axes.get_window_extent().extents)
    marks = [(*spot, label.radius) for label, spot in zip(labels, spots, strict=True)]
    marks += [(*axes.transData.transform(spot), 2.0) for spot in keep_clear]
    x, y, radius = np.array(marks).T
    obstacles = np.stack([x - radius, y - radius, x + radius, y + radius])
    written = [_Box(*text.get_window_extent().extents) for text in axes.texts]
    lines: list[tuple[tuple[float, float], tuple[float, float]]] = []

    def crowding(index: int) -> float:
        return -sum(1 / (20 + math.dist(spots[index], spot)) for spot in spots)

    for index in sorted(range(len(labels)), key=crowding):
        label, spot = labels[index], spots[index]
        text = _text(axes, label)
        extent = text.get_window_extent()
        width, height = extent.width + 3, extent.height + 1
        best = (math.inf, frame, 0.0)
        for distance in _DISTANCES:
            for angle in _ANGLES:
                box = _beside(spot, label.radius + distance, angle, (width, height))
                line = (spot, _nearest(box, spot))
                cost = distance + 4.0 * _covered(box, obstacles)
                cost += 4.0 * sum(box.overlap(other) for other in written)
                cost += 40.0 * box.outside(frame)
                cost += 60.0 * sum(_cross(line, other) for other in lines)
                cost += 60.0 * sum(_cuts(box, other) for other in lines)
                if distance >= _LEADER_FROM:
                    cost += 15.0 * sum(_cuts(other, line) for other in written)
                if cost < best[0] - 1e-9:
                    best = (cost, box, distance)
        _, box, distance = best
        written.append(box)
        middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        text.set_position(_data_units(axes, middle))
        if distance >= _LEADER_FROM:
            end = _nearest(box, spot)
            lines.append((spot, end))
            _lead(axes, label, end)


def _text(axes: Axes, label: Label) -> Text:
    return axes.text(
        label.x,
        label.y,
        label.text,
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        color=label.colour,
        parse_math=False,
        zorder=6,
    )


def _beside(
    spot: tuple[float, float], reach: float, angle: float, size: tuple[float, float]
) -> _Box:
    """A box of `size` whose near edge lies `reach` away from `spot` in the direction `angle`."""
    dx, dy = math.cos(angle), math.sin(angle)
    left = spot[0] + reach * dx + size[0] * (dx - 1) / 2
    bottom = spot[1] + reach * dy + size[1] * (dy - 1) / 2
    return _Box(left, bottom, left + size[0], bottom + size[1])


def _covered(box: _Box, obstacles: NDArray[np.float64]) -> float:
    """The area of `box` on top of the obstacles, [left, bottom, right, top] by [N]."""
    left, bottom, right, top = obstacles
    width = np.minimum(box.right, right) - np.maximum(box.left, left)
    height = np.minimum(box.top, top) - np.maximum(box.bottom, bottom)
    return float((np.maximum(width, 0.0) * np.maximum(height, 0.0)).sum())


def _nearest(box: _Box, spot: tuple[float, float]) -> tuple[float, float]:
    x, y = spot
    return min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)


def _cross(
    first: tuple[tuple[float, float], tuple[float, float]],
    second: tuple[tuple[float, float], tuple[float, float]],
) -> bool:
    (a, b), (c, d) = first, second

    def side(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _cuts(box: _Box, line: tuple[tuple[float, float], tuple[float, float]]) -> bool:
    (x0, y0), (x1, y1) = line
    steps = 12
    return any(
        box.left < x0 + (x1 - x0) * k / steps < box.right
        and box.bottom < y0 + (y1 - y0) * k / steps < box.top
        for k in range(1, steps + 1)
    )


def _pixels(axes: Axes, label: Label) -> tuple[float, float]:
    x, y = axes.transData.transform((label.x, label.y))
    return float(x), float(y)


def _data_units(axes: Axes, spot: tuple[float, float]) -> tuple[float, float]:
    x, y = axes.transData.inverted().transform(spot)
    return float(x), float(y)


def _lead(axes: Axes, label: Label, end: tuple[float, float]) -> None:
    tip = _data_units(axes, end)
    axes.plot([label.x, tip[0]], [label.y, tip[1]], color=MUTED, linewidth=0.7, zorder=2)
