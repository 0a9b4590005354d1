"""Recorded noise, replayed under an injected clock: the protocol's answer to it is frozen.

busy.npz was recorded by record.py on a virtual machine whose two processors were both in use: three
calls in a thousand take 4 to 27 ms instead of 12 µs, so that a mean is twice the median.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebench import gate, stats
from edgebench.agent.measure import Arm, Settling, log_ratio, time_pairs, warm_up
from edgebench.agent.runtimes.base import Query
from edgebench.records import Estimate

CALL_NS = np.load(Path(__file__).with_name("busy.npz"))["call_ns"]


class Recording:
    """A clock that only moves by what was recorded, and the two arms that share it.

    `slower`: the second arm takes so many times as long as was recorded.
    """

    def __init__(self, call_ns: np.ndarray, slower: float = 1.0) -> None:
        self.now = 0
        self._left: Iterator[int] = iter(call_ns.tolist())
        self._slower = slower

    def clock(self) -> int:
        return self.now

    def arms(self) -> tuple[Arm, Arm]:
        return self._arm(1.0), self._arm(self._slower)

    def _arm(self, factor: float) -> Arm:
        def run(bound: object) -> None:
            self.now += round(next(self._left) * factor)

        return Arm(Query(lambda feed: None, run, lambda: ()), [(), ()])


def process(index: int, slower: float) -> float:
    """The log ratio of one replayed process."""
    recording = Recording(CALL_NS[index], slower)
    arms = recording.arms()
    warm_up(arms[0], Settling(0.0, 1.0), recording.clock)
    blocks = time_pairs(
        arms,
        inner=1,
        pairs=24,
        block_s=0.003,
        process=index,
        after=lambda block: None,
        clock=recording.clock,
    )
    found = log_ratio(blocks)
    assert found is not None
    return found


def ratio(slower: float) -> Estimate:
    logs = np.array([process(index, slower) for index in range(len(CALL_NS))])
    return stats.ratio_of_blocks(np.ones(len(logs)), np.exp(logs), np.arange(len(logs)))


GOLDEN = {
    1.0: (1.003279358637872, 0.9933562318014322, 1.0049084462133466),
    1.03: (1.0346151313879943, 1.0221747837411153, 1.0363487251660892),
}


@pytest.mark.parametrize("slower", GOLDEN)
def test_recorded_noise_gives_what_it_gave(slower: float) -> None:
    found = ratio(slower)
    assert (found.point, found.low, found.high) == pytest.approx(GOLDEN[slower], rel=1e-9)


def test_three_percent_are_found_in_noise_and_noise_is_not() -> None:
    to_itself, changed = ratio(1.0), ratio(1.03)
    floor = gate.floor_of(to_itself)
    assert gate.judge_slower(to_itself, floor=floor) != "slower"
    assert gate.judge_slower(changed, floor=floor) == "slower"


def test_a_mean_of_twenty_calls_is_fooled_by_the_same_noise() -> None:
    # Ten calls of warm-up, then the mean of twenty, one model after the other.
    turns = CALL_NS[:, :19_980].reshape(-1, 30)
    means = turns[:, 10:].mean(axis=1)
    ratios = means[1::2] / means[::2]
    assert np.mean(ratios > 1.05) > 0.2
