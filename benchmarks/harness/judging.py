"""What `edgebench compare` says of two measurements: the noise floor's and the second model's."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness.measuring import Measured
from edgebench import gate
from edgebench.comparison import judge_latency
from edgebench.multiplicity import holm, p_above, unpaired_ratio
from edgebench.pipeline.comparison_judging import COLD


def judged(second: Measured, floor: Measured) -> dict[str, Any]:
    """The second model's latency under edgebench's own rule, `floor` being base against base.

    `by_interval` looks at the first look's interval alone. `verdict` and `why` are those of a
    comparison: both measurements must be valid and steady, and "slower" must hold after Holm's
    correction over the timed metrics and, where the protocol confirms, in fresh processes too.
    """
    height = gate.floor_of(floor.ratio)
    p_adjusted = adjusted_p(second, floor, height)
    verdict, why = judge_latency(
        second.ratio,
        limit=0.0,
        floor=height,
        p_adjusted=p_adjusted,
        again=second.again,
        confirms=second.confirms,
    )
    for one, name in ((second, "the measurement"), (floor, "the noise floor's measurement")):
        if not (one.valid and one.steady):
            verdict, why = "INCONCLUSIVE", f"{name} is not valid: {'; '.join(one.reasons)}"
    return {
        "floor": height,
        "smallest_detectable_change": gate.smallest_detectable_change(second.ratio, height),
        "by_interval": gate.judge_slower(second.ratio, floor=height),
        "p_adjusted": p_adjusted,
        "verdict": verdict,
        "why": why,
    }


def adjusted_p(second: Measured, floor: Measured, height: float) -> float | None:
    """The latency's p-value after Holm's correction, among those of what loading takes."""
    margin = float(np.log1p(height))
    p_values = [p_above(np.array(second.logs), margin)]
    for name in COLD:
        first, then = (np.array(one.cold[name], dtype=np.float64) for one in (floor, second))
        p_values.append(unpaired_ratio(first, then, margin).p_value)
    return holm(p_values)[0]
