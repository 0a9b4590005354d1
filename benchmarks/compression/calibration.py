"""The training examples that all tools calibrate on, as one array.

python -m benchmarks.compression.calibration runs/compression/calibration.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.compression.setting import DATA, VALIDATION
from edgebench.data import load
from edgebench.hashing import named_seed

EXAMPLES = 512


def main() -> int:
    """Write them; gives the exit code."""
    data = load(DATA, validation=VALIDATION, seed=0)
    rng = np.random.default_rng(named_seed(0, "compression", "calibration"))
    rows = np.sort(rng.permutation(len(data.train_x))[:EXAMPLES])
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.ascontiguousarray(data.train_x[rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
