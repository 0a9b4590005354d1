"""The report as one HTML page: no network, no script, printable, readable on a telephone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from edgebench.errors import one_line
from edgebench.records import Estimate, RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.charts import accuracy_latency, latency_forest
from edgebench.report.glossary import FUNCTIONAL, GRADES, words
from edgebench.report.landscape import functional_landscape
from edgebench.report.rows import (
    comparison_cell,
    metric_cell,
    ordered,
    run_word,
    subject,
    tone,
    verdict_rows,
    verdict_word,
)

_COLUMNS = (
    "latency_p50_ms",
    "latency_ratio",
    "size_bytes",
    "accuracy",
    "accuracy_delta_pp",
    "prediction_disagreement",
    "functional_preservation",
)
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
    }
    # The charts escape what they hold; everything else is escaped by the template.
    charts = {k: Markup(v) if v else None for k, v in figures.items()}  # noqa: S704
    word = run_word(run)
    return environment.get_template("report.html.j2").render(
        run=run,
        word=word,
        tone=tone(word),
        subject=subject(run),
        device=_device(run),
        grade=_grade(run),
        rows=verdict_rows(run),
        columns=[_column(run, name) for name in _COLUMNS],
        doubts=doubts(run),
        charts=charts,
        functional=_functional(run),
        functional_words=[words(name) for name in FUNCTIONAL],
        details=[_details(run, variant) for variant in ordered(run, controls=True)],
        evidence=[_evidence(v) for v in ordered(run, controls=True) if v.measurement],
        recipe=_yaml(run.recipe),
        reproduce=_reproduce(run),
        gates=_gates(run),
        stages=_stages(run),
        total=fmt.duration(sum(stage.seconds for stage in run.stages)),
    )


def doubts(run: RunRecord) -> list[str]:
    """What was not measured or should be doubted, most general first, one sentence each."""
    found = [fmt.plain(warning) for warning in run.warnings]
    grade_reasons = run.device.get("grade_reasons")
    grade = run.device.get("grade")
    if grade in {"B", "C"} and isinstance(grade_reasons, list) and grade_reasons:
        found.append(f"The target's grade is {grade}: {'; '.join(map(fmt.plain, grade_reasons))}.")
    for variant in ordered(run, controls=True):
        name = fmt.clean(variant.name)
        if variant.status != "measured":
            word = verdict_word(variant).lower()
            found.append(f"{name}: {word}: {fmt.plain(variant.problem or 'no reason is given')}")
        if variant.measurement and not variant.measurement.valid:
            reasons = "; ".join(map(fmt.plain, variant.measurement.invalid_reasons))
            found.append(f"{name}: the measurement is not valid: {reasons or 'no reason is given'}")
    base = run.variant("base")
    absent = [words(n).label.lower() for n in _EXPECTED if base and base.metrics.get(n) is None]
    if absent:
        found.append(f"Not known for base, the reference: {', '.join(absent)}.")
    return found


def _device(run: RunRecord) -> str:
    identity = run.device.get("identity")
    known = identity if isinstance(identity, Mapping) else {}
    return fmt.plain(next((known[k] for k in _DEVICE_NAMES if known.get(k)), None))


def _grade(run: RunRecord) -> str:
    grade = fmt.plain(run.device.get("grade") or "")
    return f"Grade {grade}, {GRADES[grade]}" if grade in GRADES else grade


def _column(run: RunRecord, name: str) -> dict[str, Any]:
    """One column's legend: what it says, which way is better, and how its interval was made."""
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
    return [
        {
            "name": fmt.clean(variant.name),
            "control": variant.control,
            "cells": [comparison_cell(variant, name) for name in FUNCTIONAL],
        }
        for variant in ordered(run, controls=True)
        if any(name in variant.comparisons for name in FUNCTIONAL)
    ]


def _details(run: RunRecord, variant: Variant) -> dict[str, Any]:
    """Everything that is known of one variant, as rows of a table."""
    base = run.variant("base")
    own = []
    for name in dict.fromkeys([*variant.metrics, *variant.intervals]):
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
        "artifact": variant.artifact,
        "groups": [
            (title, rows)
            for title, rows in (
                ("Of the model itself", own),
                ("Base against itself" if variant.name == "base" else "Against base", against),
            )
            if rows
        ],
    }


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


def _evidence(variant: Variant) -> dict[str, Any]:
    """One measurement: whether it is evidence, what was seen, and the tables inside it."""
    measurement = variant.measurement
    assert measurement is not None  # noqa: S101 - the caller chose those that have one
    facts, tables = [], []
    for key, value in measurement.evidence.items():
        title = fmt.clean(key).replace("_", " ")
        if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            head = list(dict.fromkeys(k for row in value for k in row))
            body = [[_named(k, row.get(k)) for k in head] for row in value]
            tables.append((title, [fmt.clean(words(k).label) for k in head], body))
        else:
            facts.append((title, fmt.plain(value)))
    files = (("samples", measurement.samples_file), ("outputs", measurement.outputs_file))
    facts += [(f"raw {title}", fmt.clean(path)) for title, path in files if path]
    return {
        "name": fmt.clean(variant.name),
        "grade": measurement.grade,
        "valid": measurement.valid,
        "reasons": [fmt.plain(reason) for reason in measurement.invalid_reasons],
        "facts": facts,
        "tables": tables,
        "load": fmt.point("load_ms", variant.metrics.get("load_ms")),
        "first": fmt.point("first_inference_ms", variant.metrics.get("first_inference_ms")),
        "memory": fmt.point("peak_memory_mib", variant.metrics.get("peak_memory_mib")),
    }


def _items(values: object) -> list[tuple[str, str]]:
    """A mapping from the device as (title, text) pairs; anything else has none."""
    if not isinstance(values, Mapping):
        return []
    return [(fmt.clean(k).replace("_", " "), fmt.plain(v)) for k, v in values.items()]


def _named(name: str, value: object) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fmt.point(name, float(value)) if number else fmt.plain(value)  # type: ignore[arg-type]


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
    return f"edgebench run recipe.yaml --target {shlex.quote(one_line(fmt.clean(target)))}"


RENDERERS.register("html")(Renderer("report.html", render_html))
