"""How often the variant answers another class than base."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "prediction_disagreement",
    title="disagreement",
    unit="",
    better="lower",
    meaning="share of the test examples answered with another class than base, right or wrong",
)
def prediction_disagreement(variant: Outputs, context: Context) -> Estimate:
    """1 − argmax agreement, Wilson's interval."""
    different = variant.predictions != context.base.predictions
    return stats.proportion(int(different.sum()), len(different))
