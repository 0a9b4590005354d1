"""The loops against a clock that only moves when it is told to: nothing here waits."""

from __future__ import annotations

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.measure import Arm
from edgebench.agent.runtimes.base import Query
from edgebench.agent.scenarios import loops
from edgebench.agent.scenarios.loops import (
    SPIN_NS,
    Enough,
    asker,
    closed_loop,
    offline,
    poisson_arrivals,
    server,
    wait_until,
)
from edgebench.agent.scenarios.stall import stalling

MS = 1_000_000


class VirtualClock:
    """A clock that is advanced by sleeping and by work, and by 100 ns at each reading."""

    def __init__(self) -> None:
        self.now = 10**12
        self.slept: list[float] = []

    def __call__(self) -> int:
        self.now += 100
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += int(seconds * 1e9)

    def work(self, ns: int) -> None:
        self.now += ns


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def latency_ms(timeline) -> np.ndarray:
    return (np.array(timeline.end_ns) - np.array(timeline.scheduled_ns)) / MS


def service_ms(timeline) -> np.ndarray:
    return (np.array(timeline.end_ns) - np.array(timeline.start_ns)) / MS


def test_a_closed_loop_asks_one_query_after_the_other(clock):
    timeline = closed_loop(lambda: clock.work(2 * MS), Enough(0.1, 1), clock)
    assert len(timeline) == 50
    assert timeline.scheduled_ns == timeline.start_ns
    assert latency_ms(timeline) == pytest.approx(2.0, abs=0.001)
    starts, ends = np.array(timeline.start_ns), np.array(timeline.end_ns)
    assert (starts[1:] >= ends[:-1]).all()


def test_a_loop_makes_its_least_queries_however_long_they_take(clock):
    assert len(closed_loop(lambda: clock.work(900 * MS), Enough(1.0, 7), clock)) == 7
    assert len(offline(lambda: clock.work(900 * MS), Enough(1.0, 7), clock)) == 7


class TestTheMostQueries:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr(loops, "MOST_QUERIES", 50)

    @pytest.mark.parametrize("loop", [closed_loop, offline])
    def test_end_a_loop_before_its_time_and_it_says_so(self, clock, loop):
        enough = Enough(1.0, 7)
        timeline = loop(lambda: clock.work(MS), enough, clock)
        assert len(timeline) == 50
        assert enough.ended_at(timeline, None) == 50

    @pytest.mark.parametrize("loop", [closed_loop, offline])
    def test_are_more_where_more_are_the_least(self, clock, loop):
        enough = Enough(1.0, 80)
        timeline = loop(lambda: clock.work(MS), enough, clock)
        assert enough.ended_at(timeline, None) == len(timeline) == 80

    def test_say_nothing_where_the_time_was_over(self, clock):
        for seconds, queries in ((0.01, 7), (0.01, 80)):
            enough = Enough(seconds, queries)
            timeline = closed_loop(lambda: clock.work(MS), enough, clock)
            assert enough.ended_at(timeline, None) is None

    def test_are_fewer_where_each_leaves_several_records(self):
        assert Enough(1.0, 7, examples=10).most == 7
        assert Enough(1.0, 3, examples=10).most == 5

    def test_are_all_that_arrive_at_a_server(self, clock):
        for seconds, ended in ((0.5, 50), (0.05, None)):
            enough = Enough(seconds, 1)
            due = poisson_arrivals(1000.0, enough, (0,))
            timeline = server(lambda: clock.work(10), due, clock, clock.sleep, give_up_ns=10**9)
            assert len(timeline) == 50
            assert enough.ended_at(timeline, 1000.0) == ended


def test_a_multi_stream_query_is_as_long_as_all_its_samples(clock):
    fed = []
    query = Query(write=fed.append, call=lambda bound: clock.work(MS), read=lambda: ())
    arm = Arm(query, [("a",), ("b",), ("c",)])
    timeline = closed_loop(asker(arm, 8), Enough(0.0, 3), clock)
    assert latency_ms(timeline) == pytest.approx(8.0, abs=0.001)
    # The feeds go on taking turns from query to query.
    assert [feed[0] for feed in fed] == list("abc" * 8)


def test_offline_batches_are_all_due_at_the_beginning(clock):
    timeline = offline(lambda: clock.work(10 * MS), Enough(0.0, 5), clock)
    assert len(set(timeline.scheduled_ns)) == 1
    assert latency_ms(timeline) == pytest.approx([10, 20, 30, 40, 50], abs=0.01)


def test_a_server_waits_for_what_is_not_due_yet(clock):
    timeline = server(
        lambda: clock.work(MS), [5 * MS, 20 * MS], clock, clock.sleep, give_up_ns=10**9
    )
    assert latency_ms(timeline) == pytest.approx(1.0, abs=0.001)
    assert np.diff(timeline.scheduled_ns).tolist() == [15 * MS]
    assert clock.slept == pytest.approx([(5 * MS - SPIN_NS) / 1e9, (14 * MS - SPIN_NS) / 1e9], 1e-3)


