"""Share of test examples whose largest answer is the label."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.base import Outputs, model_metric
from edgebench.records import Estimate


@model_metric(
    "accuracy",
    title="accuracy",
    unit="",
    better="higher",
    meaning="share of the test examples answered correctly",
)
def accuracy(outputs: Outputs) -> Estimate:
    """Top-1 accuracy with Wilson's interval."""
    return stats.proportion(int(outputs.correct.sum()), len(outputs.labels))
