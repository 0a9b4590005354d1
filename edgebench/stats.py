"""The statistics behind every interval: pure functions of numbers.

Levels are 95 % unless the method's name says what it really is. Each function returns an
`Estimate`, which names its method.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.interval import median_interval as order_statistics
from edgebench.records import Estimate

Floats = NDArray[np.float64]

LEVEL = 0.95
FEWEST_PROCESSES = 6
_CLUSTER_RESAMPLES = 1000
# A resample may draw a calm process so often that its tail lies further down than that of all.
_TAIL_REACH = 20


def exact(value: float, n: int) -> Estimate:
    """A value known exactly (a size, a count): the interval is the point."""
    return Estimate(point=value, low=value, high=value, n=n, method="exact")


def proportion(successes: int, n: int, *, scale: float = 1.0) -> Estimate:
    """A share of `n` examples with Wilson's score interval.

    Source: E. B. Wilson, JASA 22 (1927); recommended over Wald's by Brown, Cai, DasGupta (2001).
    """
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Estimate(
        point=scale * successes / n,
        low=scale * interval.low,
        high=scale * interval.high,
        n=n,
        method="Wilson score, 95 %",
    )


def paired_difference(gained: int, lost: int, n: int, *, scale: float = 1.0) -> Estimate:
    """The difference of two proportions on the same `n` examples, (gained − lost)/n.

    `gained` counts the examples only the second got right, `lost` those only the first did. Tango's
    score interval stays honest with few or no changed examples, where the bootstrap and Wald's
    interval collapse to a point.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + LEVEL / 2))
    point = (gained - lost) / n

    def score(delta: float) -> float:
        # The restricted maximum-likelihood estimate of the probability of a loss, given delta.
        a = 2.0 * n
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        top = gained - lost - n * delta
        if variance <= 0:
            return 0.0 if top == 0 else math.copysign(math.inf, top)
        return top / math.sqrt(variance)

    edge = 1 - 1e-12
    low = brentq(lambda d: min(score(d), 1e6) - z, -edge, point) if point > -1 else -1.0
    high = brentq(lambda d: max(score(d), -1e6) + z, point, edge) if point < 1 else 1.0
    return Estimate(
        point=scale * point,
        low=scale * low,
        high=scale * high,
        n=n,
        method="Tango paired score, 95 %",
    )


