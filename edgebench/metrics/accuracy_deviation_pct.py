"""The relative change of accuracy, as papers on compression report it."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.accuracy_delta_pp import changes
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "accuracy_deviation_pct",
    title="accuracy deviation",
    unit="%",
    better="higher",
    meaning="100 × (accuracy − base's) / base's",
)
def accuracy_deviation_pct(variant: Outputs, context: Context) -> Estimate | None:
    """Relative deviation in per cent; none where base gets nothing right.

    The interval is that of the paired difference, divided by base's accuracy as if it were exact.
    """
    base_accuracy = float(context.base.correct.mean())
    if base_accuracy == 0:
        return None
    gained, lost = changes(variant, context.base)
    difference = stats.paired_difference(
        gained, lost, len(variant.labels), scale=100 / base_accuracy
    )
    return difference.model_copy(update={"method": f"{difference.method}, over base's accuracy"})
