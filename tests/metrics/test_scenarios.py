from __future__ import annotations

import numpy as np
import pytest

from edgebench.gate import judge_gate
from edgebench.metrics.base import METRICS
from edgebench.metrics.scenarios import (
    Queries,
    named,
    own_metrics,
    ratios,
    scenario_of,
    withheld,
)
from edgebench.recipe import Gate
from edgebench.records import ScenarioResult

MS = 1_000_000


def queries(latency_ms, process=None, gap_ms: float = 100.0) -> Queries:
    latency = np.asarray(latency_ms, dtype=float)
    start = (np.arange(len(latency)) * gap_ms * MS).astype(np.int64)
    number = np.zeros(len(latency)) if process is None else process
    return Queries(
        np.asarray(number, dtype=np.int32), start, start, (start + latency * MS).astype(np.int64)
    )


def result(scenario: str, found: Queries, **changes) -> ScenarioResult:
    metrics, needed = own_metrics(found, scenario, 1)
    return ScenarioResult(
        **{
            "label": scenario,
            "scenario": scenario,
            "driver": "edgebench",
            "settings": {},
            "valid": True,
            "metrics": metrics,
            "needed": needed,
            "ratios": ratios(found, found, scenario),
        }
        | changes
    )


@pytest.mark.parametrize(
    ("n", "given"),
    [
        (63, ["p50"]),
        (64, ["p50", "p90"]),
        (130, ["p50", "p90", "p95"]),
        (662, ["p50", "p90", "p95", "p99"]),
        (6636, ["p50", "p90", "p95", "p99", "p999"]),
    ],
)
def test_a_quantile_needs_its_queries(n, given):
    found, needed = own_metrics(queries(np.ones(n)), "single-stream", 1)
    assert [f"{name}_ms" for name in given] == [name for name in found if name.endswith("_ms")]
    assert len(given) + len(needed) == 5
    compared = ratios(queries(np.ones(n)), queries(np.ones(n)), "single-stream")
    assert [name for name, estimate in compared.items() if estimate.point is not None] == given
    assert len(compared) == 5


def test_rates_are_of_each_process_from_first_arrival_to_last_answer():
    found = queries([50.0] * 4 + [100.0] * 2, [0, 0, 0, 0, 1, 1])
    assert found.rates() == pytest.approx([4 / 0.35, 2 / 0.2])


def test_a_ratio_pairs_what_one_process_saw():
    process = np.repeat(np.arange(6), 20)
    # Each process is slow in its own way; the variant is always twice as fast.
    base = np.repeat([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 20)
    found = ratios(queries(base, process), queries(base / 2, process), "single-stream")["p50"]
    assert (found.point, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.n == 6


def test_busy_is_the_share_of_time_that_serving_takes():
    assert queries([30.0] * 10, gap_ms=100.0).busy() == pytest.approx([0.3])
    due = (np.arange(10) * 10 * MS).astype(np.int64)
    end = ((np.arange(10) + 1) * 15 * MS).astype(np.int64)
    behind = Queries(np.zeros(10, np.int32), due, end - 15 * MS, end)
    assert behind.busy() == pytest.approx([1.5])


def test_gates_can_name_them():
    found = queries(np.linspace(1, 2, 700))
    intervals, comparisons = named(
        [result(kind, found) for kind in ("single-stream", "multi-stream", "server", "offline")]
    )
    assert {"server_p99_ms", "single_stream_p50_ms", "multi_stream_p99_ms"} <= set(intervals)
    assert {"server_achieved_qps", "server_service_p99_ms"} <= set(intervals)
    assert "offline_throughput_per_s" in intervals
    assert {"server_p99_ratio", "offline_throughput_ratio"} <= set(comparisons)
    for name in (*intervals, *comparisons):
        assert METRICS.get(name).certainty == "interval"


def test_a_gate_on_a_tail_with_too_few_queries_says_how_many_there_were():
    process = np.repeat(np.arange(6), 68)
    slow, few = (queries(np.full(n, ms), process[:n]) for n, ms in ((408, 2.0), (400, 1.0)))
    one = result("server", few, ratios=ratios(slow, few, "server"), queries=400)
    intervals, comparisons = named([one])
    for found, words in (
        (intervals["server_p99_ms"], "not enough samples: 400 of 662 queries"),
        (intervals["server_service_p99_ms"], "not enough samples: 400 of 662 queries"),
        (intervals["server_p999_ms"], "not enough samples: 400 of 6636 queries"),
        (comparisons["server_p99_ratio"], "not enough samples: 60 of 662 queries in a process"),
    ):
        assert (found.point, found.low, found.high, found.method) == (None, None, None, words)
    assert intervals["server_p95_ms"].point == pytest.approx(1.0)
    reason = judge_gate(Gate(metric="server_p99_ms", max=10), intervals["server_p99_ms"])
    assert reason.verdict == "INCONCLUSIVE"
    assert "not enough samples: 400 of 662 queries" in reason.text


def test_what_is_withheld_says_why():
    found = withheld(ratios(queries([1.0] * 70), queries([1.0] * 70), "server"), "base ails")
    assert len(found) == 5
    assert {(e.point, e.low, e.high, e.method) for e in found.values()} == {
        (None, None, None, "base ails")
    }


def test_of_several_scenarios_of_a_kind_the_first_counts():
    fast, slow = (result("server", queries([ms] * 700), label=f"s{ms}") for ms in (1, 2))
    assert named([fast, slow])[0]["server_p50_ms"].point == pytest.approx(1)
    assert named([slow, fast])[0]["server_p50_ms"].point == pytest.approx(2)


@pytest.mark.parametrize(
    "changes",
    [
        {"valid": False, "invalid_reasons": ("cannot keep up: of 9 queries a second it …",)},
        {"valid": False, "problem": "cannot keep up", "metrics": {}, "ratios": {}},
    ],
)
def test_an_invalid_scenario_gives_no_number_to_a_gate(changes):
    intervals, comparisons = named([result("server", queries([1.0] * 700), **changes)])
    for found in (
        intervals["server_p99_ms"],
        intervals["server_p999_ms"],
        comparisons["server_p50_ratio"],
    ):
        assert found.point is None
        assert found.method.startswith("cannot keep up")
    assert not any(name.endswith("_ratio") for name in intervals)


def test_a_metric_knows_its_scenario():
    assert scenario_of("server_p99_ms") == "server"
    assert scenario_of("single_stream_p50_ratio") == "single-stream"
    assert scenario_of("offline_throughput_per_s") == "offline"
    assert scenario_of("latency_ratio") is None
    assert scenario_of("server_p98_ms") is None
