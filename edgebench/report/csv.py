"""`metrics.csv`: every number of a run, one row each, for spreadsheets and data frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgebench.records import Estimate, RunRecord, Variant
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.format import clean

COLUMNS = (
    "run_id",
    "target",
    "variant",
    "control",
    "status",
    "verdict",
    "grade",
    "valid",
    "scenario",
    "metric",
    "against_base",
    "point",
    "low",
    "high",
    "n",
    "method",
)


def render_csv(run: RunRecord) -> str:
    """The run as tidy data: one row a variant and metric, intervals beside the points.

    `scenario` is empty but for the numbers of one; `valid` says of a scenario whether it is, else
    whether the variant's measurement is. What was not measured has no row.
    """
    import pandas as pd

    rows = [
        {
            name: clean(value) if isinstance(value, str) else value
            for name, value in {
                "run_id": run.run_id,
                "target": run.target.get("name"),
                **row,
            }.items()
        }
        for variant in run.variants
        for row in _rows(variant)
    ]
    return str(pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n"))


def _rows(variant: Variant) -> Iterator[dict[str, Any]]:
    measurement = variant.measurement
    about = {
        "variant": variant.name,
        "control": variant.control,
        "status": variant.status,
        "verdict": variant.verdict,
        "grade": measurement.grade if measurement else None,
        "valid": measurement.valid if measurement else None,
    }
    for name, value in variant.metrics.items():
        if name not in variant.intervals and value is not None:
            yield {**about, "metric": name, "against_base": False, "point": value}
    for against_base, estimates in ((False, variant.intervals), (True, variant.comparisons)):
        for name, estimate in estimates.items():
            yield {**about, "metric": name, "against_base": against_base, **_columns(estimate)}
    for name in ("noise_floor", "smallest_detectable_change"):
        share = getattr(measurement, name, None)
        if share is not None:
            yield {**about, "metric": name, "against_base": True, "point": share}
    for scenario in variant.scenarios:
        valid = {**about, "valid": scenario.valid, "scenario": scenario.label}
        for against_base, estimates in ((False, scenario.metrics), (True, scenario.ratios)):
            for name, estimate in estimates.items():
                yield {**valid, "metric": name, "against_base": against_base, **_columns(estimate)}


def _columns(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("point", "low", "high", "n", "method")}


RENDERERS.register("csv")(Renderer("metrics.csv", render_csv))
