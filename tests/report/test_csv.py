from __future__ import annotations

from io import StringIO

import pandas as pd
import pytest

from edgebench.records import RunRecord
from edgebench.report.csv import render_csv


def test_every_number_is_a_row(run: RunRecord) -> None:
    frame = pd.read_csv(StringIO(render_csv(run)))
    assert set(frame["variant"]) == {v.name for v in run.variants if v.metrics or v.comparisons}
    for variant in run.variants:
        mine = frame[frame["variant"] == variant.name].set_index("metric")
        for name, estimate in variant.comparisons.items():
            assert mine.loc[name, "against_base"]
            if estimate.low is not None:
                assert mine.loc[name, "low"] == estimate.low
        for name, value in variant.metrics.items():
            if value is not None:
                assert mine.loc[name, "point"] == pytest.approx(value, rel=1e-5)
    assert not frame.duplicated(["variant", "metric"]).any()
