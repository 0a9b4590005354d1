from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind

from edgebench.multiplicity import holm, p_above, ratio_of_ratios, unpaired_ratio
from edgebench.records import Estimate


def estimate(point: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(point=point, low=low, high=high, n=6, method="t")


def test_holm_gives_what_r_gives() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm"); statsmodels' multipletests says the same.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([None, 0.02, None, 0.03]) == [None, 0.04, None, 0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_keeps_the_order_and_stays_a_probability(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(p <= a <= 1 for p, a in zip(values, adjusted, strict=True) if a is not None)
    ordered = [a for _, a in sorted(zip(values, adjusted, strict=True))]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("margin", [0.0, 0.02, -0.01])
def test_p_above_is_students_one_sided_test(margin: float) -> None:
    logs = np.random.default_rng(3).normal(0.015, 0.02, 9)
    expected = ttest_1samp(logs, margin, alternative="greater").pvalue
    assert p_above(logs, margin) == pytest.approx(expected)


def test_p_above_of_one_process_is_unknown_and_of_equal_ones_certain() -> None:
    assert p_above(np.array([0.3])) is None
    assert p_above(np.full(5, 0.3), 0.1) == 0.0
    assert p_above(np.full(5, 0.3), 0.3) == 1.0


def test_unpaired_ratio_is_welchs_test_on_the_logarithms() -> None:
    rng = np.random.default_rng(5)
    base, variant = np.exp(rng.normal(1.0, 0.05, 6)), np.exp(rng.normal(1.1, 0.15, 11))
    found = unpaired_ratio(base, variant, math.log(1.02))
    test = ttest_ind(np.log(variant) - math.log(1.02), np.log(base), equal_var=False)
    two_sided = ttest_ind(np.log(variant), np.log(base), equal_var=False).confidence_interval(0.95)
    assert found.ratio.low == pytest.approx(math.exp(two_sided.low))
    assert found.ratio.high == pytest.approx(math.exp(two_sided.high))
    assert found.p_value == pytest.approx(
        ttest_ind(
            np.log(variant) - math.log(1.02), np.log(base), equal_var=False, alternative="greater"
        ).pvalue
    )
    assert (found.p_value < 0.5) == (test.statistic > 0)


def test_unpaired_ratio_of_too_few_or_of_zero_has_no_interval() -> None:
    one = unpaired_ratio(np.array([2.0]), np.array([3.0, 3.1]))
    assert one.ratio.point == pytest.approx(math.sqrt(3.0 * 3.1) / 2)
    assert (one.ratio.low, one.p_value) == (None, None)
    nothing = unpaired_ratio(np.array([0.0, 1.0]), np.array([3.0, 3.1]))
    assert (nothing.ratio.point, nothing.p_value) == (None, None)
    alike = unpaired_ratio(np.array([2.0, 2.0]), np.array([3.0, 3.0]))
    assert (alike.ratio.low, alike.p_value) == (pytest.approx(1.5), 0.0)


def test_ratio_of_ratios_joins_two_intervals() -> None:
    found = ratio_of_ratios(estimate(0.5, 0.49, 0.51), estimate(0.6, 0.6 * 0.97, 0.6 / 0.97))
    assert found.ratio.point == pytest.approx(1.2)
    half = math.hypot(math.log(1 / 0.97), math.log(0.51 / 0.5))
    assert found.ratio.low == pytest.approx(1.2 * math.exp(-half))
    assert found.p_value is not None
    assert found.p_value < 0.001
    # At its own lower end the one-sided p-value is half of 5 %.
    edge = ratio_of_ratios(
        estimate(0.5, 0.49, 0.51),
        estimate(0.6, 0.6 * 0.97, 0.6 / 0.97),
        math.log(found.ratio.low or 0),
    )
    assert edge.p_value == pytest.approx(0.025)


def test_ratio_of_ratios_without_an_interval_has_none() -> None:
    found = ratio_of_ratios(estimate(0.5, None, None), estimate(0.6, 0.5, 0.7))
    assert found.ratio.point == pytest.approx(1.2)
    assert (found.ratio.low, found.p_value) == (None, None)
    exact = ratio_of_ratios(estimate(0.5, 0.5, 0.5), estimate(0.5, 0.5, 0.5))
    assert (exact.ratio.low, exact.p_value) == (1.0, 1.0)
