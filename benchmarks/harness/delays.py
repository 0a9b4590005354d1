"""Makes a query slower by a known time: a spin, or a stall now and then.

Workers import this, so it needs nothing beyond Python.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import repeat
from statistics import median

# A query's call, which is given what it was bound to; the others' own have nothing to be given.
Run = Callable[..., object]

# Below this, reading the clock (some 50 ns, twice at least) is too coarse a way to wait.
CLOCKED_FROM_NS = 4000.0
_ROUNDS, _CALLS = 100, 20
_MANY = 200
_CALIBRATED_NS, _LEAST_CALLS = 300_000_000, 40


def delayed(run: Run, spec: str, bound: object = None) -> Run:
    """`run` made slower as `spec` says; it is called with `bound`.

    `spin:NS`: every call by NS nanoseconds; `share:S`: by that share of the median call of `run`,
    which is timed here, also where the share is 0; `none`: not at all.
    """
    kind, _, number = spec.partition(":")
    if kind == "none":
        return run
    if kind not in {"spin", "share"}:
        raise ValueError(f"no such delay: {spec}")
    ns = float(number) if kind == "spin" else float(number) * median_call_ns(run, bound)
    if ns == 0:
        return run
    return clocked_spin(run, ns) if ns >= CLOCKED_FROM_NS else counted_spin(run, ns, bound)


def median_call_ns(run: Run, bound: object = None) -> float:
    """The median call of `run` in a warm loop of 0.3 s, and of 40 calls at least."""
    clock = time.perf_counter_ns
    samples: list[int] = []
    after = clock()
    end = after + _CALIBRATED_NS
    while after < end or len(samples) < _LEAST_CALLS:
        before = clock()
        run(bound)
        after = clock()
        samples.append(after - before)
    # The first half warms it up.
    return median(samples[len(samples) // 2 :])


def clocked_spin(run: Run, ns: float) -> Run:
    """`run`, then a busy wait until `ns` nanoseconds have passed by the clock."""
    clock, length = time.perf_counter_ns, round(ns)

    def slower(bound: object = None) -> None:
        run(bound)
        end = clock() + length
        while clock() < end:
            pass

    return slower


def counted_spin(run: Run, ns: float, bound: object = None) -> Run:
    """`run`, then so many turns of an empty loop as take `ns` nanoseconds, by calibration.

    It is calibrated on `run` itself: after it the processor's caches are as they will be.
    """
    fixed = _added_ns(run, _with_turns(run, 0), bound)
    turn = (_added_ns(run, _with_turns(run, _MANY), bound) - fixed) / _MANY
    return _with_turns(run, max(0, round((ns - fixed) / max(turn, 0.1))))


def _with_turns(run: Run, turns: int) -> Run:
    def slower(bound: object = None) -> None:
        run(bound)
        for _ in repeat(None, turns):
            pass

    return slower


def _added_ns(run: Run, slower: Run, bound: object) -> float:
    """How much longer a call of `slower` takes: the median over pairs of short series."""
    differences = []
    for _ in repeat(None, _ROUNDS):
        took = []
        for each in (run, slower):
            start = time.perf_counter_ns()
            for _ in repeat(None, _CALLS):
                each(bound)
            took.append(time.perf_counter_ns() - start)
        differences.append((took[1] - took[0]) / _CALLS)
    return median(differences)
