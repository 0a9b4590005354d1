from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgebench import stats
from edgebench.agent.interval import STOPPING_LEVEL, half_width


def test_tango_without_changes_has_a_closed_form() -> None:
    # With no discordant pair the score equation reduces to a limit of z²/(n + z²).
    z2 = 1.959963984540054**2
    estimate = stats.paired_difference(0, 0, 100)
    assert estimate.low == pytest.approx(-z2 / (100 + z2))
    assert estimate.high == pytest.approx(z2 / (100 + z2))


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.02), (0.0, 0.01), (0.1, 0.03)])
def test_tango_covers_the_truth(gain: float, loss: float) -> None:
    rng = np.random.default_rng(7)
    n, trials, hits = 300, 400, 0
    draws = rng.multinomial(n, [gain, loss, 1 - gain - loss], size=trials)
    for gained, lost, _ in draws:
        e = stats.paired_difference(int(gained), int(lost), n)
        hits += e.low <= gain - loss <= e.high
    assert hits / trials > 0.92


@given(
    st.integers(2, 400).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))
    )
)
def test_tango_interval_holds_its_point(case: tuple[int, int, int]) -> None:
    n, gained, lost = case
    if gained + lost > n:
        gained, lost = gained // 2, lost // 2
    e = stats.paired_difference(gained, lost, n)
    mirrored = stats.paired_difference(lost, gained, n)
    assert -1 <= e.low <= e.point <= e.high <= 1
    assert mirrored.low == pytest.approx(-e.high, abs=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_too_few_values_have_no_interval(n: int) -> None:
    e = stats.median_interval(np.arange(float(n)))
    assert e.low is e.high is None
    assert "too few" in e.method


@pytest.mark.parametrize("n", [6, 7, 12, 30, 101])
def test_median_interval_lies_between_the_order_statistics_around_95(n: int) -> None:
    e = stats.median_interval(np.arange(float(n)))
    rank = int(np.floor(e.low))
    assert e.low + e.high == pytest.approx(n - 1)
    wider, narrower = (1 - 2 * binom.cdf(k, n, 0.5) for k in (rank, rank + 1))
    assert wider >= 0.95 > narrower


@pytest.mark.parametrize("n", [6, 9, 12, 20])
@pytest.mark.parametrize("draw", ["normal", "cauchy", "exponential"])
def test_median_interval_covers_95_percent(n: int, draw: str) -> None:
    rng = np.random.default_rng([n, len(draw)])
    many = {
        "normal": rng.normal(size=(4000, n)),
        "cauchy": rng.standard_cauchy(size=(4000, n)),
        "exponential": rng.exponential(size=(4000, n)) - np.log(2),
    }[draw]
    found = [stats.median_interval(row) for row in many]
    covered = np.mean([e.low <= 0 <= e.high for e in found])
    assert 0.94 <= covered <= 0.96


def test_cluster_bootstrap_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(5)
    process = np.repeat(np.arange(12), 6)
    ratio = np.exp(0.1 + np.repeat(rng.normal(0, 0.01, 12), 6) + rng.normal(0, 0.002, 72))
    exact = stats.ratio_of_blocks(np.ones(72), ratio, process)
    other = stats.bootstrap_ratio_of_processes(np.ones(72), ratio, process, 0)
    assert other.point == pytest.approx(exact.point)
    assert other.low == pytest.approx(exact.low, abs=0.005)
    assert other.high == pytest.approx(exact.high, abs=0.005)
    assert other == stats.bootstrap_ratio_of_processes(np.ones(72), ratio, process, 0)


def test_tukeys_fences() -> None:
    assert stats.tukey_outliers(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 100])) == 0.1
    assert stats.tukey_outliers(np.ones(9)) == 0.0


def test_lag1_autocorrelation() -> None:
    assert stats.lag1_autocorrelation(np.array([1.0, -1] * 50)) == pytest.approx(-0.99)
    assert stats.lag1_autocorrelation(np.arange(100.0)) == pytest.approx(0.97, abs=0.01)
    assert stats.lag1_autocorrelation(np.ones(5)) is None


def test_ratio_of_blocks_cancels_drift() -> None:
    drift = np.linspace(1, 3, 12)
    e = stats.ratio_of_blocks(1000 * drift, 500 * drift, np.repeat(np.arange(6), 2))
    assert e.point == pytest.approx(0.5)
    assert e.low == pytest.approx(0.5)
    assert e.n == 6


def test_pairs_of_one_process_are_one_unit() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        # Each process has a bias of its own that its pairs share.
        bias = np.repeat(rng.normal(0, 0.02, 6), 8)
        ratio = np.exp(bias + rng.normal(0, 0.002, 48))
        e = stats.ratio_of_blocks(np.ones(48), ratio, np.repeat(np.arange(6), 8))
        hits += e.low <= 1 <= e.high
    assert hits / 300 > 0.93


