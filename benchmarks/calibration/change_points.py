"""How often the history's search sees a change of level where there is none.

    python -m benchmarks.calibration.change_points [SERIES]

simulates steady series of normal values from a seed, and searches them with δ = 0, so that nothing
is ruled out for being small. `known`: each value's standard deviation is told, as the interval of a
latency tells it; `own`: it is only what the series itself shows.
"""

from __future__ import annotations

import sys

import numpy as np

from edgebench.history import changes

LENGTHS = (4, 6, 8, 12, 20, 30, 50)
PENALTIES = (1.0, 2.0, 3.0)
NOISE = 0.01
SPREADS = {"known": NOISE, "own": 0.0}


def main(series: int) -> None:
    """Print a table: a row for each length, a column for each penalty and kind of spread."""
    columns = [(penalty, spread) for penalty in PENALTIES for spread in SPREADS]
    print(f"share of {series} steady series in which a change is seen, δ = 0")
    print("penalty " + "".join(f"{penalty:8g}" for penalty, _ in columns))
    print("spread  " + "".join(f"{spread:>8}" for _, spread in columns))
    kept = changes.PENALTY
    try:
        for length in LENGTHS:
            shares = []
            for penalty, spread in columns:
                changes.PENALTY = penalty
                rng = np.random.default_rng([length, series])
                rows = np.exp(NOISE * rng.normal(size=(series, length)))
                seen = sum(bool(changes.level_changes(r, 0.0, SPREADS[spread])) for r in rows)
                shares.append(100 * seen / series)
            print(f"{length:3} runs" + "".join(f"{share:6.1f} %" for share in shares), flush=True)
    finally:
        changes.PENALTY = kept


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
