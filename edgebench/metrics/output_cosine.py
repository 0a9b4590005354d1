"""The angle between the variant's and base's answers."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric, worst
from edgebench.metrics.logit_cosine import cosines
from edgebench.records import Estimate


@pair_metric(
    "output_cosine",
    title="output cosine",
    unit="",
    better="higher",
    meaning="mean cosine of the angle between the answers and base's, −1 to 1; of several outputs "
    "the lowest",
    answers=("any",),
)
def output_cosine(variant: Outputs, context: Context) -> Estimate:
    """Mean per-example cosine of each output; 1 where both are zero, 0 where one of them is."""

    def cosine(one: Outputs, base: Outputs) -> Estimate:
        return stats.bootstrap_mean(cosines(one, base), context.weights)

    return worst(cosine, variant, context.base, "higher")