def test_samples_needed_is_mlperfs_table() -> None:
    assert [stats.samples_needed(q) for q in (0.9, 0.95, 0.99, 0.999)] == [64, 130, 662, 6636]


def test_a_tail_without_enough_samples_is_unknown() -> None:
    values, process = np.arange(1.0, 663.0), np.arange(662) % 6
    assert stats.latency_quantile(values[:661], process[:661], 0.99) is None
    e = stats.latency_quantile(values, process, 0.99)
    assert e.point == 656
    assert e.low <= e.point <= e.high
    assert e.n == 6
    few = stats.latency_quantile(values, np.arange(662) % 5, 0.99)
    assert (few.point, few.low, few.high) == (656, None, None)


def test_a_tail_is_a_time_that_was_seen() -> None:
    rng = np.random.default_rng(0)
    values, process = rng.exponential(size=1200), np.arange(1200) % 6
    for q in (0.9, 0.95, 0.99):
        e = stats.latency_quantile(values, process, q)
        assert e.point in values
        assert (values > e.point).mean() == pytest.approx(1 - q, abs=1e-3)


def test_one_slow_process_widens_the_tail() -> None:
    rng = np.random.default_rng(0)
    values, process = rng.exponential(size=6000), np.arange(6000) % 6
    alike = stats.latency_quantile(values, process, 0.99)
    values[process == 3] *= 5
    apart = stats.latency_quantile(values, process, 0.99)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)


def test_resampled_tail_is_the_plain_computation() -> None:
    rng = np.random.default_rng(1)
    values, process = rng.exponential(size=900), np.repeat(np.arange(9, dtype=np.int32), 100)
    order = np.argsort(-values, kind="stable")
    found = stats._resampled_tail(values[order], process[order], 0.9)
    again = np.random.default_rng([900, 9, 0x7A11])
    for replicate in found[:50]:
        drawn = np.bincount(again.integers(9, size=9), minlength=9)
        pooled = np.sort(np.repeat(values, drawn[process]))[::-1]
        assert replicate == pooled[90]


def test_bootstrap_weights_are_whole_resamples() -> None:
    weights = stats.bootstrap_weights(50, seed=3, resamples=20)
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == stats.bootstrap_weights(50, seed=3, resamples=20)).all()
    assert (weights != stats.bootstrap_weights(50, seed=4, resamples=20)).any()


def test_bootstrap_ratio_covers() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        top, bottom = rng.exponential(2, 200), rng.exponential(4, 200)
        weights = stats.bootstrap_weights(200, trial, 300)
        point, replicates = stats.bootstrap_ratio(top, bottom, weights)
        e = stats.percentile_interval(point, replicates, 200)
        hits += e.low <= 0.5 <= e.high
    assert hits >= 86


def test_a_ratio_that_is_not_finite_has_no_interval() -> None:
    weights = stats.bootstrap_weights(5, 0, 10)
    point, replicates = stats.bootstrap_ratio(np.ones(5), np.zeros(5), weights)
    assert stats.percentile_interval(point, replicates, 5).low is None


def test_bootstrap_mean_stays_in_range_and_covers() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(100):
        values = rng.exponential(0.01, 200)
        e = stats.bootstrap_mean(values, stats.bootstrap_weights(200, trial, 300))
        assert values.min() <= e.low <= e.point <= e.high <= values.max()
        hits += e.low <= 0.01 <= e.high
    assert hits >= 88


@pytest.mark.parametrize("least", [7, 12])
@pytest.mark.parametrize("wanted", [0.4, 0.65, 1.0])
def test_stopping_on_precision_keeps_the_promise(least: int, wanted: float) -> None:
    rng = np.random.default_rng([least, int(100 * wanted)])
    covered = 0
    for _ in range(1500):
        values = list(rng.standard_t(3, size=least))
        while half_width(values) > wanted and len(values) < 40:
            values.append(rng.standard_t(3))
        e = stats.median_interval(np.array(values), STOPPING_LEVEL)
        covered += e.low <= 0 <= e.high
    # 1500 draws: 0.94 is two standard errors below 0.95.
    assert 0.94 <= covered / 1500 <= 0.985


@pytest.mark.parametrize(("queries", "q"), [(60, 0.9), (300, 0.99)])
def test_tails_of_processes_that_differ_cover_95_percent(queries: int, q: float) -> None:
    rng = np.random.default_rng(queries)
    process = np.repeat(np.arange(6, dtype=np.int32), queries)
    # What the quantile is over all processes there could be.
    true = np.quantile(np.exp(rng.normal(0, 0.1, 200_000)) * rng.exponential(size=200_000), q)
    covered = 0
    for _ in range(200):
        scale = np.repeat(np.exp(rng.normal(0, 0.1, 6)), queries)
        e = stats.latency_quantile(scale * rng.exponential(size=len(process)), process, q)
        covered += e.low <= true <= e.high
    assert covered / 200 > 0.9
