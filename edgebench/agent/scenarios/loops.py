"""The scenarios' loops over one query. Clock and sleep are parameters, so that tests never wait.

A query begins with its examples in the host's memory: copying them into the bound buffers is part
of it. `ask` makes one query and has finished when it returns.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence

from ..errors import ModelFailedError

if TYPE_CHECKING:
    from ..measure import Arm, Clock

    Ask = Callable[[], None]
    Sleep = Callable[[float], None]

# The most queries of one model that a process keeps, unless the least is more: 24 bytes each. A
# model of 18 µs would make 3 million a minute, and a 99.9th percentile takes 6,636.
MOST_QUERIES = 200_000
# How much earlier than due a sleep ends: the kernel wakes a process that late.
SPIN_NS = 200_000


class Timeline:
    """When each query was due, when it was begun and when it was answered, in clock nanoseconds."""

    def __init__(self) -> None:
        self.scheduled_ns = array("q")
        self.start_ns = array("q")
        self.end_ns = array("q")

    def __len__(self) -> int:
        return len(self.end_ns)

    def add(self, scheduled: int, start: int, end: int) -> None:
        """One more query; raises ModelFailedError where the clock cannot be right."""
        if end <= start:
            how = "went back" if end < start else "stood still"
            raise ModelFailedError(f"cannot be timed: the device's clock {how} during a query")
        self.scheduled_ns.append(scheduled)
        self.start_ns.append(start)
        self.end_ns.append(end)


class Enough:
    """A loop is over after `seconds`, not before `queries` of them, and at the latest at `most`.

    `examples`: how many records one query leaves.
    """

    def __init__(self, seconds: float, queries: int, examples: int = 1) -> None:
        self.ns = int(seconds * 1e9)
        self.queries = queries
        self.most = max(queries, MOST_QUERIES // examples)

    def asks_on(self, count: int, elapsed_ns: int) -> bool:
        """Whether a closed loop goes on after `count` queries."""
        return count < self.most and (elapsed_ns < self.ns or count < self.queries)

    def arrivals(self, qps: float) -> int:
        """How many queries arrive at a server."""
        return min(self.most, max(self.queries, math.ceil(qps * self.ns / 1e9)))

    def ended_at(self, timeline: Timeline, qps: Optional[float]) -> Optional[int]:
        """How many queries there were where `most` ended it before its time; else None.

        `qps`: those of a server, whose time is that of its schedule.
        """
        if len(timeline) < self.most:
            return None
        elapsed = timeline.end_ns[-1] - timeline.scheduled_ns[0]
        short = elapsed < self.ns if qps is None else qps * self.ns / 1e9 > self.most
        return len(timeline) if short else None


def asker(arm: Arm, calls: int = 1) -> Ask:
    """A query of `calls` inferences back to back, each on the next feed."""
    next_input, call, bound = arm.next_input, arm.query.call, arm.query.bound

    def ask() -> None:
        for _ in range(calls):
            next_input()
            call(bound)

    return ask


def closed_loop(ask: Ask, enough: Enough, clock: Clock) -> Timeline:
    """Single-stream and multi-stream: a query is due when the one before it is answered."""
    return _one_after_the_other(ask, enough, clock, due_at_once=False)


def offline(ask: Ask, enough: Enough, clock: Clock) -> Timeline:
    """All batches are due at the beginning; only what is done in a second means anything."""
    return _one_after_the_other(ask, enough, clock, due_at_once=True)


def _one_after_the_other(ask: Ask, enough: Enough, clock: Clock, *, due_at_once: bool) -> Timeline:
    timeline = Timeline()
    begin = clock()
    end = begin
    while enough.asks_on(len(timeline), end - begin):
        start = clock()
        ask()
        end = clock()
        timeline.add(begin if due_at_once else start, start, end)
    return timeline


def server(
    ask: Ask, due_ns: Sequence[int], clock: Clock, sleep: Sleep, *, give_up_ns: int
) -> Timeline:
    """One server and a queue, first come first served.

    `due_ns` are the arrivals after the beginning. Arrivals do not wait for answers: a query that
    finds the server busy is begun late and counts from when it was due, and the backlog is kept.
    So a stall shows in every query it delayed (no coordinated omission). It ends early once a
    query is begun more than `give_up_ns` late.
    """
    timeline = Timeline()
    begin = clock()
    for due in due_ns:
        scheduled = begin + due
        wait_until(scheduled, clock, sleep)
        start = clock()
        if start - scheduled > give_up_ns:
            break
        ask()
        timeline.add(scheduled, start, clock())
    return timeline


def wait_until(due: int, clock: Clock, sleep: Sleep) -> None:
    """Sleep until just before `due`, then watch the clock; return at once where it has passed."""
    left = due - clock()
    if left > SPIN_NS:
        sleep((left - SPIN_NS) / 1e9)
    while clock() < due:
        pass


def poisson_arrivals(qps: float, enough: Enough, seed: Sequence[int]) -> List[int]:
    """When queries arrive, in ns from the beginning: independent, `qps` a second on average.

    The same seed gives the same pattern at every rate, stretched: two models are asked alike.
    """
    import numpy as np

    gaps = np.random.default_rng(list(seed)).exponential(1e9 / qps, size=enough.arrivals(qps))
    arrivals: List[int] = np.cumsum(gaps).astype(np.int64).tolist()
    return arrivals
