"""Signal-to-quantization-noise ratio of the answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric, worst
from edgebench.records import Estimate


@pair_metric(
    "sqnr_db",
    title="SQNR",
    unit="dB",
    better="higher",
    meaning="power of base's logits (or other answers) over the power of their change, in decibels",
    answers=("classes", "any"),
)
def sqnr_db(variant: Outputs, context: Context) -> Estimate:
    """10 log10(Σ base² / Σ (base − variant)²); null (infinite) where the answers are identical.

    Of several outputs the one with the lowest ratio.
    """

    def ratio(one: Outputs, base: Outputs) -> Estimate:
        return _of_output(one, base, context.weights)

    return worst(ratio, variant, context.base, "higher")


def _of_output(variant: Outputs, reference: Outputs, weights: NDArray[np.float32]) -> Estimate:
    base = reference.logits
    signal = (base**2).sum(axis=1)
    noise = ((base - variant.logits) ** 2).sum(axis=1)
    if not noise.any() or not signal.any():
        what = "logits" if variant.answers == "classes" else "answers"
        method = f"identical {what}: infinite" if signal.any() else f"base's {what} are all zero"
        return Estimate(point=None, low=None, high=None, n=len(noise), method=method)
    ratio, replicates = stats.bootstrap_ratio(signal, noise, weights)
    with np.errstate(divide="ignore"):
        return stats.percentile_interval(
            float(10 * np.log10(ratio)), 10 * np.log10(replicates), len(noise)
        )
