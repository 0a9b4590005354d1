"""How many weights go at which update."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgebench.pruning.sparsity_schedule import most_steps, sparsity_after, step_at


def test_the_share_that_stays_falls_by_the_same_factor_each_time() -> None:
    found = [sparsity_after("iterative", 0.875, step, 3) for step in range(4)]
    assert found == pytest.approx([0, 0.5, 0.75, 0.875])


def test_the_cubic_of_zhu_and_gupta() -> None:
    found = [sparsity_after("cubic", 0.8, step, 4) for step in range(5)]
    wanted = [0.8 * (1 - left**3) for left in (1, 0.75, 0.5, 0.25, 0)]
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["one-shot", "iterative", "cubic"])
def test_the_last_pruning_gives_the_ratio_to_the_bit(schedule: str) -> None:
    assert sparsity_after(schedule, 0.9, 7, 7) == 0.9


def test_iterative_prunes_before_each_equal_share_of_the_training() -> None:
    # Called with 0 before the first update, and with 12 twice, the second time after averaging.
    steps = [step_at("iterative", done, 12, 3) for done in (*range(13), 12)]
    assert steps == [1] * 4 + [2] * 4 + [3] * 6


def test_cubic_prunes_over_the_first_three_quarters() -> None:
    steps = [step_at("cubic", done, 16, 3) for done in range(17)]
    assert steps == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5


def test_one_shot_prunes_once_and_before() -> None:
    assert {step_at("one-shot", done, 10, 1) for done in range(11)} == {1}


@pytest.mark.parametrize("schedule", ["iterative", "cubic"])
@pytest.mark.parametrize("updates", [4, 7, 20])
def test_as_many_prunings_as_have_room_are_made_one_by_one(schedule: str, updates: int) -> None:
    steps = most_steps(schedule, updates)
    seen = [step_at(schedule, done, updates, steps) for done in range(updates + 1)]
    assert all(later - sooner in {0, 1} for sooner, later in pairwise(seen))
    assert seen[-1] == steps
    # With two more, some would have to be made at once.
    over = [step_at(schedule, done, updates, steps + 2) for done in range(updates + 1)]
    assert any(later - sooner > 1 for sooner, later in pairwise(over))
