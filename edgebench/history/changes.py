"""Where a series of measurements changed its level: pure functions of numbers.

Change points are found by PELT (Killick, Fearnhead and Eckley, JASA 107 (2012) 1590-1598), as the
package `ruptures` has it, with the sum of absolute deviations as the cost, on which a single odd
run has little hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A level is one that at least so many runs share.
PERSISTING = 2
# So many times the cost of one more level in the Bayesian information criterion: of steady series
# of 4 to 50 normal values with a known spread it sees a change in 5 % at most, before δ rules most
# of them out (benchmarks/calibration/change_points.py).
PENALTY = 2.0
_MAD_TO_SIGMA = 1.4826
_MEAN_DEVIATION = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Change:
    """A new level: from the value at `index` on, the median went from `before` to `after`."""

    index: int
    before: float
    after: float

    @property
    def relative(self) -> float:
        """The change as a share of what was before."""
        return self.after / self.before - 1


def level_changes(values: Floats, delta: float, noise: float = 0.0) -> list[Change]:
    """Every lasting change of level of at least `delta`, oldest first.

    `values` [N], positive, oldest first; `delta` and `noise` are shares of a value. `noise` is the
    standard deviation that each value is known to have; what the series itself shows counts where
    it is more. A change lasts where two runs or more lie beyond it. Fewer than 4 values have none.
    """
    if len(values) < 2 * PERSISTING:
        return []
    import ruptures

    logs = np.log(values)
    spread = max(_spread(logs), math.log1p(noise), 1e-9)
    penalty = PENALTY * spread * _MEAN_DEVIATION * math.log(len(logs))
    search = ruptures.Pelt(model="l1", min_size=PERSISTING, jump=1).fit(logs)
    ends = [int(end) for end in search.predict(pen=penalty)]
    # What falls short of δ is no change: its two levels become one, the closest pair first.
    while len(ends) > 1:
        steps = [_step(logs, ends, place, delta) for place in range(len(ends) - 1)]
        least = int(np.argmin(steps))
        if steps[least] >= math.log1p(delta):
            break
        del ends[least]
    parts = np.split(values, ends[:-1])
    return [
        Change(end, float(np.median(before)), float(np.median(after)))
        for end, before, after in zip(ends, parts, parts[1:], strict=False)
    ]


def _spread(logs: Floats) -> float:
    """The standard deviation from run to run, by the median: one change does not show in it."""
    steps = np.diff(logs)
    return float(np.median(np.abs(steps - np.median(steps)))) * _MAD_TO_SIGMA / math.sqrt(2)


def _step(logs: Floats, ends: list[int], place: int, delta: float) -> float:
    """How far two neighbouring levels lie apart; 0 where fewer than two runs are beyond δ."""
    start = ends[place - 1] if place else 0
    before, after = logs[start : ends[place]], logs[ends[place] : ends[place + 1]]
    moved = float(np.median(after) - np.median(before))
    beyond = np.sign(moved) * (after - np.median(before)) >= math.log1p(delta)
    return abs(moved) if int(beyond.sum()) >= PERSISTING else 0.0
