from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.history.changes import level_changes


def noisy(levels: list[tuple[int, float]], sigma: float, seed: int) -> np.ndarray:
    """So many runs of each level, with normal relative noise."""
    rng = np.random.default_rng(seed)
    parts = [level * np.exp(rng.normal(0, sigma, n)) for n, level in levels]
    return np.concatenate(parts)


@pytest.mark.parametrize("seed", range(5))
def test_a_lasting_step_is_found_where_it_is(seed: int) -> None:
    (found,) = level_changes(noisy([(10, 1.0), (8, 1.2)], 0.01, seed), delta=0.05)
    assert found.index == 10
    assert found.relative == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_noise_within_delta_is_no_change(seed: int) -> None:
    assert level_changes(noisy([(20, 3.0)], 0.02, seed), delta=0.05) == []


def test_a_step_below_delta_is_no_change() -> None:
    values = noisy([(10, 1.0), (10, 1.03)], 0.001, 0)
    assert level_changes(values, delta=0.05) == []
    assert [c.index for c in level_changes(values, delta=0.02)] == [10]


@pytest.mark.parametrize("place", [3, 10, 11])
def test_one_odd_run_is_no_change_also_at_the_end(place: int) -> None:
    values = noisy([(12, 1.0)], 0.005, 1)
    values[place] *= 1.6
    assert level_changes(values, delta=0.05) == []


def test_two_runs_are_enough_to_persist() -> None:
    values = noisy([(8, 1.0), (2, 1.3)], 0.005, 2)
    assert [c.index for c in level_changes(values, delta=0.05)] == [8]


def test_an_odd_run_just_before_a_step_does_not_turn_it_round() -> None:
    values = np.array([1.0, 1.01, 0.99, 1.0, 5.0, 1.2, 1.21, 1.19])
    changes = level_changes(values, delta=0.05)
    assert changes[-1].after == pytest.approx(1.2, rel=0.02)
    assert changes[-1].after > changes[-1].before


def test_there_and_back_are_two_changes() -> None:
    values = noisy([(6, 1.0), (5, 1.4), (6, 1.0)], 0.005, 3)
    assert [c.index for c in level_changes(values, delta=0.1)] == [6, 11]


def test_values_that_do_not_vary_have_no_change_and_a_bare_step_has_one() -> None:
    assert level_changes(np.full(6, 2.0), delta=0.0) == []
    (found,) = level_changes(np.array([2.0, 2.0, 2.0, 3.0, 3.0]), delta=0.05)
    assert (found.index, found.before, found.after) == (3, 2.0, 3.0)


def test_known_noise_keeps_four_lucky_runs_from_being_a_step() -> None:
    values = np.array([1.0, 1.0, 1.06, 1.06])
    assert len(level_changes(values, delta=0.05)) == 1
    assert level_changes(values, delta=0.05, noise=0.1) == []


def test_fewer_than_four_runs_have_none() -> None:
    assert level_changes(np.array([1.0, 9.0, 9.0]), delta=0.05) == []


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.01, 100), min_size=4, max_size=16),
    st.floats(0.0, 0.5),
    st.floats(0.5, 20),
)
def test_every_change_is_of_delta_and_the_unit_does_not_matter(
    values: list[float], delta: float, scale: float
) -> None:
    found = level_changes(np.array(values), delta)
    assert all(max(c.after / c.before, c.before / c.after) >= (1 + delta) * 0.999 for c in found)
    assert all(2 <= c.index <= len(values) - 2 for c in found)
