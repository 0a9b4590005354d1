"""Share of test examples whose label is among the five largest answers."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Outputs, model_metric
from edgebench.records import Estimate


@model_metric(
    "top5_accuracy",
    title="top-5 accuracy",
    unit="",
    better="higher",
    meaning="share of the test examples whose label is among the five largest answers",
)
def top5_accuracy(outputs: Outputs) -> Estimate:
    """Top-5 accuracy with Wilson's interval; 1 where there are no more than five classes."""
    k = min(5, outputs.values.shape[1])
    largest = np.argpartition(-outputs.values, k - 1, axis=1)[:, :k]
    hits = (largest == outputs.labels[:, None]).any(axis=1)
    return stats.proportion(int(hits.sum()), len(hits))
