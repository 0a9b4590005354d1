"""Set each variant beside base: answers, sizes, clock, as pure functions of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import stats
from edgebench.agent.interval import level_of
from edgebench.metrics.base import METRICS, Context, Outputs
from edgebench.records import Estimate, Landscape


@dataclass(frozen=True)
class Samples:
    """The raw samples of one model and of base beside it (`samples.npz` of the agent).

    `block_process`, `block_phase` (0 the measurement, 1 its confirmation), `block_pair`,
    `block_arm` (0 base, 1 variant), `block_cause` (0 kept, else why not): [B]; `sample_block`: [S];
    `sample_ns`: [S], nanoseconds a query, each a mean over some calls; `single_process`,
    `single_ns`: [Q], the variant's queries timed one by one.
    """

    block_process: NDArray[np.int32]
    block_phase: NDArray[np.int32]
    block_pair: NDArray[np.int32]
    block_arm: NDArray[np.int32]
    block_cause: NDArray[np.int32]
    sample_block: NDArray[np.int32]
    sample_ns: NDArray[np.float64]
    single_process: NDArray[np.int32]
    single_ns: NDArray[np.int64]

    def integers(self) -> tuple[NDArray[Any], ...]:
        """The arrays that count or number something."""
        return tuple(
            getattr(self, name) for name in self.__dataclass_fields__ if name != "sample_ns"
        )

    def of_arm(self, arm: int) -> NDArray[np.float64]:
        """The query times of one arm in the measurement's usable blocks, in ns."""
        chosen: NDArray[np.float64] = self.sample_ns[self._of_arm(arm)]
        return chosen

    def processes_of_arm(self, arm: int) -> NDArray[np.int32]:
        """The process of each of `of_arm`'s times."""
        chosen: NDArray[np.int32] = self.block_process[self.sample_block[self._of_arm(arm)]]
        return chosen

    def _of_arm(self, arm: int) -> NDArray[np.bool_]:
        usable = (self.block_arm == arm) & (self.block_phase == 0) & (self.block_cause == 0)
        chosen: NDArray[np.bool_] = usable[self.sample_block]
        return chosen

    def block_medians(self) -> NDArray[np.float64]:
        """The median query time of each block, in ns: [B]."""
        order = np.argsort(self.sample_block, kind="stable")
        starts = np.searchsorted(self.sample_block[order], np.arange(len(self.block_arm)))
        return np.array([np.median(part) for part in np.split(self.sample_ns[order], starts[1:])])

    def paired_medians(
        self, phase: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
        """Of each pair: the median query time of base's block and of the variant's, in ns; process.

        Each is [pairs of all processes of the phase], in the same order. A pair is left out where
        one of its blocks may not be used.
        """
        medians = self.block_medians()
        keys = self.block_process.astype(np.int64) * (self.block_pair.max() + 1) + self.block_pair
        arms = []
        for arm in (0, 1):
            mine = np.flatnonzero((self.block_arm == arm) & (self.block_phase == phase))
            arms.append(mine[np.argsort(keys[mine])])
        kept = (self.block_cause[arms[0]] == 0) & (self.block_cause[arms[1]] == 0)
        arms = [arm[kept] for arm in arms]
        return medians[arms[0]], medians[arms[1]], self.block_process[arms[0]]


QUANTILES = {
    "latency_p50_ms": 0.5,
    "latency_p90_ms": 0.9,
    "latency_p95_ms": 0.95,
    "latency_p99_ms": 0.99,
    "latency_p999_ms": 0.999,
}


def latency_ratio(
    samples: Samples, phase: int = 0, *, protocol: Mapping[str, Any] | None = None
) -> Estimate:
    """Latency over base's, from the interleaved pairs of blocks; without a point if none is left.

    `phase` 1 is the confirmation in fresh processes. `protocol` tells whether they were as many as
    it took for a narrow interval.
    """
    base_ns, variant_ns, process = samples.paired_medians(phase)
    if not len(process):
        return Estimate(point=None, low=None, high=None, n=0, method="no pair of blocks is usable")
    return stats.ratio_of_blocks(base_ns, variant_ns, process, level_of(protocol or {}))


def confirmation(samples: Samples, *, protocol: Mapping[str, Any] | None = None) -> Estimate | None:
    """The latency ratio of the confirming processes, where there were any."""
    if not (samples.block_phase == 1).any():
        return None
    return latency_ratio(samples, 1, protocol=protocol)


def timing_quality(samples: Samples, seed: int) -> dict[str, Any]:
    """What a sceptic asks of the samples: evidence, by which nothing is dropped.

    The share of single queries beyond Tukey's fences; the lag-1 autocorrelation of the pairs' log
    ratios within a process, median over processes; blocks dropped, with their cause; and the
    latency ratio's interval by another method.
    """
    base_ns, variant_ns, process = samples.paired_medians()
    logs = np.log(variant_ns / base_ns)
    each = [stats.lag1_autocorrelation(logs[process == p]) for p in np.unique(process)]
    known = [value for value in each if value is not None]
    causes = {1: "throttled", 2: "clock changed"}
    dropped = {w: int((samples.block_cause == c).sum()) for c, w in causes.items()}
    check = None
    if len(process):
        check = stats.bootstrap_ratio_of_processes(base_ns, variant_ns, process, seed).model_dump()
    return {
        "tukey_outliers": stats.tukey_outliers(samples.single_ns.astype(np.float64)),
        "lag1_autocorrelation": float(np.median(known)) if known else None,
        "blocks_dropped": {word: count for word, count in dropped.items() if count},
        "bootstrap": check,
    }


def latency_metrics(samples: Samples) -> tuple[dict[str, float | None], dict[str, Estimate]]:
    """The latency's quantiles in ms, and the throughput: values and intervals.

    The median is that of the blocks, whose samples span many calls of a fast model: in a call timed
    by itself reading the clock is 2 % of 5 µs. The tails are those of single queries.
    """
    timed = samples.of_arm(1)
    values: dict[str, float | None] = {
        "throughput_per_s": 1e9 / float(timed.mean()) if len(timed) else None,
    }
    intervals: dict[str, Estimate] = {}
    query_ms = samples.single_ns / 1e6
    for name, q in QUANTILES.items():
        if q <= 0.5 and len(timed):
            found = stats.latency_quantile(timed / 1e6, samples.processes_of_arm(1), q)
        else:
            found = stats.latency_quantile(query_ms, samples.single_process, q)
        values[name] = None if found is None else found.point
        if found is None:
            needed = stats.samples_needed(q)
            method = f"not enough samples: {len(query_ms):,} of {needed:,} queries"
            found = Estimate(point=None, low=None, high=None, n=len(query_ms), method=method)
        intervals[name] = found
    return values, intervals


def model_metrics(outputs: Outputs) -> tuple[dict[str, float | None], dict[str, Estimate]]:
    """Every metric of one model's answers: the values, and the intervals where there are any.

    Metrics that are not defined for answers of this kind are left out.
    """
    values: dict[str, float | None] = {}
    intervals: dict[str, Estimate] = {}
    for name, metric in METRICS.items():
        if metric.on_model is None or not metric.judges(outputs.answers):
            continue
        result = metric.on_model(outputs)
        if isinstance(result, Estimate):
            values[name] = result.point
            intervals[name] = result
        else:
            values[name] = result
    return values, intervals


def pair_metrics(outputs: Outputs, context: Context) -> dict[str, Estimate]:
    """Every metric of a variant's answers against base's that is defined for their kind."""
    compared: dict[str, Estimate] = {}
    for name, metric in METRICS.items():
        if metric.on_pair is not None and metric.judges(outputs.answers):
            result = metric.on_pair(outputs, context)
            if result is not None:
                compared[name] = result
    return compared


def size_ratios(
    variant: Mapping[str, float | None], base: Mapping[str, float | None]
) -> dict[str, Estimate]:
    """File size and compressed size over base's; both are known exactly."""
    ratios = {}
    for name, metric in (
        ("size_ratio", "size_bytes"),
        ("compressed_size_ratio", "compressed_bytes"),
    ):
        top, bottom = variant.get(metric), base.get(metric)
        if top is not None and bottom:
            ratios[name] = stats.exact(top / bottom, 1)
    return ratios


# A model so many times as far from base as the farthest control would squeeze all others together.
BEYOND = 3.0


def landscape(models: Mapping[str, Outputs], controls: Sequence[str] = ()) -> Landscape | None:
    """The models as points in a plane whose distances follow their activation distances.

    Classical multidimensional scaling gives the directions: deterministic, and its loss is known,
    unlike that of t-SNE. Each model's distance from base, which comes first in `models`, is exact.
    A model far beyond the farthest of `controls` is named with its distance, not drawn. None for
    fewer than three models, and for answers that are no classes. Source: Torgerson, Psychometrika
    17 (1952).
    """
    from edgebench.metrics.activation_distance import distances

    if len(models) < 3 or any(one.answers != "classes" for one in models.values()):
        return None
    home, *others = models
    far = {name: float(distances(models[name], models[home]).mean()) for name in others}
    limit = BEYOND * max((far[name] for name in controls if name in far), default=float("inf"))
    beyond = {name: distance for name, distance in far.items() if limit and distance > limit}
    names = [name for name in models if name not in beyond]
    if len(names) < 3:
        return None
    wanted = np.zeros((len(names), len(names)))
    for i, first in enumerate(names):
        for j, second in enumerate(names[:i]):
            wanted[i, j] = wanted[j, i] = distances(models[first], models[second]).mean()
    centre = np.eye(len(names)) - 1 / len(names)
    values, vectors = np.linalg.eigh(-0.5 * centre @ wanted**2 @ centre)
    plane = vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0.0))
    # An eigenvector's sign is arbitrary: fix it, so that the same run gives the same picture.
    signs = np.sign(plane[np.abs(plane).argmax(axis=0), [0, 1]])
    plane = (plane - plane[0]) * np.where(signs == 0, 1.0, signs)
    # Base stands in the middle, and how far each model is from it is what a reader reads off: that
    # distance is exact, and what the plane cannot show goes into the directions.
    reach = np.linalg.norm(plane, axis=1)
    lost = (reach == 0) & (wanted[0] > 0)
    plane[lost], reach[lost] = (1.0, 0.0), 1.0
    plane *= np.divide(wanted[0], reach, out=np.zeros_like(reach), where=reach > 0)[:, None]
    shown = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    total = float((wanted**2).sum())
    stress = float(np.sqrt(((shown - wanted) ** 2).sum() / total)) if total else 0.0
    return Landscape(
        points={name: (float(x), float(y)) for name, (x, y) in zip(names, plane, strict=True)},
        beyond=beyond,
        stress=stress,
        method="mean activation distance from base, exact; directions by classical "
        "multidimensional scaling",
    )
