"""Several questions asked of the same processes: p-values, and how much each one still counts.

Pure functions of numbers. The process is the independent unit everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebench.records import Estimate

Floats = NDArray[np.float64]

LEVEL = 0.95


@dataclass(frozen=True)
class TestedRatio:
    """A ratio with its interval, and the one-sided p-value of "it is not above the margin"."""

    ratio: Estimate
    p_value: float | None


def p_above(logs: Floats, margin: float = 0.0) -> float | None:
    """The one-sided p-value against "the mean of `logs` is `margin` or less", by Student's t.

    `logs`: [P], one log ratio a process; `margin`: a log ratio. None for fewer than two values.
    Values that are all alike leave no doubt: 0 above the margin, else 1.
    """
    from scipy.stats import t

    n = len(logs)
    if n < 2:
        return None
    distance = float(np.mean(logs)) - margin
    spread = float(np.std(logs, ddof=1))
    if spread == 0:
        return 0.0 if distance > 0 else 1.0
    return float(t.sf(distance / (spread / math.sqrt(n)), n - 1))


def unpaired_ratio(base: Floats, variant: Floats, margin: float = 0.0) -> TestedRatio:
    """The ratio of the geometric means of two groups of processes, by Welch's t on the logarithms.

    `base` [P], `variant` [Q]: one positive value a process, in the same unit, from processes that
    do not belong together in pairs. `margin` is a log ratio. Fewer than two values in a group, or
    one that is not positive, leave no interval and no p-value.

    Source: B. L. Welch, Biometrika 34 (1947) 28-35.
    """
    from scipy.stats import t

    n = min(len(base), len(variant))
    method = "processes, ratio of geometric means, Welch's t, 95 %"
    if n == 0 or min(base.min(), variant.min()) <= 0:
        return TestedRatio(Estimate(point=None, low=None, high=None, n=n, method=method), None)
    first, second = np.log(base), np.log(variant)
    point = float(second.mean() - first.mean())
    if n < 2:
        alone = Estimate(point=math.exp(point), low=None, high=None, n=n, method=method)
        return TestedRatio(alone, None)
    shares = [float(group.var(ddof=1)) / len(group) for group in (first, second)]
    error = math.sqrt(sum(shares))
    if error == 0:
        exact = Estimate(
            point=math.exp(point), low=math.exp(point), high=math.exp(point), n=n, method=method
        )
        return TestedRatio(exact, 0.0 if point > margin else 1.0)
    freedom = error**4 / sum(
        share**2 / (len(group) - 1) for share, group in zip(shares, (first, second), strict=True)
    )
    half = float(t.ppf(0.5 + LEVEL / 2, freedom)) * error
    ratio = Estimate(
        point=math.exp(point),
        low=math.exp(point - half),
        high=math.exp(point + half),
        n=n,
        method=method,
    )
    return TestedRatio(ratio, float(t.sf((point - margin) / error, freedom)))


def ratio_of_ratios(before: Estimate, after: Estimate, margin: float = 0.0) -> TestedRatio:
    """How a ratio changed between two independent sessions: after over before.

    The interval joins both by the distances of their ends from their points (on the logarithms);
    the p-value, by a normal approximation, follows from its lower half. Null ends where one of the
    two has no interval.

    Source: G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008) 1693-1702.
    """
    from scipy.stats import norm

    method = "ratio of two sessions' ratios to base, intervals joined by MOVER, 95 %"
    n = min(before.n, after.n)
    values = [before.point, before.low, before.high, after.point, after.low, after.high]
    logs = [math.log(v) for v in values if v is not None and v > 0]
    if len(logs) < len(values):
        point = after.point / before.point if before.point and after.point else None
        return TestedRatio(Estimate(point=point, low=None, high=None, n=n, method=method), None)
    b, b_low, b_high, a, a_low, a_high = logs
    below = math.hypot(a - a_low, b_high - b)
    above = math.hypot(a_high - a, b - b_low)
    change = a - b
    ratio = Estimate(
        point=math.exp(change),
        low=math.exp(change - below),
        high=math.exp(change + above),
        n=n,
        method=method,
    )
    if below == 0:
        return TestedRatio(ratio, 0.0 if change > margin else 1.0)
    z = (change - margin) / (below / float(norm.ppf(0.5 + LEVEL / 2)))
    return TestedRatio(ratio, float(norm.sf(z)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for how many there are; those that are None stay so and do not count.

    An adjusted value at most α keeps the chance of any false alarm among them at α, whatever their
    dependence. Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted
