"""Metrics of answers that are no classes, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench import compare, stats
from edgebench.metrics.base import METRICS, Context, Outputs


def outputs(*rows: list[float], widths: tuple[int, ...] = ()) -> Outputs:
    return Outputs(np.array(rows, np.float32), answers="any", widths=widths)


def against(variant: Outputs, base: Outputs) -> dict[str, float | None]:
    weights = stats.bootstrap_weights(len(base.values), 0)
    found = compare.pair_metrics(variant, Context(base, (), weights))
    return {name: one.point for name, one in found.items()}


def test_only_metrics_of_such_answers_are_there() -> None:
    base = outputs([1, 2], [3, 4], [5, 6])
    assert set(against(base, base)) == {
        "sqnr_db",
        "output_cosine",
        "mean_relative_error",
        "largest_relative_error",
    }
    assert compare.model_metrics(base) == ({}, {})
    assert compare.landscape({"base": base, "a": base, "b": base}) is None


def test_only_the_shared_one_is_a_classifiers() -> None:
    both = [name for name, metric in METRICS.items() if len(metric.answers) == 2]
    assert both == ["sqnr_db"]


def test_by_hand() -> None:
    base, variant = outputs([3, 4], [0, 10]), outputs([3, 3], [0, 12])
    found = against(variant, base)
    # Changes 1 and 2, of answers of length 5 and 10.
    assert found["mean_relative_error"] == pytest.approx(0.2)
    assert found["largest_relative_error"] == pytest.approx(0.2)
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(125 / 5))
    assert found["output_cosine"] == pytest.approx(((9 + 12) / (5 * 18**0.5) + 1) / 2)


def test_of_several_outputs_the_worst_counts() -> None:
    # The first output is a thousand times larger and exact; it must not hide the second.
    base = outputs([1000, 2000, 1], [3000, 4000, 1], widths=(2, 1))
    variant = outputs([1000, 2000, 2], [3000, 4000, 1], widths=(2, 1))
    found = against(variant, base)
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(2 / 1))
    assert found["mean_relative_error"] == pytest.approx(0.5)
    assert found["largest_relative_error"] == pytest.approx(1.0)
    exact = against(base, base)
    assert exact["sqnr_db"] is None
    assert exact["output_cosine"] == pytest.approx(1.0)


def test_an_answer_of_zero_is_held_against_the_mean() -> None:
    base, variant = outputs([0.0], [4.0]), outputs([1.0], [4.0])
    assert against(variant, base)["largest_relative_error"] == pytest.approx(1 / 2)
    nothing = outputs([0.0], [0.0])
    for name in ("mean_relative_error", "largest_relative_error"):
        assert against(variant, nothing)[name] is None
