"""The timing under a recorded clock: no test here waits."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.measure import (
    CLOCK_CHANGED,
    KEPT,
    THROTTLED,
    Arm,
    Block,
    Settling,
    block_order,
    calls_per_sample,
    log_ratio,
    pairs_that_fit,
    same_input_ratio,
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

    def run(self, bound: object = None) -> None:
        self.calls += 1
        self.now += next(self.durations)

    def arm(self, examples: int = 3) -> Arm:
        query = Query(self.written.append, self.run, lambda: self.written[-1])
        return Arm(query, list(range(examples)))


def test_warm_up_ends_when_two_windows_agree() -> None:
    falling = itertools.chain([5000] * 20, [2000] * 20, itertools.repeat(1000))
    replay = Replay(falling)
    result = warm_up(replay.arm(), Settling(0.0, 1.0), replay.clock)
    assert (result.steady, result.call_ns, replay.calls) == (True, 1000, 80)
    assert result.seconds == pytest.approx(180_000 / 1e9)


def test_warm_up_goes_on_while_a_window_is_spread_out() -> None:
    spread = [1000, 1000, 1000, 1200] * 10
    wide = [1000, 1300] * 10
    replay = Replay(itertools.chain(wide, wide, itertools.repeat(1150)))
    result = warm_up(replay.arm(), Settling(0.0, 1.0), replay.clock)
    # The medians of the first two windows agree (1150), their spread does not allow an end.
    assert (result.steady, replay.calls) == (True, 60)
    replay = Replay(itertools.cycle(spread))
    # A quarter of the calls may be slow: the quartiles do not see fewer.
    result = warm_up(replay.arm(), Settling(0.0, 1.0, iqr=0.25), replay.clock)
    assert (result.steady, replay.calls) == (True, 40)


def test_warm_up_lasts_at_least_as_long_as_asked() -> None:
    replay = Replay(itertools.repeat(1_000_000))
    result = warm_up(replay.arm(), Settling(0.5, 1.0), replay.clock)
    assert result.steady
    assert 0.5 <= result.seconds < 0.53


def test_warm_up_that_never_settles_is_capped() -> None:
    slower = (1_000_000 + 100_000 * n for n in itertools.count())
    replay = Replay(slower)
    result = warm_up(replay.arm(), Settling(0.1, 2.0), replay.clock)
    assert not result.steady
    assert 2.0 <= result.seconds < 2.2


@pytest.mark.parametrize(("call_ms", "calls"), [(50, 20), (150, 6), (3000, 6)])
def test_slow_models_settle_too(call_ms: int, calls: int) -> None:
    replay = Replay(itertools.repeat(call_ms * 1_000_000))
    result = warm_up(replay.arm(), Settling(0.1, 2.0), replay.clock)
    assert (result.steady, result.call_ns, replay.calls) == (True, call_ms * 1e6, calls)


def test_slow_model_that_moves_is_not_steady() -> None:
    replay = Replay(3_000_000_000 + 100_000_000 * n for n in itertools.count())
    result = warm_up(replay.arm(), Settling(0.1, 2.0), replay.clock)
    assert (result.steady, replay.calls) == (False, 6)


@pytest.mark.parametrize(
    ("durations", "message"), [([10, -5], "went back by 5 ns"), ([10, 0], "stood still")]
)
def test_a_clock_that_does_not_go_forward_ends_it(durations: list[int], message: str) -> None:
    replay = Replay(iter(durations))
    with pytest.raises(ModelFailedError, match=message):
        time_block(replay.arm(), 1, 1.0, replay.clock)


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
    assert (start, samples.tolist()) == (0, [40] * 5)
    assert replay.calls == 20
    assert replay.written == [0, 1, 2, 0, 1]
    assert last == 1


@pytest.mark.parametrize(
    ("sample_s", "pairs"),
    [(0.0001, 16), (0.0015, 15), (0.0099, 8), (0.01, 16), (0.0125, 12), (0.05, 8), (3.0, 8)],
)
def test_a_slow_model_has_fewer_pairs(sample_s: float, pairs: int) -> None:
    assert pairs_that_fit(16, 8, 0.01, sample_s) == pairs


def test_who_asks_for_few_pairs_gets_no_more() -> None:
    assert pairs_that_fit(3, 8, 0.01, 0.05) == 3


def test_block_holds_one_sample_however_long_it_is() -> None:
    replay = Replay(itertools.repeat(10**9))
    start, samples, last = time_block(replay.arm(), 1, 0.0, replay.clock)
    assert (start, samples.tolist(), last) == (0, [10**9], 0)


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
    assert [b.sample_ns.tolist() for b in blocks] == [[10, 10]] * 4
    assert replay.written == [0, 1, 2, 0]


def steps(*values: int) -> Callable[[], int]:
    return iter([*values, *itertools.repeat(values[-1], 10)]).__next__


def test_resolution_is_the_smallest_step() -> None:
    assert timer_resolution_ns(steps(0, 0, 100, 130, 130, 200), reads=5) == 30
    assert timer_resolution_ns(steps(7, 7, 7, 7, 7, 7), reads=5) == 1.0


def timed_blocks(counters: list[tuple[int, tuple[int, ...]]], *, locked: bool) -> list[int]:
    replay = Replay(itertools.repeat(10))
    reads = iter(counters)
    blocks = time_pairs(
        (replay.arm(), replay.arm()),
        inner=1,
        pairs=2,
        block_s=20e-9,
        process=0,
        after=lambda b: None,
        counters=lambda: next(reads),
        locked=locked,
        clock=replay.clock,
    )
    return [b.cause for b in blocks]


def test_block_in_which_the_device_slowed_itself_down_is_marked() -> None:
    seen = [(0, ()), (0, ()), (3, ()), (3, ()), (3, ())]
    assert timed_blocks(seen, locked=False) == [KEPT, THROTTLED, KEPT, KEPT]


def test_moving_clock_is_a_cause_only_where_it_was_locked() -> None:
    clocks = [(0, (1000, 1000)), (0, (1000, 1010)), (0, (1000, 800)), (0, (1000, 800))]
    seen = [*clocks, clocks[-1]]
    assert timed_blocks(seen, locked=True) == [KEPT, CLOCK_CHANGED, KEPT, KEPT]
    assert timed_blocks(seen, locked=False) == [KEPT] * 4


def block(pair: int, arm: int, *samples: int, cause: int = KEPT) -> Block:
    found = Block(pair, arm, 0, array("q", samples), 0)
    found.cause = cause
    return found


def test_log_ratio_is_the_median_over_whole_pairs() -> None:
    blocks = [
        *(block(0, 0, 100, 100, 900), block(0, 1, 110)),
        *(block(1, 1, 130), block(1, 0, 100)),
        *(block(2, 0, 100), block(2, 1, 120)),
        *(block(3, 0, 100, cause=THROTTLED), block(3, 1, 500)),
    ]
    assert log_ratio(blocks) == pytest.approx(math.log(1.2))
    assert log_ratio([block(0, 0, 1, cause=THROTTLED), block(0, 1, 1)]) is None


def test_same_input_control_shows_a_cache() -> None:
    replay = Replay(itertools.repeat(0))
    last: list[Any] = [None]

    def run(bound: object) -> None:
        # Remembers the last answer: stands for a runtime that does.
        replay.now += 10 if replay.written[-1] == last[0] else 100
        last[0] = replay.written[-1]

    query = Query(replay.written.append, run, lambda: ())
    arm = Arm(query, [(i,) for i in range(4)])
    assert same_input_ratio(arm, 1, 2e-6, 4, replay.clock) == pytest.approx(0.1)
    assert arm.rotating
    honest = Replay(itertools.repeat(100))
    assert same_input_ratio(honest.arm(), 1, 2e-6, 4, honest.clock) == 1.0
