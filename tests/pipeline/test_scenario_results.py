"""What an agent returned of its scenarios is read as if it came from an enemy."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgebench.agent.results import NOT_STEADY
from edgebench.pipeline.scenario_results import scenario_results
from edgebench.scenario import resolve_scenarios

MS = 1_000_000
PROCESSES = 6
RELATIVE = "results/int8/scenarios.npz"

ASKED = [
    one.model_dump(mode="json")
    for one in resolve_scenarios(
        [
            {"scenario": "single-stream"},
            {"scenario": "server", "qps": 100, "target_latency_ms": 5},
            {"scenario": "offline", "batch": 4},
        ],
        profile="quick",
        batch=1,
        where="test",
    )
]


def server_times(service_ms: float, gap_ms: float, n: int) -> tuple[np.ndarray, ...]:
    """Evenly spaced arrivals at one server, in ns."""
    scheduled = np.arange(n) * gap_ms * MS + MS
    start, end = np.zeros(n), np.zeros(n)
    free = 0.0
    for i, due in enumerate(scheduled):
        start[i] = max(due, free)
        free = end[i] = start[i] + service_ms * MS
    return scheduled, start, end


def times(kind: str, service_ms: float, n: int = 120) -> tuple[np.ndarray, ...]:
    if kind == "server":
        return server_times(service_ms, 10.0, n)
    end = np.arange(1, n + 1) * service_ms * MS + MS
    start = end - service_ms * MS
    return (np.full(n, start[0]) if kind == "offline" else start), start, end


def arrays(base_ms: float = 2.0, variant_ms: float = 1.0) -> dict[str, np.ndarray]:
    parts: dict[str, list] = {
        name: [] for name in ("scenario", "process", "arm", "scheduled_ns", "start_ns", "end_ns")
    }
    for number, spec in enumerate(ASKED):
        for process in range(PROCESSES):
            for arm, service in ((0, base_ms), (1, variant_ms)):
                found = times(spec["scenario"], service * (1 + 0.01 * process))
                n = len(found[0])
                values = (*(np.full(n, v) for v in (number, process, arm)), *found)
                for name, value in zip(parts, values, strict=True):
                    parts[name].append(value)
    return {
        name: np.concatenate(found).astype(np.int64 if name.endswith("_ns") else np.int32)
        for name, found in parts.items()
    }


def entries(**changes) -> list[dict]:
    return [
        {
            "spec": copy.deepcopy(spec),
            "problem": None,
            "invalid_reasons": [],
            "runs": [
                {
                    "process": process,
                    "arm": arm,
                    "offered_qps": 100.0 if spec["scenario"] == "server" else None,
                    "planned": 120 if spec["scenario"] == "server" else None,
                    "steady": True,
                    "call_ns": 1e6,
                    "loadgen": None,
                }
                for process in range(PROCESSES)
                for arm in (0, 1)
            ],
            **changes,
        }
        for spec in ASKED
    ]


def read(folder: Path, said=None, found=None):
    np.savez(folder / "scenarios.npz", **(arrays() if found is None else found))
    return scenario_results(entries() if said is None else said, folder, ASKED, relative=RELATIVE)


def test_every_scenario_has_its_metrics_with_the_process_as_the_unit(tmp_path):
    single, server, offline = read(tmp_path)
    assert all(r.valid and r.problem is None for r in (single, server, offline))
    assert single.metrics["p50_ms"].point == pytest.approx(1.025)
    assert single.metrics["p50_ms"].n == PROCESSES
    assert single.ratios["p50"].point == pytest.approx(0.5)
    assert single.queries == 720
    assert offline.metrics["throughput_per_s"].point == pytest.approx(4 * 1000 / 1.025, rel=0.01)
    assert offline.ratios["throughput"].point == pytest.approx(2.0, rel=0.01)
    assert not any(name.endswith("_ms") for name in offline.metrics)
    assert server.offered_qps == 100
    assert server.metrics["achieved_qps"].point == pytest.approx(100, rel=0.02)
    assert server.target_met == "yes"
    assert single.samples_file == RELATIVE


def test_a_tail_is_given_only_where_there_are_enough_queries(tmp_path):
    single = read(tmp_path)[0]
    assert "p99_ms" in single.metrics
    assert single.needed == {"p999_ms": 6636}
    assert single.ratios["p90"].point == pytest.approx(0.5)
    assert single.ratios["p999"].point is None
    assert "120 of 6636 queries in a process" in single.ratios["p999"].method


def test_a_server_counts_from_the_arrival_and_shows_the_service_time_beside_it(tmp_path):
    found = arrays()
    # A stall of 100 ms in one query of each process: those behind it wait.
    mine = (found["scenario"] == 1) & (found["arm"] == 1)
    for process in range(PROCESSES):
        rows = np.flatnonzero(mine & (found["process"] == process))
        free = 0
        for i, row in enumerate(rows):
            found["start_ns"][row] = max(found["scheduled_ns"][row], free)
            free = found["start_ns"][row] + (101 if i == 50 else 1) * MS
            found["end_ns"][row] = free
    server = read(tmp_path, found=found)[1]
    assert server.valid
    assert server.metrics["p99_ms"].point > 90
    assert server.metrics["p95_ms"].point > 20
    assert server.metrics["service_p50_ms"].point == pytest.approx(1.0)
    assert server.target_met == "no"


def test_a_server_that_cannot_keep_up_is_not_valid_and_says_how_far_it_is(tmp_path):
    found = arrays(base_ms=9.0, variant_ms=12.0)
    server = read(tmp_path, found=found)[1]
    assert not server.valid
    (reason,) = server.invalid_reasons
    assert reason.startswith("cannot keep up: of 100 queries a second it answers 8")


def test_one_that_gave_up_cannot_keep_up_either(tmp_path):
    said = entries()
    for run in said[1]["runs"]:
        run["planned"] = 500
    assert "cannot keep up" in read(tmp_path, said)[1].invalid_reasons[0]


def test_a_base_that_cannot_keep_up_leaves_the_variant_valid_but_nothing_to_compare_with(tmp_path):
    server = read(tmp_path, found=arrays(base_ms=12.0, variant_ms=1.0))[1]
    assert server.valid
    assert server.invalid_reasons == ()
    assert server.metrics["p99_ms"].point == pytest.approx(1.05)
    assert server.target_met == "yes"
    assert set(server.ratios) == {"p50", "p90", "p95", "p99", "p999"}
    for ratio in server.ratios.values():
        assert ratio.point is None
        assert ratio.method.startswith("base cannot keep up: of 100 queries a second it answers 8")


def test_a_base_that_gave_up_after_one_query_does_not_cost_the_variant_its_result(tmp_path):
    found, said = arrays(base_ms=5000.0), entries()
    first = np.ones(len(found["arm"]), bool)
    first[1:] = np.any([np.diff(found[name]) for name in ("scenario", "process", "arm")], axis=0)
    kept = (found["scenario"] != 1) | (found["arm"] == 1) | first
    server = read(tmp_path, said, {name: a[kept] for name, a in found.items()})[1]
    assert server.valid
    assert server.ratios["p50"].method.startswith("base cannot keep up")


def test_one_process_of_six_that_still_moved_is_outvoted(tmp_path):
    said = entries()
    for entry in said:
        next(r for r in entry["runs"] if (r["process"], r["arm"]) == (4, 1))["steady"] = False
    assert all(result.valid for result in read(tmp_path, said))


@pytest.mark.parametrize("arm", [0, 1])
def test_a_latency_that_still_moved_makes_no_result(tmp_path, arm):
    said = entries()
    for entry in said:
        for run in entry["runs"]:
            run["steady"] = (run["arm"], run["process"] in {3, 4}) != (arm, True)
    for result in read(tmp_path, said):
        ratio = next(iter(result.ratios.values()))
        if arm == 1:
            assert result.invalid_reasons == (NOT_STEADY,)
        else:
            assert result.valid
            assert ratio.point is None
            assert ratio.method.startswith("base's latency was still moving")


def test_where_a_run_ended_is_kept_in_the_evidence(tmp_path):
    said = entries()
    said[0]["runs"][3]["ended_at"] = 120
    single = read(tmp_path, said)[0]
    assert single.valid
    assert [run["ended_at"] for run in single.evidence["runs"]].count(120) == 1


def test_what_the_agent_doubts_is_doubted(tmp_path):
    said = entries(invalid_reasons=["the base ran on X"])
    assert [r.valid for r in read(tmp_path, said)] == [False] * 3


def test_a_failed_scenario_has_its_problem_and_the_others_their_numbers(tmp_path):
    said, found = entries(), arrays()
    said[1].update(problem="crashed with SIGSEGV while running server-qps100", runs=[])
    found = {name: value[found["scenario"] != 1] for name, value in found.items()}
    single, server, offline = read(tmp_path, said, found)
    assert server.problem == "crashed with SIGSEGV while running server-qps100"
    assert server.metrics == {}
    assert single.valid
    assert offline.valid


def test_nothing_was_asked_and_nothing_is_read(tmp_path):
    assert scenario_results(None, tmp_path, [], relative=RELATIVE) == ()


@pytest.mark.parametrize(
    ("said", "word"),
    [
        (None, "did not return the scenarios"),
        ([], "did not return the scenarios"),
        ({}, "did not return the scenarios"),
        ([1, 2, 3], "cannot be read"),
        (entries(runs=[{"process": -1}]), "cannot be read"),
        (entries(runs="none"), "cannot be read"),
        (entries(spec={"scenario": "offline"}), "other settings"),
        (entries(invalid_reasons=None), "cannot be read"),
    ],
)
def test_an_account_that_makes_no_sense_is_named_in_each_scenario(tmp_path, said, word):
    np.savez(tmp_path / "scenarios.npz", **arrays())
    results = scenario_results(said, tmp_path, ASKED, relative=RELATIVE)
    assert len(results) == 3
    for result in results:
        assert word in result.problem
        assert "\n" not in result.problem
        assert not result.valid


def altered(name: str, change) -> dict[str, np.ndarray]:
    found = arrays()
    found[name] = change(found[name])
    return found


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (altered("end_ns", lambda a: a[:-1]), "differ in length"),
        (altered("end_ns", lambda a: a.astype(float)), "whole numbers"),
        (altered("end_ns", lambda a: a - 10**12), "ends before it begins"),
        (altered("start_ns", lambda a: a - 10 * MS), "before it was due"),
        (altered("arm", lambda a: a + 1), "belongs to no arm"),
        (altered("scenario", lambda a: a + 1), "belongs to no scenario"),
        (altered("process", lambda a: a + 2**30), "belongs to no process"),
        (altered("process", lambda a: a - 1), "belongs to no process"),
        (altered("arm", lambda a: a.reshape(2, -1)), "whole numbers"),
        ({name: a[::-1] for name, a in arrays().items()}, "not in the order of time"),
        ({"arm": np.zeros(3, np.int32)}, "cannot be used"),
    ],
)
def test_times_that_make_no_sense_are_refused(tmp_path, found, word):
    for result in read(tmp_path, found=found):
        assert word in result.problem
        assert not result.metrics


def test_a_file_larger_than_the_protocol_can_yield_is_not_unpacked(tmp_path):
    # Three scenarios of two models in one process may hold 43.2 MB.
    with zipfile.ZipFile(tmp_path / "scenarios.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("end_ns.npy", bytes(44 * 10**6))
    for processes, word in ((1, "unpack to more than the protocol can yield"), (2, "cannot be")):
        results = scenario_results(
            entries(), tmp_path, ASKED, relative=RELATIVE, processes=processes
        )
        assert all(word in result.problem for result in results)


def test_more_processes_than_were_asked_for_are_refused(tmp_path):
    np.savez(tmp_path / "scenarios.npz", **arrays())
    for result in scenario_results(
        entries(), tmp_path, ASKED, relative=RELATIVE, processes=PROCESSES - 1
    ):
        assert "belongs to no process" in result.problem


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / "scenarios.npz").write_bytes(content)
    results = scenario_results(entries(), tmp_path, ASKED, relative=RELATIVE)
    assert all("cannot be used" in result.problem for result in results)


def test_a_missing_file_is_one_line(tmp_path):
    results = scenario_results(entries(), tmp_path, ASKED, relative=RELATIVE)
    assert all("cannot be used" in result.problem for result in results)


def test_a_process_without_one_of_the_models_is_no_comparison(tmp_path):
    found = arrays()
    kept = ~((found["process"] == 3) & (found["arm"] == 0))
    for result in read(tmp_path, found={name: a[kept] for name, a in found.items()}):
        assert "do not hold base and the model each" in result.problem
