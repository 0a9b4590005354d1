"""Everything that is known of one variant, metric by metric, for the page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from edgebench import stats
from edgebench.compare import QUANTILES
from edgebench.records import Estimate, RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.curves import figure_svg
from edgebench.report.glossary import words
from edgebench.report.rows import metric_cell, tone, verdict_word


def variant_details(run: RunRecord, variant: Variant) -> dict[str, Any]:
    """What is known of one variant, as rows of tables; what was not measured is named apart."""
    base = run.variant("base")
    own = []
    known = [name for name, value in variant.metrics.items() if value is not None]
    for name in dict.fromkeys([*known, *variant.intervals]):
        cell = metric_cell(variant, name, base)
        own.append(_metric_row(name, cell.point, cell.interval, variant.intervals.get(name)))
    against = []
    for name, value in variant.comparisons.items():
        point, interval = fmt.parts(name, value)
        against.append(_metric_row(name, point, interval, value))
    word = verdict_word(variant)
    return {
        "name": fmt.clean(variant.name),
        "word": word,
        "tone": tone(word),
        "chain": fmt.chain(variant.chain),
        "problem": fmt.plain(variant.problem or ""),
        "notes": [fmt.plain(note) for note in variant.notes],
        "figures": _figures(run, variant),
        "artifact": variant.artifact,
        "absent": [_absent(n) for n, value in variant.metrics.items() if value is None]
        if variant.status == "measured"
        else [],
        "groups": [
            (title, rows)
            for title, rows in (
                ("Of the model itself", own),
                ("Base against itself" if variant.name == "base" else "Against base", against),
            )
            if rows
        ],
    }


def _figures(run: RunRecord, variant: Variant) -> list[tuple[str, Markup]]:
    """What the chain's techniques drew, with titles."""
    place = run.variants.index(variant)
    drawn = [
        (fmt.clean(figure.title), figure_svg(figure, f"drawing-{place}-{index}"))
        for index, figure in enumerate(variant.figures)
    ]
    # A drawing escapes what it holds.
    return [(title, Markup(svg)) for title, svg in drawn if svg]  # noqa: S704


def _metric_row(
    name: str, point: str, interval: str, estimate: Estimate | None
) -> dict[str, str | int]:
    shown = words(name)
    return {
        "name": fmt.clean(name),
        "label": fmt.clean(shown.label),
        "point": point,
        "interval": interval or fmt.MISSING,
        "n": estimate.n if estimate else fmt.MISSING,
        "method": fmt.clean(estimate.method) if estimate else fmt.MISSING,
        "better": shown.better or fmt.MISSING,
    }


def _absent(name: str) -> str:
    """A metric that has no value; of a tail, how many queries it takes."""
    label = fmt.clean(words(name).label)
    share = QUANTILES.get(name, 0.0)
    return f"{label} (takes {stats.samples_needed(share):,} queries)" if share > 0.5 else label
