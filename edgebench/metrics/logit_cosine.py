"""The angle between the variant's and base's logits."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Floats, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "logit_cosine",
    title="logit cosine",
    unit="",
    better="higher",
    meaning="mean cosine of the angle between the logits and base's, −1 to 1",
)
def logit_cosine(variant: Outputs, context: Context) -> Estimate:
    """Mean per-example cosine of the logits; 1 where both are zero, 0 where one of them is."""
    return stats.bootstrap_mean(cosines(variant, context.base), context.weights)


def cosines(first: Outputs, second: Outputs) -> Floats:
    """[N] the cosine between the answers of two models to each example."""
    a, b = second.logits, first.logits
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = (a == 0).all(axis=1) & (b == 0).all(axis=1)
    cosine = np.divide((a * b).sum(axis=1), norms, out=both_zero.astype(float), where=norms > 0)
    clipped: Floats = np.clip(cosine, -1.0, 1.0)
    return clipped
