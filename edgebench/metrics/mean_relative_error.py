"""How large the change of an answer is beside the answer."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Floats, Outputs, pair_metric, worst
from edgebench.records import Estimate


@pair_metric(
    "mean_relative_error",
    title="mean relative error",
    unit="",
    better="lower",
    meaning="mean over the examples of |answer − base's| / |base's|, norms of a whole output; of "
    "several outputs the largest",
    answers=("any",),
)
def mean_relative_error(variant: Outputs, context: Context) -> Estimate:
    """Mean per-example relative error; see `relative_errors`."""

    def mean(one: Outputs, base: Outputs) -> Estimate:
        errors = relative_errors(one, base)
        if errors is None:
            return nothing_to_relate(base)
        return stats.bootstrap_mean(errors, context.weights)

    return worst(mean, variant, context.base, "lower")


def relative_errors(variant: Outputs, base: Outputs) -> Floats | None:
    """[N] the Euclidean norm of an output's change over the norm of base's output.

    An example whose base output is zero is held against the mean norm of base's outputs: a change
    from nothing has no relative size of its own. None where all of base's outputs are zero.
    """
    norms = np.linalg.norm(base.logits, axis=1)
    if not norms.any():
        return None
    changes = np.linalg.norm(variant.logits - base.logits, axis=1)
    errors: Floats = changes / np.where(norms > 0, norms, norms.mean())
    return errors


def nothing_to_relate(base: Outputs) -> Estimate:
    """The error relative to an output that is zero on every example: there is none."""
    method = "base's answers are all zero"
    return Estimate(point=None, low=None, high=None, n=len(base.values), method=method)
