"""The statistics behind every interval: pure functions of numbers.

Levels are 95 % unless the method's name says what it really is. Each function returns an
`Estimate`, which names its method.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgebench.records import Estimate

Floats = NDArray[np.float64]

LEVEL = 0.95


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


def median_interval(values: Floats) -> Estimate:
    """The median with the narrowest exact interval of at least 95 % made of order statistics.

    Free of any assumption on the distribution. With 12 values it is [3rd, 10th], which covers
    96.1 %. Fewer than 6 values cannot cover 95 %: then there is no interval, and the method says
    so. Source: David and Nagaraja, Order Statistics (2003), section 7.1.
    """
    from scipy.stats import binom

    ordered = np.sort(values)
    n = len(ordered)
    point = float(np.median(ordered))
    rank = 0
    for k in range(1, (n - 1) // 2 + 1):
        if 1 - 2 * binom.cdf(k, n, 0.5) < LEVEL:
            break
        rank = k
    coverage = 1 - 2 * float(binom.cdf(rank, n, 0.5))
    if coverage < LEVEL:
        method = f"median of {n}: too few for an interval of 95 %"
        return Estimate(point=point, low=None, high=None, n=n, method=method)
    return Estimate(
        point=point,
        low=float(ordered[rank]),
        high=float(ordered[n - 1 - rank]),
        n=n,
        method=f"median, order statistics {rank + 1} and {n - rank} of {n}, {coverage:.1%}",
    )


def by_process(values: Floats, process: NDArray[np.int32], q: float = 0.5) -> Floats:
    """The quantile `q` of the values of each process, in the order of their numbers.

    `values`, `process`: [S]. What is measured inside one process shares its memory layout, its
    caches and its luck; only processes are independent.
    """
    return np.array([np.quantile(values[process == p], q) for p in np.unique(process)])


def ratio_of_blocks(base_ns: Floats, variant_ns: Floats, process: NDArray[np.int32]) -> Estimate:
    """The latency ratio from paired blocks, with the process as the independent unit.

    `base_ns`, `variant_ns`: [B], the median query time of the two blocks of each pair; `process`:
    [B]. Each process gives the median of its pairs' log ratios, in which the drift of a machine
    that is not quiet cancels; the estimate is exp of `median_interval` over processes.
    """
    logs = median_interval(by_process(np.log(variant_ns / base_ns), process))
    point, low, high = (
        None if v is None else math.exp(v) for v in (logs.point, logs.low, logs.high)
    )
    method = f"processes, each the median log ratio of its block pairs; {logs.method}"
    return Estimate(point=point, low=low, high=high, n=logs.n, method=method)


def latency_quantile(query_ms: Floats, process: NDArray[np.int32], q: float) -> Estimate | None:
    """A quantile of the single-query times, or None where a tail has too few of them.

    `query_ms`, `process`: [Q]. A tail follows MLPerf's early-stopping rule with one query allowed
    beyond it, 99 % confidence: p90 needs 64 queries, p95 130, p99 662, p99.9 6,636; never an
    interpolated maximum. The interval is that of the processes' own quantiles.
    """
    if q > 0.5 and len(query_ms) < samples_needed(q):
        return None
    own = median_interval(by_process(query_ms, process, q))
    method = f"processes, each its own quantile; {own.method}"
    return own.model_copy(update={"method": method})


def samples_needed(q: float, confidence: float = 0.99) -> int:
    """The least n with P(at most 1 of n samples lies beyond quantile `q`) ≤ 1 − confidence."""
    n = 2
    while (q**n + n * (1 - q) * q ** (n - 1)) > 1 - confidence:
        n += 1
    return n
