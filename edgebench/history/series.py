"""Past runs as series: one variant's metric, on one fingerprint, oldest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgebench.records import Estimate, RunRecord, Variant

# Read off a clock or a sensor: they scatter, and are judged by change points.
TIMED = (
    "latency_ratio",
    "latency_p50_ms",
    "latency_p90_ms",
    "latency_p99_ms",
    "throughput_per_s",
    "first_inference_ms",
    "load_ms",
    "peak_memory_mib",
    "energy_mj",
)
# The ratio is interleaved and memory has no clock: other work on the device moves all the rest.
ABSOLUTE = frozenset(TIMED) - {"latency_ratio", "peak_memory_mib"}
# The same again wherever nothing changed: any difference is one.
EXACT = (
    "size_bytes",
    "compressed_bytes",
    "parameters",
    "accuracy",
    "top5_accuracy",
    "operators",
    "integer_operators",
)
HIGHER_IS_BETTER = {"throughput_per_s", "accuracy", "top5_accuracy", "integer_operators"}
# Another number of operators is a fact worth a line, and neither better nor worse.
NEUTRAL = {"operators"}


@dataclass(frozen=True)
class SeriesKey:
    """What all runs of a series have in common; `fingerprint` is that of the measurement."""

    recipe: str
    model: str
    data: str
    target: str
    fingerprint: str
    variant: str
    metric: str


@dataclass(frozen=True)
class Point:
    """One run's value: `half_width` is that of its interval and `floor` the noise floor, shares.

    `shared`: the device was shared or virtual (grade C). `detail` counts operators by name where
    the metric is such a count.
    """

    run_id: str
    created: str
    value: float
    half_width: float | None = None
    floor: float | None = None
    shared: bool = False
    detail: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """The points of one key, oldest first."""

    key: SeriesKey
    points: tuple[Point, ...]

    @property
    def timed(self) -> bool:
        """Whether its values scatter."""
        return self.key.metric in TIMED


def current_series(
    runs: Iterable[RunRecord],
    *,
    variant: str | None = None,
    metric: str | None = None,
) -> list[Series]:
    """The series that the newest run of each recipe, model, data and target goes on with.

    `runs` come oldest first. A series that the newest run does not belong to (another fingerprint,
    a variant that is gone) is over, and not given. Controls and measurements that are not valid
    have no part in it.
    """
    found: dict[SeriesKey, list[Point]] = {}
    newest: dict[tuple[str, str, str, str], str] = {}
    for run in runs:
        place = tuple(
            str(value or "")
            for value in (
                run.recipe.get("name"),
                run.recipe.get("model"),
                run.recipe.get("data"),
                run.target.get("name"),
            )
        )
        recipe, model, data, target = place
        newest[recipe, model, data, target] = run.run_id
        for one in run.variants:
            if one.beside or one.status != "measured" or variant not in (None, one.name):
                continue
            mark = one.measurement.fingerprint if one.measurement is not None else None
            fingerprint = mark or str(run.device.get("fingerprint") or "")
            for name, point in _points(run, one):
                if metric in (None, name):
                    key = SeriesKey(recipe, model, data, target, fingerprint, one.name, name)
                    found.setdefault(key, []).append(point)
    return [
        Series(key, tuple(points))
        for key, points in found.items()
        if points[-1].run_id == newest[key.recipe, key.model, key.data, key.target]
    ]


def _points(run: RunRecord, variant: Variant) -> list[tuple[str, Point]]:
    points = []
    valid = variant.measurement is not None and variant.measurement.valid
    for name in (*TIMED, *EXACT):
        if name in TIMED and not valid:
            continue
        if name == "latency_ratio" and variant.name == "base":
            # Base against itself is the noise, not a result.
            continue
        if name in {"operators", "integer_operators"}:
            point = _operators(run, variant, name)
        else:
            point = _measured(run, variant, name)
        if point is not None and (name in EXACT or point.value > 0):
            points.append((name, point))
    return points


def _measured(run: RunRecord, variant: Variant, name: str) -> Point | None:
    estimate = variant.comparisons.get(name) or variant.intervals.get(name)
    value = estimate.point if estimate is not None else variant.metrics.get(name)
    if value is None:
        return None
    measurement = variant.measurement
    floor = measurement.noise_floor if measurement is not None else None
    return Point(
        run.run_id,
        run.created,
        value,
        half_width=_half_width(estimate),
        floor=floor if name.startswith("latency_") or name == "throughput_per_s" else None,
        shared=measurement is not None and measurement.grade == "C",
    )


def _half_width(estimate: Estimate | None) -> float | None:
    if estimate is None or estimate.low is None or estimate.high is None or not estimate.point:
        return None
    return (estimate.high - estimate.low) / 2 / abs(estimate.point)


def _operators(run: RunRecord, variant: Variant, name: str) -> Point | None:
    """The operators that ran, of all providers together, or those that compute in integers."""
    evidence = variant.measurement.evidence if variant.measurement is not None else {}
    inspection = evidence.get("inspection")
    if not isinstance(inspection, dict):
        return None
    counts: dict[str, int] = {}
    if name == "integer_operators":
        parts: Sequence[object] = [inspection.get("integer_operators")]
    else:
        nodes = inspection.get("nodes")
        parts = list(nodes.values()) if isinstance(nodes, dict) else []
    known = [part for part in parts if isinstance(part, dict)]
    if not known:
        return None
    for part in known:
        for operator, count in part.items():
            if isinstance(count, int):
                counts[str(operator)] = counts.get(str(operator), 0) + count
    return Point(run.run_id, run.created, float(sum(counts.values())), detail=counts)
