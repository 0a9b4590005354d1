"""The report as one HTML page: no network, no script, printable, readable on a telephone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from edgebench.agent.evidence import SATURATED_DB
from edgebench.errors import one_line
from edgebench.records import RunRecord
from edgebench.report import format as fmt
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.charts import accuracy_latency, latency_forest
from edgebench.report.details import variant_details
from edgebench.report.evidence import evidence_of, invalid_reasons, noise_floor
from edgebench.report.facts import mapping, share, title
from edgebench.report.glossary import (
    GRADES,
    LEAST_CHANGE,
    LEAST_CHANGE_MEANING,
    fits,
    functional_metrics,
    words,
)
from edgebench.report.landscape import functional_landscape
from edgebench.report.rows import (
    NOT_VALID,
    Cell,
    Row,
    comparison_cell,
    ordered,
    run_word,
    subject,
    tone,
    verdict_rows,
    verdict_word,
)
from edgebench.report.scenarios import doubts as scenario_doubts
from edgebench.report.scenarios import scenario_groups
from edgebench.report.search import search_columns, search_figure, search_rows

_TOLD = "smallest_detectable_change"
_COLUMNS: dict[str, Callable[[Row], Cell]] = {
    "latency_p50_ms": lambda row: row.latency,
    "latency_ratio": lambda row: row.ratio,
    _TOLD: lambda row: Cell(row.told),
    "energy_mj": lambda row: row.energy,
    "size_bytes": lambda row: row.size,
    "accuracy": lambda row: row.accuracy,
    "accuracy_delta_pp": lambda row: row.delta,
    "prediction_disagreement": lambda row: row.disagreement,
    "functional_preservation": lambda row: row.preservation,
    "output_cosine": lambda row: row.cosine,
    "mean_relative_error": lambda row: row.error,
}
# Columns that are there only where something was measured.
_OPTIONAL = {_TOLD, "energy_mj"}
_DEVICE_NAMES = ("jetson", "cpu_model", "machine")
_DIGEST = re.compile("[0-9a-fA-F]{32,}")
_EXPECTED = (
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "first_inference_ms",
    "load_ms",
    "peak_memory_mib",
)


def render_html(run: RunRecord) -> str:
    """The whole page as text. The same record gives the same text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("edgebench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clean=fmt.clean, plain=fmt.plain, moment=fmt.moment, items_of=_items)
    environment.tests["digest"] = lambda text: bool(_DIGEST.fullmatch(str(text)))
    figures = {
        "latency": latency_forest(run),
        "tradeoff": accuracy_latency(run),
        "landscape": functional_landscape(run),
        "search": search_figure(run),
    }
    # The charts escape what they hold; everything else is escaped by the template.
    charts = {k: Markup(v) if v else None for k, v in figures.items()}  # noqa: S704
    word = run_word(run)
    rows = verdict_rows(run)
    columns = [
        name
        for name, cell in _COLUMNS.items()
        if fits(name, run) and (name not in _OPTIONAL or any(cell(row) != Cell() for row in rows))
    ]
    return environment.get_template("report.html.j2").render(
        run=run,
        word=word,
        tone=tone(word),
        subject=subject(run),
        device=_device(run),
        device_notes=_device_notes(run),
        rows=[(row, [_COLUMNS[name](row) for name in columns]) for row in rows],
        not_valid=NOT_VALID,
        columns=[_column(run, name) for name in columns],
        doubts=doubts(run),
        charts=charts,
        functional=_functional(run),
        functional_words=[words(name) for name in functional_metrics(run)],
        scenarios=scenario_groups(run),
        trials=search_rows(run),
        trial_columns=search_columns(run),
        details=[variant_details(run, variant) for variant in ordered(run, controls=True)],
        evidence=[e for v in ordered(run, controls=True) if (e := evidence_of(v)) is not None],
        saturated_db=f"{SATURATED_DB:.0f}",
        recipe=_yaml(run.recipe),
        reproduce=_reproduce(run),
        gates=_gates(run),
        stages=_stages(run),
        total=fmt.duration(sum(stage.seconds for stage in run.stages)),
    )


def doubts(run: RunRecord) -> list[str]:
    """What was not measured or should be doubted, most general first, one sentence each."""
    found = [fmt.plain(warning) for warning in run.warnings]
    for variant in ordered(run, controls=True):
        name = fmt.clean(variant.name)
        if variant.status != "measured":
            word = verdict_word(variant).lower()
            found.append(f"{name}: {word}: {fmt.plain(variant.problem or 'no reason is given')}")
        invalid = invalid_reasons(variant)
        if invalid:
            found.append(f"{name}: the measurement is not valid: {invalid}")
    found += scenario_doubts(run)
    base = run.variant("base")
    absent = [words(n).label.lower() for n in _EXPECTED if base and base.metrics.get(n) is None]
    if absent:
        found.append(f"Not known for base, the reference: {', '.join(absent)}.")
    return found


def _device(run: RunRecord) -> str:
    identity = run.device.get("identity")
    known = identity if isinstance(identity, Mapping) else {}
    return fmt.plain(next((known[k] for k in _DEVICE_NAMES if known.get(k)), None))


def _device_notes(run: RunRecord) -> list[str]:
    """The grade, why it is that, and what the device tells apart: one line each."""
    grade, reasons = fmt.plain(run.device.get("grade") or ""), run.device.get("grade_reasons")
    notes = [f"Grade {grade}, {GRADES[grade]}" if grade in GRADES else grade]
    if isinstance(reasons, list) and reasons:
        notes.append(f"Why: {'; '.join(map(fmt.plain, reasons))}")
    floor = noise_floor(run.variant("base"))
    if floor is not None:
        notes.append(f"Base timed against itself differs by up to {share(floor)}")
    return [note for note in notes if note]


def _column(run: RunRecord, name: str) -> dict[str, Any]:
    """One column's legend: what it says, which way is better, and how its interval was made."""
    if name == _TOLD:
        return {"label": LEAST_CHANGE, "meaning": LEAST_CHANGE_MEANING, "better": "", "made": ""}
    shown = words(name)
    estimates = [
        e
        for v in ordered(run)
        if v.name != "base" or name not in v.comparisons
        if (e := v.comparisons.get(name) or v.intervals.get(name)) is not None
    ]
    made = list(dict.fromkeys((e.n, e.method) for e in estimates if e.point is not None))
    return {
        "label": shown.label,
        "meaning": shown.meaning,
        "better": shown.better,
        "made": "; ".join(f"n = {n}, {fmt.clean(method)}" for n, method in made[:2]),
    }


def _functional(run: RunRecord) -> list[dict[str, Any]]:
    names = functional_metrics(run)
    return [
        {
            "name": fmt.clean(variant.name),
            "control": variant.beside,
            "cells": [comparison_cell(variant, name) for name in names],
        }
        for variant in ordered(run, controls=True)
        if any(name in variant.comparisons for name in names)
    ]


def _items(values: object) -> list[tuple[str, str]]:
    """A mapping from the device as (title, text) pairs; anything else has none.

    What is not there is named on one line, so that it does not hide what is.
    """
    found = {title(key): value for key, value in mapping(values).items()}
    absent = [key for key, value in found.items() if value is None or value in ([], {}, "")]
    known = [(key, fmt.plain(value)) for key, value in found.items() if key not in absent]
    return [*known, ("none, or not known", ", ".join(absent))] if absent else known


def _gates(run: RunRecord) -> list[tuple[str, str, str]]:
    gates = run.recipe.get("gates")
    return [
        (
            words(str(gate.get("metric"))).label,
            f"≥ {fmt.plain(gate['min'])}" if gate.get("min") is not None else fmt.MISSING,
            f"≤ {fmt.plain(gate['max'])}" if gate.get("max") is not None else fmt.MISSING,
        )
        for gate in (gates if isinstance(gates, list) else [])
        if isinstance(gate, Mapping)
    ]


def _stages(run: RunRecord) -> list[dict[str, Any]]:
    longest = max((stage.seconds for stage in run.stages), default=0.0)
    return [
        {
            "name": fmt.clean(stage.name),
            "time": fmt.duration(stage.seconds),
            "share": round(100 * stage.seconds / longest, 1) if longest > 0 else 0.0,
            "reused": stage.reused,
        }
        for stage in run.stages
    ]


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml

    return fmt.clean(
        yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=96)
    ).rstrip()


def _reproduce(run: RunRecord) -> str | None:
    """The command that runs the recipe again, once it is saved as `recipe.yaml`."""
    target = run.target.get("name")
    if not (target and run.recipe.get("model") and run.recipe.get("data")):
        return None
    command = "run" if run.search is None else "search"
    return f"edgebench {command} recipe.yaml --target {shlex.quote(one_line(fmt.clean(target)))}"


RENDERERS.register("html")(Renderer("report.html", render_html))
