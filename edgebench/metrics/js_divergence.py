"""Jensen-Shannon divergence from base's predicted probabilities."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "js_divergence",
    title="JS divergence",
    unit="nats",
    better="lower",
    meaning="mean Jensen-Shannon divergence from base, natural logarithm, 0 to ln 2",
)
def js_divergence(variant: Outputs, context: Context) -> Estimate:
    """Mean per-example divergence, natural logarithm, no square root, in [0, ln 2] (Lin, 1991)."""
    log_p, log_q = context.base.log_softmax, variant.log_softmax
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    to_mean = np.exp(log_p) * (log_p - log_m) + np.exp(log_q) * (log_q - log_m)
    # Rounding can leave a sum of −1e-17 where the distributions are the same.
    return stats.bootstrap_mean(np.maximum(0.5 * to_mean.sum(axis=1), 0.0), context.weights)
