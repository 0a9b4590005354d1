"""The timing itself: warm-up, calibration, and blocks of samples in the order AB BA.

The clock is a parameter, so that a recorded one can be replayed. Nothing here knows a runtime.
"""

from __future__ import annotations

import math
import time
from array import array
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Optional, Tuple

from .errors import ModelFailedError

if TYPE_CHECKING:
    from .runtimes.base import Feed, Query

    Clock = Callable[[], int]
    # What could explain a change of speed: events so far, and the clocks of the processors.
    Counters = Callable[[], Tuple[int, Tuple[int, ...]]]

WINDOW = 20
LEAST_WINDOW = 3
# Of two clock readings of a locked device; its governor rounds to its own steps.
CLOCK_CHANGE = 0.02

KEPT, THROTTLED, CLOCK_CHANGED = 0, 1, 2


class Arm:
    """One side of the comparison: a query and the feeds that take turns in it."""

    def __init__(self, query: Query, feeds: List[Feed]) -> None:
        self.query = query
        self.feeds = feeds
        self.turn = 0
        self.rotating = True
        self.seen_ns = 0

    def next_input(self) -> int:
        """Write the next feed into the input buffers; gives its index."""
        index = self.turn
        if self.rotating:
            self.turn = (index + 1) % len(self.feeds)
        self.query.write(self.feeds[index])
        return index

    @property
    def last(self) -> int:
        """The index of the feed that was written last."""
        return (self.turn - 1) % len(self.feeds) if self.rotating else self.turn


class Settling:
    """When a warm-up is over: least and most seconds, and how well two windows must agree.

    `median_change`: the most relative change of the median from one window to the next; `iqr`: the
    most interquartile range within each, relative to its median.
    """

    def __init__(
        self, least_s: float, cap_s: float, median_change: float = 0.02, iqr: float = 0.10
    ) -> None:
        self.least_s = least_s
        self.cap_s = max(cap_s, least_s)
        self.median_change = median_change
        self.iqr = iqr


def settling_of(protocol: Mapping[str, Any]) -> Settling:
    """What a protocol asks of a warm-up."""
    return Settling(
        protocol["warmup_s"],
        protocol["warmup_cap_s"],
        protocol["warmup_median"],
        protocol["warmup_iqr"],
    )


class WarmUp:
    """How a warm-up went: `seconds`, whether it ended `steady`, and the last `call_ns`."""

    def __init__(self, seconds: float, steady: bool, call_ns: float) -> None:
        self.seconds = seconds
        self.steady = steady
        self.call_ns = call_ns


class Block:
    """One block: raw `sample_ns` (each over `inner` calls), and which feed came last.

    `cause` is why it may not be used: KEPT (it may), THROTTLED or CLOCK_CHANGED.
    """

    def __init__(
        self, pair: int, arm: int, start_ns: int, sample_ns: array[int], last: int
    ) -> None:
        self.pair = pair
        self.arm = arm
        self.start_ns = start_ns
        self.sample_ns = sample_ns
        self.last = last
        self.cause = KEPT


def timer_resolution_ns(clock: Clock = time.perf_counter_ns, reads: int = 2000) -> float:
    """The smallest step the clock was seen to make, in nanoseconds."""
    steps = []
    before = clock()
    for _ in repeat(None, reads):
        now = clock()
        if now > before:
            steps.append(now - before)
        before = now
    return float(min(steps)) if steps else 1.0


