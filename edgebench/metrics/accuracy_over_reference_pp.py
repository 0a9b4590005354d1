"""What a technique gave beyond training on."""

from __future__ import annotations

from edgebench.metrics.accuracy_delta_pp import accuracy_delta_pp
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "accuracy_over_reference_pp",
    title="accuracy over its reference",
    unit="pp",
    better="higher",
    meaning="change of accuracy from the network that was only trained on as long",
)
def accuracy_over_reference_pp(variant: Outputs, context: Context) -> Estimate | None:
    """Accuracy minus that of the variant's reference, in percentage points; none without one."""
    if context.reference is None:
        return None
    return accuracy_delta_pp(variant, Context(context.reference, (), context.weights))