def test_a_late_query_is_served_at_once_and_counts_from_when_it_was_due(clock):
    due = [0, MS, 2 * MS, 50 * MS]
    timeline = server(lambda: clock.work(10 * MS), due, clock, clock.sleep, give_up_ns=10**9)
    # First come first served: the second waits for the first, the third for both.
    assert latency_ms(timeline) == pytest.approx([10, 19, 28, 10], abs=0.01)
    assert service_ms(timeline) == pytest.approx(10, abs=0.01)
    assert len(clock.slept) == 1


def test_a_server_that_cannot_keep_up_gives_up_instead_of_going_on_for_ever(clock):
    due = [i * MS for i in range(10_000)]
    timeline = server(lambda: clock.work(50 * MS), due, clock, clock.sleep, give_up_ns=due[-1])
    assert 200 < len(timeline) < 210
    assert (np.diff(latency_ms(timeline)) > 0).all()


def test_a_sleep_ends_before_the_query_is_due(clock):
    begin = clock.now
    wait_until(begin + 5 * MS, clock, clock.sleep)
    assert clock.slept == [pytest.approx(0.0048, rel=1e-3)]
    assert 5 * MS <= clock.now - begin < 5 * MS + 1000
    wait_until(clock.now + SPIN_NS // 2, clock, clock.sleep)
    wait_until(clock.now - MS, clock, clock.sleep)
    assert len(clock.slept) == 1


@pytest.mark.parametrize(("step", "word"), [(-5, "went back"), (0, "stood still")])
def test_a_clock_that_does_not_go_on_ends_the_measurement(step, word):
    readings = iter([0, 10, 10 + step])
    with pytest.raises(ModelFailedError, match=word):
        closed_loop(lambda: None, Enough(1.0, 1), lambda: next(readings))


class TestArrivals:
    def test_come_at_the_rate_asked_for_and_never_back_in_time(self):
        due = poisson_arrivals(500.0, Enough(20.0, 1), (1, 2))
        assert len(due) == 10_000
        assert due == sorted(due)
        assert due[-1] == pytest.approx(20e9, rel=0.05)

    def test_have_the_gaps_of_a_poisson_process(self):
        gaps = np.diff(poisson_arrivals(1000.0, Enough(10.0, 1), (3,))) / 1e6
        # Exponential: the standard deviation is the mean, and 1/e of the gaps are longer.
        assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
        assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)

    def test_are_the_same_for_a_seed_and_stretch_with_the_rate(self):
        enough = Enough(0.0, 100)
        slow, fast = (np.array(poisson_arrivals(qps, enough, (7,))) for qps in (100.0, 400.0))
        assert (slow == np.array(poisson_arrivals(100.0, enough, (7,)))).all()
        assert slow == pytest.approx(4 * fast, rel=1e-6)
        assert poisson_arrivals(100.0, enough, (8,)) != slow.tolist()

    def test_are_at_least_as_many_as_asked_for(self):
        assert len(poisson_arrivals(10.0, Enough(1.0, 50), (0,))) == 50


class TestCoordinatedOmission:
    """A stall of 100 ms once a second, with queries of 1 ms."""

    def stalled(self, clock: VirtualClock) -> Arm:
        query = Query(write=lambda feed: None, call=lambda bound: clock.work(MS), read=lambda: ())
        return Arm(stalling(query, clock, clock.sleep), [()])

    def test_a_stall_is_in_the_single_stream_but_not_in_its_99th_percentile(self, clock):
        timeline = closed_loop(asker(self.stalled(clock)), Enough(10.0, 1), clock)
        assert latency_ms(timeline).max() == pytest.approx(101, abs=0.1)
        assert (latency_ms(timeline) > 50).sum() == 9
        assert np.quantile(latency_ms(timeline), 0.99) == pytest.approx(1.0, abs=0.01)

    def test_the_server_shows_it_in_every_query_it_delayed(self, clock):
        due = poisson_arrivals(200.0, Enough(10.0, 1), (0,))
        ask = asker(self.stalled(clock))
        timeline = server(ask, due, clock, clock.sleep, give_up_ns=10**12)
        assert len(timeline) == 2000
        assert np.quantile(latency_ms(timeline), 0.99) > 80
        # 9 stalls of 100 ms delay about 20 arrivals each, and those drain at one a millisecond.
        assert 150 < (latency_ms(timeline) > 5).sum() < 350
        # By the service time alone the stall would not show: this is the omission.
        assert np.quantile(service_ms(timeline), 0.99) == pytest.approx(1.0, abs=0.01)
        assert np.median(latency_ms(timeline)) < 3
