"""What a scenario's raw times say: quantiles, rates and ratios, with the process as the unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebench import stats
from edgebench.metrics.base import METRICS, Metric
from edgebench.records import Estimate, ScenarioResult

Times = NDArray[np.int64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
TARGET = "p99"
OVERLOADED = "cannot keep up"


@dataclass(frozen=True)
class Queries:
    """The queries of one model in one scenario: [Q] each, times in ns.

    `process`: which process asked; `scheduled`, `start`, `end`: when a query was due, begun and
    answered. In the order in which they were asked.
    """

    process: NDArray[np.int32]
    scheduled: Times
    start: Times
    end: Times

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """From when each was due to its answer."""
        return (self.end - self.scheduled) / 1e6

    @property
    def service_ms(self) -> NDArray[np.float64]:
        """From when each was begun to its answer."""
        return (self.end - self.start) / 1e6

    def each(self) -> list[Queries]:
        """One for each process."""
        return [
            Queries(*(a[self.process == p] for a in (self.process, *self._times)))
            for p in np.unique(self.process)
        ]

    def rates(self, *, between: bool = False) -> NDArray[np.float64]:
        """Queries a second of each process, from the first that was due to the last answer.

        `between` counts the gaps, one fewer than the queries, as a rate of arrivals is counted (and
        LoadGen's server does).
        """
        return np.array(
            [
                1e9 * (len(one.end) - between) / (one.end[-1] - one.scheduled[0])
                for one in self.each()
            ]
        )

    def busy(self) -> NDArray[np.float64]:
        """Of each process: the share of the time between arrivals that serving takes.

        From 1 on the queue of a single server grows for ever (Loynes, 1962).
        """
        shares = []
        for one in self.each():
            free = np.maximum(one.scheduled[1:], one.end[:-1])
            span = one.scheduled[-1] - one.scheduled[0]
            shares.append((one.end[1:] - free).sum() / span if span > 0 else math.inf)
        return np.array(shares)

    @property
    def _times(self) -> tuple[Times, Times, Times]:
        return self.scheduled, self.start, self.end


def own_metrics(
    queries: Queries, scenario: str, examples: int
) -> tuple[dict[str, Estimate], dict[str, int]]:
    """The metrics of one model, and how many queries each missing quantile would have taken.

    `examples`: how many one query holds.
    """
    found: dict[str, Estimate] = {}
    needed: dict[str, int] = {}
    if scenario != "offline":
        _quantiles(queries.latency_ms, queries.process, "", found, needed)
    if scenario == "server":
        _quantiles(queries.service_ms, queries.process, "service_", found, needed)
        found["achieved_qps"] = stats.median_interval(queries.rates(between=True))
    found["throughput_per_s"] = stats.median_interval(examples * queries.rates())
    return found, needed


def ratios(base: Queries, variant: Queries, scenario: str) -> dict[str, Estimate]:
    """The variant's metrics over base's in the same process.

    A tail's ratio needs enough queries in each process, not in all of them together; where there
    are too few it has no value, and its method says so.
    """
    if scenario == "offline":
        return {"throughput": _ratio(variant.rates(), base.rates())}
    least = min(
        int(np.unique(one.process, return_counts=True)[1].min(initial=len(one.end)))
        for one in (base, variant)
    )
    return {
        name: _ratio(
            stats.by_process(variant.latency_ms, variant.process, q),
            stats.by_process(base.latency_ms, base.process, q),
        )
        if q <= 0.5 or least >= stats.samples_needed(q)
        else _too_few(least, stats.samples_needed(q), " in a process")
        for name, q in QUANTILES.items()
    }


def withheld(found: Mapping[str, Estimate], why: str) -> dict[str, Estimate]:
    """The same estimates without their values; `why` becomes their method."""
    return {name: _no_value(estimate.n, why) for name, estimate in found.items()}


def target_met(found: dict[str, Estimate], target_ms: float) -> Literal["yes", "no", "undecided"]:
    """Whether the 99th percentile's whole interval is within the target, or beyond it."""
    estimate = found.get(f"{TARGET}_ms")
    if estimate is None or estimate.low is None or estimate.high is None:
        return "undecided"
    if estimate.high <= target_ms:
        return "yes"
    return "no" if estimate.low > target_ms else "undecided"


def named(
    scenarios: Sequence[ScenarioResult],
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """The metrics that a gate can name: intervals and comparisons with base.

    Of several scenarios of one kind the first one listed counts. Where it is not valid, its
    metrics have no value, and their method says why; likewise quantiles that had too few queries.
    """
    intervals: dict[str, Estimate] = {}
    comparisons: dict[str, Estimate] = {}
    seen = set()
    for one in scenarios:
        if one.scenario in seen:
            continue
        seen.add(one.scenario)
        kind = one.scenario.replace("-", "_")
        own = {n: _too_few(one.queries, least) for n, least in one.needed.items()} | one.metrics
        for name, into, found in (
            *((f"{kind}_{n}", intervals, e) for n, e in own.items()),
            *((f"{kind}_{n}_ratio", comparisons, e) for n, e in one.ratios.items()),
        ):
            if name in _NAMES:
                into[name] = found if one.valid else _no_value(found.n, _why_not(one))
        if not one.metrics:
            for name in (n for n in _NAMES if n.startswith(f"{kind}_")):
                into = comparisons if name.endswith("_ratio") else intervals
                into[name] = _no_value(0, _why_not(one))
    return intervals, comparisons


def scenario_of(metric: str) -> str | None:
    """The kind of scenario a metric comes from, or None for any other metric."""
    kinds = ("single-stream", "multi-stream", "server", "offline")
    return next(
        (k for k in kinds if metric in _NAMES and metric.startswith(k.replace("-", "_"))), None
    )


def _quantiles(
    times_ms: NDArray[np.float64],
    process: NDArray[np.int32],
    prefix: str,
    found: dict[str, Estimate],
    needed: dict[str, int],
) -> None:
    for name, q in QUANTILES.items():
        estimate = stats.latency_quantile(times_ms, process, q)
        if estimate is not None:
            found[f"{prefix}{name}_ms"] = estimate
        else:
            needed[f"{prefix}{name}_ms"] = stats.samples_needed(q)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> Estimate:
    logs = stats.median_interval(np.log(top / bottom))
    point, low, high = (
        None if v is None else math.exp(v) for v in (logs.point, logs.low, logs.high)
    )
    method = f"processes, each its own ratio; {logs.method}"
    return Estimate(point=point, low=low, high=high, n=logs.n, method=method)


def _why_not(one: ScenarioResult) -> str:
    return one.problem or "; ".join(one.invalid_reasons) or "the scenario is not valid"


def _too_few(queries: int, needed: int, where: str = "") -> Estimate:
    return _no_value(queries, f"not enough samples: {queries} of {needed} queries{where}")


def _no_value(n: int, why: str) -> Estimate:
    return Estimate(point=None, low=None, high=None, n=n, method=why)


def _register() -> set[str]:
    """One metric for each thing a scenario's kind says."""
    shares = {"p50": "half", "p90": "90 %", "p95": "95 %", "p99": "99 %", "p999": "99.9 %"}
    names = set()

    def add(
        name: str, title: str, unit: str, better: Literal["higher", "lower"], meaning: str
    ) -> None:
        METRICS.register(name)(Metric(name, title, unit, better, meaning, "measured"))
        names.add(name)

    kinds = {
        "single_stream": ("single-stream", "queries asked one after the other"),
        "multi_stream": ("multi-stream", "queries of several samples, one after the other"),
        "server": ("server", "queries that arrive by chance, from when each was due"),
    }
    for kind, (title, what) in kinds.items():
        for name, share in shares.items():
            head = f"{title} latency, {share if name != 'p50' else 'median'}"
            said = f"{share} of all {what}, are answered faster"
            add(f"{kind}_{name}_ms", head, "ms", "lower", said)
            add(f"{kind}_{name}_ratio", f"{head}, ratio", "", "lower", f"{head} over base's")
    for name in ("p50", "p99"):
        add(
            f"server_service_{name}_ms",
            f"server service time, {shares[name] if name != 'p50' else 'median'}",
            "ms",
            "lower",
            "from when a query is begun to its answer: what is left out of it is the queue",
        )
    add(
        "server_achieved_qps",
        "server answers a second",
        "1/s",
        "higher",
        "queries that were answered a second; below those that arrived it cannot keep up",
    )
    add(
        "offline_throughput_per_s",
        "offline throughput",
        "1/s",
        "higher",
        "examples a second where all of them are there from the beginning",
    )
    add(
        "offline_throughput_ratio",
        "offline throughput ratio",
        "",
        "higher",
        "offline throughput over base's; above 1 is faster",
    )
    return names


_NAMES = _register()
