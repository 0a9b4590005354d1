"""Cross-entropy of the predicted probabilities with the labels."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Outputs, model_metric
from edgebench.records import Estimate


@model_metric(
    "loss",
    title="loss",
    unit="nats",
    better="lower",
    meaning="mean cross-entropy with the labels, natural logarithm",
)
def loss(outputs: Outputs) -> Estimate:
    """Mean negative log-likelihood of the labels."""
    return stats.mean(-outputs.log_softmax[np.arange(len(outputs.labels)), outputs.labels])
