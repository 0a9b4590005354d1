"""Expected calibration error: how far confidence is from being right."""

from __future__ import annotations

import numpy as np

from edgebench.metrics.base import Outputs, model_metric

BINS = 15


@model_metric(
    "ece",
    title="calibration error",
    unit="",
    better="lower",
    meaning="mean gap between confidence and accuracy over 15 equal bins of confidence",
    certainty="none",
)
def ece(outputs: Outputs) -> float:
    """Top-label calibration error, 15 equal-width bins (Guo et al., ICML 2017)."""
    confidence = outputs.softmax.max(axis=1)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    gaps = np.abs(
        np.bincount(bins, weights=confidence, minlength=BINS)
        - np.bincount(bins, weights=outputs.correct.astype(float), minlength=BINS)
    )
    return float(gaps.sum() / count.sum())
