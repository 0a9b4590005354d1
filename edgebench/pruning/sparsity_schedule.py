"""When weights are pruned while a network is trained on, and how many of them each time.

"iterative": the share of the weights that stay falls by the same factor each time, and the training
is divided equally among the prunings (Han et al., NeurIPS 2015; Frankle and Carbin, ICLR 2019).
"cubic": fast at first, while many weights are redundant, then ever slower, done after three
quarters of the training (Zhu and Gupta, "To prune, or not to prune", 2017, equation 1).
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["one-shot", "iterative", "cubic"]


def sparsity_after(schedule: Schedule, ratio: float, step: int, steps: int) -> float:
    """The share of zeros after pruning number `step` of `steps`, the last of which gives `ratio`.

    Step 0 is before the first pruning.
    """
    if step >= steps:
        return ratio
    part = step / steps
    if schedule == "cubic":
        return ratio * (1 - (1 - part) ** 3)
    return 1 - math.pow(1 - ratio, part)


def step_at(schedule: Schedule, done: int, updates: int, steps: int) -> int:
    """How many of the prunings are made once `done` of the `updates` are.

    All but the cubic schedule prune before the first update.
    """
    if schedule == "cubic":
        return min(steps, done * steps * 4 // (updates * 3))
    return min(steps, 1 + done * steps // updates)


def most_steps(schedule: Schedule, updates: int) -> int:
    """How many prunings fit into so many updates, with one between any two."""
    return updates * 3 // 4 if schedule == "cubic" else updates
