"""How far the predicted probabilities moved."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Floats, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "activation_distance",
    title="activation distance",
    unit="",
    better="lower",
    meaning="mean Euclidean distance of the predicted probabilities from base's, 0 to √2",
)
def activation_distance(variant: Outputs, context: Context) -> Estimate:
    """Mean L2 norm of the softmax difference, in [0, √2]."""
    return stats.bootstrap_mean(distances(variant, context.base), context.weights)


def distances(first: Outputs, second: Outputs) -> Floats:
    """[N] L2 norms of the difference of the predicted probabilities."""
    norms: Floats = np.linalg.norm(first.softmax - second.softmax, axis=1)
    return norms