def mean(values: Floats) -> Estimate:
    """The mean over examples, with Student's t interval (values [N])."""
    from scipy.stats import t

    n = len(values)
    point = float(values.mean())
    if n < 2:
        return Estimate(point=point, low=None, high=None, n=n, method="mean, one example")
    half = float(t.ppf(0.5 + LEVEL / 2, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return Estimate(
        point=point, low=point - half, high=point + half, n=n, method="mean, Student t, 95 %"
    )


def bootstrap_weights(n: int, seed: int, resamples: int = 2000) -> NDArray[np.float32]:
    """How often each of `n` examples is drawn in each resample: [resamples, n], rows sum to n.

    Made once a run and shared, so that every statistic sees the same resamples. Single precision
    holds the counts exactly and halves the memory (80 MB for 10,000 examples).
    """
    rng = np.random.default_rng([seed, n, 0xB007])
    weights = np.empty((resamples, n), dtype=np.float32)
    for row in weights:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def bootstrap_mean(values: Floats, weights: NDArray[np.float32]) -> Estimate:
    """The mean over examples [N] with a bootstrap interval, which stays within the values' range.

    Divergences are bounded and skewed: Student's interval could reach below zero.
    """
    replicates = (weights @ values.astype(np.float32)).astype(np.float64) / len(values)
    return percentile_interval(
        float(values.mean()), replicates, len(values), method="mean, bootstrap percentile, 95 %"
    )


def bootstrap_ratio(
    top: Floats, bottom: Floats, weights: NDArray[np.float32]
) -> tuple[float, Floats]:
    """The ratio of two means over the same examples, and its bootstrap replicates.

    `top`, `bottom`: [N]; `weights`: [B, N] from `bootstrap_weights`; replicates: [B].
    """
    # errstate: a resample in which every bottom is 0 gives inf, which the percentiles then show.
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = (weights @ top.astype(np.float32)) / (weights @ bottom.astype(np.float32))
        return float(top.mean() / bottom.mean()), replicates.astype(np.float64)


def percentile_interval(
    point: float, replicates: Floats, n: int, *, method: str = "bootstrap percentile, 95 %"
) -> Estimate:
    """An estimate whose interval is the central 95 % of its bootstrap replicates [B]."""
    if not math.isfinite(point) or not np.isfinite(replicates).all():
        finite = point if math.isfinite(point) else None
        return Estimate(point=finite, low=None, high=None, n=n, method=f"{method}; not finite")
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(point=point, low=float(low), high=float(high), n=n, method=method)


def median_interval(values: Floats, level: float = LEVEL) -> Estimate:
    """The median with its interval made of order statistics.

    Nearly free of assumptions on the distribution; see `edgebench.agent.interval`. Fewer than 6
    values cannot cover 95 %: then there is no interval, and the method says so. `level` is higher
    where sampling went on until the interval was narrow.
    """
    n = len(values)
    point = float(np.median(values))
    found = order_statistics(values.tolist(), level)
    stopped = f", made at {level:.0%} since it stopped on precision" if level != LEVEL else ""
    if found is None:
        method = f"median of {n}: too few for an interval of 95 %{stopped}"
        return Estimate(point=point, low=None, high=None, n=n, method=method)
    method = f"median of {n}, order statistics interpolated from rank {found.rank}, 95 %{stopped}"
    return Estimate(point=point, low=found.low, high=found.high, n=n, method=method)


def by_process(values: Floats, process: NDArray[np.int32], q: float = 0.5) -> Floats:
    """The quantile `q` of the values of each process, in the order of their numbers.

    `values`, `process`: [S]. What is measured inside one process shares its memory layout, its
    caches and its luck; only processes are independent.
    """
    return np.array([np.quantile(values[process == p], q) for p in np.unique(process)])


def ratio_of_blocks(
    base_ns: Floats, variant_ns: Floats, process: NDArray[np.int32], level: float = LEVEL
) -> Estimate:
    """The latency ratio from paired blocks, with the process as the independent unit.

    `base_ns`, `variant_ns`: [B], the median query time of the two blocks of each pair; `process`:
    [B]. Each process gives the median of its pairs' log ratios, in which the drift of a machine
    that is not quiet cancels; the estimate is exp of `median_interval` over processes, at `level`.
    """
    logs = median_interval(by_process(np.log(variant_ns / base_ns), process), level)
    point, low, high = (
        None if v is None else math.exp(v) for v in (logs.point, logs.low, logs.high)
    )
    method = f"processes, each the median log ratio of its block pairs; {logs.method}"
    return Estimate(point=point, low=low, high=high, n=logs.n, method=method)


def bootstrap_ratio_of_processes(
    base_ns: Floats, variant_ns: Floats, process: NDArray[np.int32], seed: int
) -> Estimate:
    """The latency ratio with an interval from resampled processes, to check `ratio_of_blocks` by.

    Processes are drawn with replacement, and within each of them its pairs (the two-stage variant
    of Davison and Hinkley, Bootstrap Methods (1997), section 3.8). With few processes it
    is narrower than it should be; it is a second opinion, not the interval a gate reads.
    """
    rng = np.random.default_rng([seed, len(process), 0xC105])
    clusters = [np.log(variant_ns / base_ns)[process == p] for p in np.unique(process)]
    replicates = np.empty(_CLUSTER_RESAMPLES)
    for index in range(_CLUSTER_RESAMPLES):
        drawn = rng.integers(len(clusters), size=len(clusters))
        medians = [
            np.median(clusters[c][rng.integers(len(clusters[c]), size=len(clusters[c]))])
            for c in drawn
        ]
        replicates[index] = np.median(medians)
    point = float(np.median([np.median(cluster) for cluster in clusters]))
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(
        point=math.exp(point),
        low=math.exp(low),
        high=math.exp(high),
        n=len(clusters),
        method="processes and their pairs resampled, percentile, 95 %",
    )


def tukey_outliers(values: Floats) -> float:
    """The share of values beyond Tukey's fences, 1.5 interquartile ranges from the quartiles.

    They are flagged, never removed. Source: Tukey, Exploratory Data Analysis (1977).
    """
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 1.5 * (high - low)
    return float(((values < low - reach) | (values > high + reach)).mean())


def lag1_autocorrelation(values: Floats) -> float | None:
    """The correlation of neighbouring values in time; None for values that do not vary.

    Far from 0, the values are not independent and count for fewer than they are.
    """
    centred = values - values.mean()
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if len(values) > 2 and total > 0 else None


def latency_quantile(query_ms: Floats, process: NDArray[np.int32], q: float) -> Estimate | None:
    """A quantile of the single-query times, or None where a tail has too few of them.

    `query_ms`, `process`: [Q]. The least number of queries for a tail is that of
    MLPerf's early-stopping rule with one query allowed beyond it, 99 % confidence: p90 needs 64,
    p95 130, p99 662, p99.9 6,636. The value is the plain quantile of all queries together, a time
    that was seen, which lies below LoadGen's estimate (an upper bound). The median's interval is
    that of the processes' own medians; a tail's has the error seen when whole processes are
    resampled, with Student's t, since they are few (it covered 92 to 96 % where 6 processes that
    differ by a tenth were simulated; the percentiles themselves covered 88 to 94 %).
    """
    if q <= 0.5:
        own = median_interval(by_process(query_ms, process, q))
        method = f"processes, each its own quantile; {own.method}"
        return own.model_copy(update={"method": method})
    n, processes = len(query_ms), len(np.unique(process))
    if n < samples_needed(q):
        return None
    descending = np.argsort(-query_ms, kind="stable")
    point = float(query_ms[descending[_beyond(q, n)]])
    if processes < FEWEST_PROCESSES:
        method = f"of all queries; {processes} processes are too few for an interval"
        return Estimate(point=point, low=None, high=None, n=processes, method=method)
    from scipy.stats import t

    logs = np.log(_resampled_tail(query_ms[descending], process[descending], q))
    error = float(logs.std()) * math.sqrt(processes / (processes - 1))
    reach = math.exp(float(t.ppf(0.5 + LEVEL / 2, processes - 1)) * error)
    return Estimate(
        point=point,
        low=point / reach,
        high=point * reach,
        n=processes,
        method=f"of {n} queries; error from resampled processes, Student t, 95 %",
    )


def _beyond(q: float, n: float) -> int:
    """How many of `n` queries lie beyond the quantile."""
    return int((1 - q) * n + 1e-9)


def _resampled_tail(descending_ms: Floats, process: NDArray[np.int32], q: float) -> Floats:
    """The quantile `q` of each resample of whole processes: [resamples].

    `descending_ms`, `process`: [Q], slowest first. Only the tail is looked at, so that a million
    queries cost no more than their slowest few.
    """
    numbers, label = np.unique(process, return_inverse=True)
    sizes = np.bincount(label)
    rng = np.random.default_rng([len(label), len(numbers), 0x7A11])
    reach = min(len(label), _beyond(q, len(label)) * _TAIL_REACH + _TAIL_REACH)
    tail, times = label[:reach], descending_ms[:reach]
    replicates = np.empty(_CLUSTER_RESAMPLES)
    for index in range(_CLUSTER_RESAMPLES):
        drawn = np.bincount(rng.integers(len(numbers), size=len(numbers)), minlength=len(numbers))
        slower = np.cumsum(drawn[tail])
        wanted = _beyond(q, float(drawn @ sizes)) + 1
        replicates[index] = times[min(int(np.searchsorted(slower, wanted)), reach - 1)]
    return replicates


def samples_needed(q: float, confidence: float = 0.99) -> int:
    """The least n with P(at most 1 of n samples lies beyond quantile `q`) ≤ 1 − confidence."""
    n = 2
    while (q**n + n * (1 - q) * q ** (n - 1)) > 1 - confidence:
        n += 1
    return n
