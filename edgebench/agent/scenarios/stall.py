"""A query that stalls now and then, to show which scenario notices (coordinated omission)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtimes.base import Query

if TYPE_CHECKING:
    from ..measure import Clock
    from .loops import Sleep


def stalling(
    query: Query, clock: Clock, stall: Sleep, *, stall_s: float = 0.1, every_s: float = 1.0
) -> Query:
    """`query`, with a stall of `stall_s` seconds in the first call of every `every_s` seconds.

    The first stall comes after one such span, as a collector's or a throttled device's would.
    Source: G. Tene, How NOT to Measure Latency (2013).
    """
    next_stall = clock() + int(every_s * 1e9)

    def call(bound: Any) -> None:
        nonlocal next_stall
        if clock() >= next_stall:
            # By the clock, not by the call: a slow model stalls no more often than a fast one.
            next_stall += int(every_s * 1e9)
            stall(stall_s)
        query.call(bound)

    return Query(query.write, call, query.read, bound=query.bound, transfers=query.transfers)
