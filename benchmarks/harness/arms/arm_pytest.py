"""What pytest-benchmark times; started as a test run of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.harness.arms.session import query


def test_model(benchmark: Any) -> None:
    benchmark(query())
