"""The timing under a recorded clock: no test here waits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgebench.agent.measure import (
    Arm,
    block_order,
    calls_per_sample,
    time_block,
    time_pairs,
    timer_resolution_ns,
    warm_up,
)
from edgebench.agent.runtimes.base import Query


class Replay:
    """A clock that stands still but for the durations of the calls made under it."""

    def __init__(self, durations: Iterator[int]) -> None:
        self.now = 0
        self.durations = durations
        self.calls = 0
        self.written: list[Any] = []

    def clock(self) -> int:
        return self.now

    def run(self) -> None:
        self.calls += 1
        self.now += next(self.durations)

    def arm(self, examples: int = 3) -> Arm:
        query = Query(self.written.append, self.run, lambda: self.written[-1])
        return Arm(query, list(range(examples)))


def test_warm_up_ends_when_two_windows_agree() -> None:
    falling = itertools.chain([5000] * 20, [2000] * 20, itertools.repeat(1000))
    replay = Replay(falling)
    result = warm_up(replay.arm(), 0.0, 1.0, replay.clock)
    assert (result.steady, result.call_ns, replay.calls) == (True, 1000, 80)
    assert result.seconds == pytest.approx(180_000 / 1e9)


def test_warm_up_lasts_at_least_as_long_as_asked() -> None:
    replay = Replay(itertools.repeat(1_000_000))
    result = warm_up(replay.arm(), 0.5, 1.0, replay.clock)
    assert result.steady
    assert 0.5 <= result.seconds < 0.53


def test_warm_up_that_never_settles_is_capped() -> None:
    slower = (1_000_000 + 100_000 * n for n in itertools.count())
    replay = Replay(slower)
    result = warm_up(replay.arm(), 0.1, 2.0, replay.clock)
    assert not result.steady
    assert 2.0 <= result.seconds < 2.1


def test_one_call_longer_than_the_cap() -> None:
    replay = Replay(itertools.repeat(3_000_000_000))
    result = warm_up(replay.arm(), 0.1, 2.0, replay.clock)
    assert (result.steady, result.call_ns, replay.calls) == (False, 3e9, 1)


@pytest.mark.parametrize(
    ("call_ns", "resolution_ns", "calls"),
    [(30_000, 30, 1), (30_001, 30, 1), (29_999, 30, 2), (1_000, 50, 50), (0, 1, 1000), (1e9, 1, 1)],
)
def test_a_sample_lasts_a_thousand_steps_of_the_clock(
    call_ns: float, resolution_ns: float, calls: int
) -> None:
    assert calls_per_sample(call_ns, resolution_ns) == calls


def test_block_samples_until_its_time_is_over() -> None:
    replay = Replay(itertools.repeat(10))
    start, samples, last = time_block(replay.arm(), 4, 200e-9, replay.clock)
    assert (start, samples) == (0, [40] * 5)
    assert replay.calls == 20
    assert replay.written == [0, 1, 2, 0, 1]
    assert last == 1


def test_block_holds_one_sample_however_long_it_is() -> None:
    replay = Replay(itertools.repeat(10**9))
    assert time_block(replay.arm(), 1, 0.0, replay.clock) == (0, [10**9], 0)


def test_order_is_ab_ba_and_starts_the_other_way_in_the_next_process() -> None:
    assert block_order(3, 0) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert block_order(2, 1) == [(0, 1), (0, 0), (1, 0), (1, 1)]


def test_inputs_take_turns_over_all_blocks_of_an_arm() -> None:
    replay = Replay(itertools.repeat(10))
    other = Replay(itertools.repeat(10))
    seen: list[tuple[int, int, int]] = []
    blocks = time_pairs(
        (replay.arm(), other.arm()),
        inner=1,
        pairs=2,
        block_s=20e-9,
        process=0,
        after=lambda b: seen.append((b.pair, b.arm, b.last)),
        clock=lambda: replay.now + other.now,
    )
    assert seen == [(0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0)]
    assert [b.sample_ns for b in blocks] == [[10, 10]] * 4
    assert replay.written == [0, 1, 2, 0]


def steps(*values: int) -> Callable[[], int]:
    return iter([*values, *itertools.repeat(values[-1], 10)]).__next__


def test_resolution_is_the_smallest_step() -> None:
    assert timer_resolution_ns(steps(0, 0, 100, 130, 130, 200), reads=5) == 30
    assert timer_resolution_ns(steps(7, 7, 7, 7, 7, 7), reads=5) == 1.0
