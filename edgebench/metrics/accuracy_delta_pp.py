"""How many percentage points of accuracy compression cost."""

from __future__ import annotations

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "accuracy_delta_pp",
    title="accuracy change",
    unit="pp",
    better="higher",
    meaning="accuracy minus base's on the same examples, in percentage points",
)
def accuracy_delta_pp(variant: Outputs, context: Context) -> Estimate:
    """Paired difference of accuracies in percentage points, Tango's interval."""
    gained, lost = changes(variant, context.base)
    return stats.paired_difference(gained, lost, len(variant.labels), scale=100)


def changes(variant: Outputs, base: Outputs) -> tuple[int, int]:
    """How many examples only the variant got right, and how many only base did."""
    gained = int((variant.correct & ~base.correct).sum())
    lost = int((~variant.correct & base.correct).sum())
    return gained, lost
