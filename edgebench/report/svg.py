"""From a matplotlib figure to an SVG that can stand inside a page beside others."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import quoteattr

from edgebench.report import format as fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f24"
MUTED = "#57606a"
GRID = "#dfe3e8"
# Okabe and Ito's colours, darkened where text of that colour must be legible on white.
TONE_COLOURS = {"go": "#007257", "no-go": "#b3400a", "inconclusive": "#835c00", "none": "#40484f"}
# The verdict is told by shape as well as by colour.
TONE_MARKERS = {"go": "o", "no-go": "s", "inconclusive": "D", "none": "^"}
FONT_SIZE = 11.0

_FONT = re.compile(r"font:\s*(?P<before>[^;\"']*?)(?P<size>[\d.]+px)[^;\"]*")
_FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_ID = re.compile(r'\sid="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]+)')


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` points, one pixel a point, outside of pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, layout=None)


def quiet_axes(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Leave of the axes' frame only what helps reading: a light grid and grey ticks."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=FONT_SIZE, which="both")


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element with no prolog, no metadata and no address in it.

    Ids are prefixed with `name`, which must be unique in the page; `label` is read out in the
    picture's place. The same figure gives the same text.
    """
    import matplotlib

    stream = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # A name in a script matplotlib's own font lacks is drawn by the reader's browser.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href=", "href=")
    text = _FONT.sub(rf"font: \g<before>\g<size> {_FONT_STACK}", text)
    text = _own_ids(text, name)
    width, height = (round(72 * side) for side in figure.get_size_inches())
    opening = (
        f'<svg class="chart" role="img" aria-label={quoteattr(fmt.clean(label))} '
        f'viewBox="0 0 {width} {height}" style="min-width: {min(width, 780)}px">'
    )
    return opening + re.sub(r"^<svg[^>]*>", "", text).strip()


def _own_ids(text: str, name: str) -> str:
    """Prefix the ids that something refers to, and drop the others."""
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