def warm_up(arm: Arm, settling: Settling, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Run until two windows of 20 calls agree in their median and neither is spread out.

    Each window has fewer calls, 3 at least, where 20 would not fit four times into the cap. At the
    cap it ends without being steady, but not before there are two windows to look at.
    """
    least_ns, cap_ns = int(settling.least_s * 1e9), int(settling.cap_s * 1e9)
    start = clock()
    window = array("q")
    now = time_call(arm, 1, window, clock)
    first_ns = max(window[0], 1)
    size = max(LEAST_WINDOW, min(WINDOW, cap_ns // (4 * first_ns)))
    before: Optional[float] = None
    while True:
        if len(window) == size:
            current = median(window)
            agree = (
                before is not None
                and abs(current - before) <= settling.median_change * max(current, before)
                and _iqr(window) <= settling.iqr * current
            )
            elapsed = now - start
            if agree and elapsed >= least_ns:
                return WarmUp(elapsed / 1e9, True, current)
            if before is not None and elapsed >= cap_ns:
                return WarmUp(elapsed / 1e9, False, current)
            before = current
            window = array("q")
        now = time_call(arm, 1, window, clock)


def calls_per_sample(call_ns: float, resolution_ns: float, steps: int = 1000) -> int:
    """How many calls a sample spans, so that it lasts at least `steps` steps of the clock."""
    return max(1, math.ceil(steps * resolution_ns / max(call_ns, 1.0)))


def pairs_that_fit(pairs: int, least: int, block_s: float, sample_s: float) -> int:
    """Fewer pairs where a sample outlasts its block, for the same time in all; `least` at least."""
    samples = max(1, math.ceil(block_s / sample_s - 1e-9))
    return min(pairs, max(least, int(pairs * block_s / (samples * sample_s) + 1e-9)))


def time_call(arm: Arm, inner: int, samples: array[int], clock: Clock) -> int:
    """Append the time of `inner` calls on the next feed; gives the clock at their end."""
    call, bound = arm.query.call, arm.query.bound
    arm.next_input()
    start = clock()
    for _ in repeat(None, inner):
        call(bound)
    end = clock()
    if end <= start or start < arm.seen_ns:
        back = max(start - end, arm.seen_ns - start)
        raise ModelFailedError(
            f"cannot be timed: the device's clock went back by {back} ns"
            if back > 0
            else f"cannot be timed: the device's clock stood still over {inner} calls"
        )
    arm.seen_ns = end
    samples.append(end - start)
    return end


def time_block(
    arm: Arm, inner: int, block_s: float, clock: Clock = time.perf_counter_ns
) -> Tuple[int, array[int], int]:
    """Sample for `block_s` seconds, once at least; gives start, samples and the last feed."""
    samples = array("q")
    start = clock()
    end = start + int(block_s * 1e9)
    while time_call(arm, inner, samples, clock) < end:
        pass
    return start, samples, arm.last


def block_order(pairs: int, process: int) -> List[Tuple[int, int]]:
    """(pair, arm) for AB BA AB BA …; every other process starts with BA."""
    order = []
    for pair in range(pairs):
        first = (pair + process) % 2
        order += [(pair, first), (pair, 1 - first)]
    return order


def time_pairs(
    arms: Tuple[Arm, Arm],
    *,
    inner: int,
    pairs: int,
    block_s: float,
    process: int,
    after: Callable[[Block], None],
    counters: Optional[Counters] = None,
    locked: bool = False,
    clock: Clock = time.perf_counter_ns,
) -> List[Block]:
    """All blocks of one process; `after` is called with each one when its time is over.

    `counters` is read around each block: one in which the device slowed itself down, or in which a
    `locked` clock moved, is marked with that cause.
    """
    blocks = []
    before = counters() if counters is not None else None
    for pair, arm in block_order(pairs, process):
        start, samples, last = time_block(arms[arm], inner, block_s, clock)
        block = Block(pair, arm, start, samples, last)
        if counters is not None and before is not None:
            now = counters()
            block.cause = _cause(before, now, locked)
            before = now
        after(block)
        blocks.append(block)
    return blocks


def same_input_ratio(
    arm: Arm, inner: int, block_s: float, pairs: int, clock: Clock = time.perf_counter_ns
) -> float:
    """The time of a query that is asked the same thing again, over one whose input changes.

    A runtime that remembers answers is far below 1 (MLPerf's TEST04).
    """
    ratios = []
    for pair in range(pairs):
        medians = {}
        for rotating in (True, False) if pair % 2 else (False, True):
            arm.rotating = rotating
            if not rotating:
                # Also the first of the timed queries has been asked before.
                arm.next_input()
                arm.query.run()
            medians[rotating] = median(time_block(arm, inner, block_s, clock)[1])
        ratios.append(medians[False] / medians[True])
    arm.rotating = True
    return median(ratios)


def log_ratio(blocks: List[Block]) -> Optional[float]:
    """The median over pairs of ln(variant's median / base's); None where no pair is kept whole."""
    medians = {(b.pair, b.arm): median(b.sample_ns) for b in blocks if b.cause == KEPT}
    logs = [
        math.log(medians[pair, 1] / medians[pair, 0])
        for pair, arm in medians
        if arm == 1 and (pair, 0) in medians
    ]
    return median(logs) if logs else None


def _cause(
    before: Tuple[int, Tuple[int, ...]], now: Tuple[int, Tuple[int, ...]], locked: bool
) -> int:
    if now[0] != before[0]:
        return THROTTLED
    if locked and any(abs(a - b) > CLOCK_CHANGE * max(a, b) for a, b in zip(before[1], now[1])):
        return CLOCK_CHANGED
    return KEPT


def _iqr(values: array[int]) -> float:
    """The distance between the medians of the upper and of the lower half."""
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    return median(ordered[-half:]) - median(ordered[:half])
