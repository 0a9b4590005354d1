"""What pyperf times, in worker processes that it starts itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pyperf

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.harness.arms.session import query

if __name__ == "__main__":
    _runner = pyperf.Runner()
    # Only the workers load the model.
    _runner.parse_args()
    _runner.bench_func("model", query() if _runner.args.worker else lambda: None)
