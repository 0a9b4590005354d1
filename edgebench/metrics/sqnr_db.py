"""Signal-to-quantization-noise ratio of the logits."""

from __future__ import annotations

import numpy as np

from edgebench import stats
from edgebench.metrics.base import Context, Outputs, pair_metric
from edgebench.records import Estimate


@pair_metric(
    "sqnr_db",
    title="SQNR",
    unit="dB",
    better="higher",
    meaning="power of base's logits over the power of their change, in decibels",
)
def sqnr_db(variant: Outputs, context: Context) -> Estimate:
    """10 log10(Σ base² / Σ (base − variant)²); null (infinite) where the logits are identical."""
    base = context.base.logits
    signal = (base**2).sum(axis=1)
    noise = ((base - variant.logits) ** 2).sum(axis=1)
    if not noise.any() or not signal.any():
        method = "identical logits: infinite" if signal.any() else "base's logits are all zero"
        return Estimate(point=None, low=None, high=None, n=len(noise), method=method)
    ratio, replicates = stats.bootstrap_ratio(signal, noise, context.weights)
    with np.errstate(divide="ignore"):
        return stats.percentile_interval(
            float(10 * np.log10(ratio)), 10 * np.log10(replicates), len(noise)
        )
