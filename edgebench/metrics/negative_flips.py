"""Examples that base got right and the variant gets wrong."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "negative_flips",
    title="negative flips",
    unit="",
    better="lower",
    meaning="share of the test examples base got right and the variant gets wrong",
)
def negative_flips(variant: Outputs, context: Context) -> Estimate:
    """Negative flip rate (Yan et al., CVPR 2021), Wilson's interval."""
    flipped = context.base.correct & ~variant.correct
    return stats.proportion(int(flipped.sum()), len(flipped))
