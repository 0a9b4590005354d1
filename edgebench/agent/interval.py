"""The confidence interval of a median, nearly free of assumptions on the distribution.

It lies in the agent because a measurement stops on its width; the host derives the same one from
the samples.
"""

from __future__ import annotations

import math
from typing import Any, Mapping, NamedTuple, Optional, Sequence

LEVEL = 0.95
# Stopping as soon as an interval is narrow prefers those that are so by chance. Made at this level,
# they cover 94 to 97 % (7 to 80 values, normal and Student's t with 3 degrees of freedom).
STOPPING_LEVEL = 0.97


class MedianInterval(NamedTuple):
    """`low` and `high` of a median, from the order statistics `rank` and `rank` + 1 at each end."""

    low: float
    high: float
    rank: int


def median_interval(values: Sequence[float], level: float = LEVEL) -> Optional[MedianInterval]:
    """The interval of the median of `values` that covers it with probability `level`.

    Between two neighbouring order statistics it is interpolated, since their own coverage comes in
    steps (6 values: 96.9 % or 78.1 %). None for fewer than 6 values, whose range covers less than
    95 %. It is exact for the Laplace distribution and within a percent for those that the tests
    draw from. Source: Hettmansperger and Sheather, Statistics and Probability Letters 4 (1986)
    75-79.
    """
    ordered = sorted(values)
    n = len(ordered)
    rank = 0
    while 2 * (rank + 1) <= n and _coverage(n, rank + 1) >= level:
        rank += 1
    if rank == 0:
        return None
    wider, narrower = _coverage(n, rank), _coverage(n, rank + 1)
    share = (wider - level) / (wider - narrower)
    inward = (n - rank) * share / (rank + (n - 2 * rank) * share)
    low = (1 - inward) * ordered[rank - 1] + inward * ordered[rank]
    high = (1 - inward) * ordered[n - rank] + inward * ordered[n - rank - 1]
    return MedianInterval(low, high, rank)


def level_of(protocol: Mapping[str, Any]) -> float:
    """The level at which a protocol's intervals have to be made to cover 95 %."""
    return LEVEL if protocol.get("half_width") is None else STOPPING_LEVEL


def half_width(log_ratios: Sequence[float], level: float = STOPPING_LEVEL) -> float:
    """Half the width of the interval of a ratio, relative to it; infinite for too few values."""
    found = median_interval(log_ratios, level)
    return math.inf if found is None else (found.high - found.low) / 2


def _coverage(n: int, rank: int) -> float:
    """P(the median lies between the order statistics `rank` and n + 1 − `rank`)."""
    outside = sum(math.comb(n, k) for k in range(rank))
    return 1.0 - 2.0 * float(outside) / 2.0**n
