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
    assert (
        frame["point"].notna().sum()
        == len(frame) - frame["method"].str.startswith("identical", na=False).sum()
    )


def test_each_row_says_whether_it_is_evidence(invalid: RunRecord) -> None:
    frame = pd.read_csv(StringIO(render_csv(invalid))).set_index(["variant", "metric"])
    assert not frame.loc[("int8", "latency_ratio"), "valid"]
    assert frame.loc[("fp16", "latency_ratio"), "valid"]
    assert frame.loc[("fp16", "latency_ratio"), "grade"] == "C"
    told = invalid.variant("fp16").measurement
    assert told is not None
    for name in ("noise_floor", "smallest_detectable_change"):
        assert frame.loc[("fp16", name), "point"] == pytest.approx(getattr(told, name))


def test_scenarios_are_rows_of_their_own(scenarios: RunRecord) -> None:
    frame = pd.read_csv(StringIO(render_csv(scenarios)))
    mine = frame[frame["scenario"] == "server-qps200"]
    assert set(mine["variant"]) == {"base", "int8"}
    row = mine[(mine["variant"] == "int8") & (mine["metric"] == "p99_ms")].iloc[0]
    assert (row["point"], row["low"], row["valid"]) == (12.5, 12.0, False)
    assert list(mine[mine["against_base"]]["metric"]) == ["p99", "p99"]
