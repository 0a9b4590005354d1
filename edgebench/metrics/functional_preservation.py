"""Is it still the same function, or merely as accurate as a stranger?"""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.activation_distance import distances
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "functional_preservation",
    title="functional preservation",
    unit="",
    better="higher",
    meaning="1 is the same function as base, 0 is as far from base as a network trained anew",
)
def functional_preservation(variant: Outputs, context: Context) -> Estimate | None:
    """1 − d(variant, base) / d(independent, base), d the activation distance.

    The distance of the independent controls is their average; none without a control. Which
    networks were drawn as controls matters as much as which examples: the interval is the hull of
    the intervals against each control alone, each a bootstrap over the examples.
    """
    if not context.controls:
        return None
    near = distances(variant, context.base)
    far = [distances(control, context.base) for control in context.controls]
    n, count = len(near), len(far)
    each = []
    for one in far:
        ratio, replicates = stats.bootstrap_ratio(near, one, context.weights)
        each.append(stats.percentile_interval(1 - ratio, 1 - replicates, n))
    point, _ = stats.bootstrap_ratio(near, np.mean(far, axis=0), context.weights[:1])
    lows = [e.low for e in each if e.low is not None]
    highs = [e.high for e in each if e.high is not None]
    whole = len(lows) == len(highs) == count and bool(np.isfinite(point))
    return Estimate(
        point=1 - point if np.isfinite(point) else None,
        low=min(lows) if whole else None,
        high=max(highs) if whole else None,
        n=n,
        method=f"hull over {count} control{'s' * (count > 1)} of bootstrap percentile intervals "
        "over the examples, 95 %",
    )
