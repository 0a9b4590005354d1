"""The largest change of an answer that any test example shows."""

from __future__ import annotations

from edgebench.metrics.base import Context, Outputs, pair_metric, worst
from edgebench.metrics.mean_relative_error import nothing_to_relate, relative_errors
from edgebench.records import Estimate
from edgebench.stats import exact


@pair_metric(
    "largest_relative_error",
    title="largest relative error",
    unit="",
    better="lower",
    meaning="largest |answer − base's| / |base's| over the test examples; of several outputs the "
    "largest",
    answers=("any",),
)
def largest_relative_error(variant: Outputs, context: Context) -> Estimate:
    """Largest per-example relative error; of these examples, it is exact."""

    def largest(one: Outputs, base: Outputs) -> Estimate:
        errors = relative_errors(one, base)
        if errors is None:
            return nothing_to_relate(base)
        return exact(float(errors.max()), len(errors))

    return worst(largest, variant, context.base, "lower")
