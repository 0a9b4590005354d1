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

    The distance of the independent controls is their average; none without a control. The interval
    resamples the test examples; the draw of the controls is not in it.
    """
    if not context.controls:
        return None
    near = distances(variant, context.base)
    far = np.mean([distances(control, context.base) for control in context.controls], axis=0)
    ratio, replicates = stats.bootstrap_ratio(near, far, context.weights)
    count = len(context.controls)
    return stats.percentile_interval(
        1 - ratio,
        1 - replicates,
        len(near),
        method=f"bootstrap percentile over examples, 95 %, {count} control{'s' * (count > 1)}",
    )
