"""Kullback-Leibler divergence of the variant's probabilities from base's."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "kl_divergence",
    title="KL divergence",
    unit="nats",
    better="lower",
    meaning="mean KL(base ‖ variant), natural logarithm: base first",
)
def kl_divergence(variant: Outputs, context: Context) -> Estimate:
    """Mean KL(base ‖ variant) from log-probabilities, so that it is finite for finite logits."""
    log_p = context.base.log_softmax
    values = (np.exp(log_p) * (log_p - variant.log_softmax)).sum(axis=1)
    return stats.bootstrap_mean(np.maximum(values, 0.0), context.weights)
