"""The timing itself: warm-up, calibration, and blocks of samples in the order AB BA.

The clock is a parameter, so that a recorded one can be replayed. Nothing here knows a runtime.
"""

from __future__ import annotations

import math
import time
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from .runtimes.base import Query

    Clock = Callable[[], int]

WINDOW = 20
STEADY = 0.02
RESOLUTIONS_PER_SAMPLE = 1000


class Arm:
    """One side of the comparison: a query and the examples that take turns in it."""

    def __init__(self, query: Query, examples: list[Any]) -> None:
        self.query = query
        self.examples = examples
        self.turn = 0

    def next_input(self) -> int:
        """Write the next example into the input buffer; gives its index."""
        index = self.turn
        self.turn = (index + 1) % len(self.examples)
        self.query.write(self.examples[index])
        return index


class WarmUp:
    """How a warm-up went: `seconds`, whether it ended `steady`, and the last `call_ns`."""

    def __init__(self, seconds: float, steady: bool, call_ns: float) -> None:
        self.seconds = seconds
        self.steady = steady
        self.call_ns = call_ns


class Block:
    """One block: raw `sample_ns` (each over `inner` calls), and which example came last."""

    def __init__(self, pair: int, arm: int, start_ns: int, sample_ns: list[int], last: int) -> None:
        self.pair = pair
        self.arm = arm
        self.start_ns = start_ns
        self.sample_ns = sample_ns
        self.last = last


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


def warm_up(arm: Arm, least_s: float, cap_s: float, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Run for `least_s` seconds and until two windows of 20 calls agree to 2 % in the median.

    At `cap_s` seconds it ends without being steady.
    """
    least_ns, cap_ns = int(least_s * 1e9), int(max(cap_s, least_s) * 1e9)
    start = clock()
    window: list[int] = []
    before: float | None = None
    while True:
        now = time_call(arm, 1, window, clock)
        elapsed = now - start
        if len(window) == WINDOW:
            current = median(window)
            agree = before is not None and abs(current - before) <= STEADY * max(current, before)
            if agree and elapsed >= least_ns:
                return WarmUp(elapsed / 1e9, True, current)
            before = current
            window.clear()
        if elapsed >= cap_ns:
            last = before if before is not None else median(window)
            return WarmUp(elapsed / 1e9, False, last)


def calls_per_sample(call_ns: float, resolution_ns: float) -> int:
    """How many calls a sample spans, so that it lasts at least 1000 steps of the clock."""
    return max(1, math.ceil(RESOLUTIONS_PER_SAMPLE * resolution_ns / max(call_ns, 1.0)))


def time_call(arm: Arm, inner: int, samples: list[int], clock: Clock) -> int:
    """Append the time of `inner` calls on the next example; gives the clock at their end."""
    run = arm.query.run
    arm.next_input()
    start = clock()
    for _ in repeat(None, inner):
        run()
    end = clock()
    samples.append(end - start)
    return end


def time_block(
    arm: Arm, inner: int, block_s: float, clock: Clock = time.perf_counter_ns
) -> tuple[int, list[int], int]:
    """Sample for `block_s` seconds, once at least; gives start, samples and the last example."""
    samples: list[int] = []
    start = clock()
    end = start + int(block_s * 1e9)
    while time_call(arm, inner, samples, clock) < end:
        pass
    return start, samples, (arm.turn - 1) % len(arm.examples)


def block_order(pairs: int, process: int) -> list[tuple[int, int]]:
    """(pair, arm) for AB BA AB BA …; every other process starts with BA."""
    order = []
    for pair in range(pairs):
        first = (pair + process) % 2
        order += [(pair, first), (pair, 1 - first)]
    return order


def time_pairs(
    arms: tuple[Arm, Arm],
    *,
    inner: int,
    pairs: int,
    block_s: float,
    process: int,
    after: Callable[[Block], None],
    clock: Clock = time.perf_counter_ns,
) -> list[Block]:
    """All blocks of one process; `after` is called with each one when its time is over."""
    blocks = []
    for pair, arm in block_order(pairs, process):
        start, samples, last = time_block(arms[arm], inner, block_s, clock)
        block = Block(pair, arm, start, samples, last)
        after(block)
        blocks.append(block)
    return blocks
