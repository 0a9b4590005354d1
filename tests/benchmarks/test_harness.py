"""The harness's own pure functions: delays, the log, the rules, and the tables made of trials."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])


def row(experiment: str, condition: str = "idle", **result: Any) -> dict[str, Any]:
    settings = {"condition": condition, "subject": "lenet", "profile": "quick"}
    if experiment == "power":
        settings["effect"] = 0.03
    return {
        "schema": "edgebench.harness/1",
        "date": "2026-01-01T00:00:00Z",
        "experiment": experiment,
        **settings,
        "command": "python -m benchmarks.harness",
        "versions": {"python": "3.11"},
        "machine": {
            "fingerprint": "f",
            "grade": "C",
            "grade_reasons": ["a virtual machine"],
            "cpu_model": "A | B",
            "cores": 2,
            "memory_mib": 4096,
        },
        "result": result,
    }


def trial(
    experiment: str,
    word: str,
    ratio: tuple[float, float, float] = (0.99, 1.0, 1.01),
    others: dict[str, Any] | None = None,
    steady: bool = True,
    condition: str = "idle",
) -> dict[str, Any]:
    low, point, high = ratio
    return row(
        experiment,
        condition,
        measured={
            "ratio": {"low": low, "point": point, "high": high},
            "seconds": 5.0,
            "valid": True,
            "steady": steady,
            "processes": 6,
        },
        judged={
            "by_interval": word,
            "verdict": word if steady else "inconclusive",
            "floor": 0.01,
        },
        others=others,
    )


def test_a_rate_has_the_exact_interval() -> None:
    from benchmarks.harness.summary import Rate

    # Nothing in 200: the upper end is 1 − 0.025^(1/200).
    low, high = Rate(0, 200).interval
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert str(Rate(1, 4)).startswith("25.0 % (1 of 4; ")


def test_false_alarms_are_counted_by_the_interval_and_misses_by_the_verdict() -> None:
    from benchmarks.harness.summary import false_alarm_table, power_table

    alarms = [
        trial("aa", "slower", (1.05, 1.06, 1.07), steady=False),
        trial("aa", "not slower"),
        trial("aa", "not slower"),
        trial("aa", "faster", (0.9, 0.91, 0.92)),
    ]
    table = false_alarm_table(alarms)
    assert table is not None
    ((*_, slower, faster, covers, _half, _seconds, bad),) = table.cells
    assert (slower.hits, faster.hits, covers.hits, slower.n) == (1, 1, 2, 4)
    assert bad == "1"
    found = power_table([trial("power", "slower"), trial("power", "slower", steady=False)])
    assert found is not None
    assert (found.cells[0][4].hits, found.cells[0][4].n) == (1, 2)


def test_a_measurement_that_only_gave_the_floor_is_no_trial() -> None:
    from benchmarks.harness.summary import tables, trials_of

    floor = row("aa", measured={"ratio": {"low": 1, "point": 1, "high": 1}})
    assert trials_of([floor], "aa") == []
    assert tables([floor]) == []


def test_the_rules_are_judged_in_the_same_trials() -> None:
    from benchmarks.harness.summary import rule_tables

    said = {
        "olive": {"ratio": 1.03, "seconds": 1.0},
        "pyperf": {"ratio": 1.01, "significant": True, "seconds": 9.0},
        "optimum-benchmark": {"problem": "no memory", "seconds": 2.0},
    }
    rows = [
        trial("aa", "not slower", others=said),
        trial("aa", "slower", others=None),
        trial("power", "slower", others=said),
    ]
    (table,) = rule_tables(rows)
    cells = {line[0]: line[1:] for line in table.cells}
    # The second A/A trial ran no other rule, so it is not in this comparison.
    assert [(c.hits, c.n) for c in cells["edgebench"][:2]] == [(0, 1), (0, 1)]
    assert [(c.hits, c.n) for c in cells["olive >5%"][:2]] == [(0, 1), (1, 1)]
    assert [(c.hits, c.n) for c in cells["olive >2%"][:2]] == [(1, 1), (0, 1)]
    assert [(c.hits, c.n) for c in cells["pyperf"][:2]] == [(1, 1), (0, 1)]
    assert cells["optimum-benchmark >5%"][0].n == 0


@pytest.mark.parametrize(
    ("result", "limit", "says"),
    [
        ({"ratio": 1.04}, 5, False),
        ({"ratio": 1.06}, 5, True),
        ({"ratio": 1.04, "fails": {"5": True}}, 5, True),
        ({"ratio": 0.9, "significant": True}, 0, False),
        ({"ratio": 1.001, "significant": True}, 0, True),
        ({"problem": "x"}, 5, None),
    ],
)
def test_what_a_rule_says(result: dict[str, Any], limit: int, says: bool | None) -> None:
    from benchmarks.harness.others import says_slower

    assert says_slower(result, limit) is says


def test_the_log_survives_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    from benchmarks.harness.log import Log

    log = Log(tmp_path)
    log.append({"experiment": "aa", "effect": 0.03}, None, {"x": 1})
    with log.file.open("a") as file:
        file.write('{"schema": "edgebench.ha')
    log.append({"experiment": "aa", "effect": 0.01}, None, {"x": 2})
    assert [r["result"]["x"] for r in log.rows()] == [1, 2]
    assert [r["result"]["x"] for r in log.done(experiment="aa", effect=0.03)] == [1]
    assert len(log.file.read_text().splitlines()) == 3


def test_the_page_names_where_its_numbers_come_from(tmp_path: Path) -> None:
    from benchmarks.harness.page import write

    said = {"olive": {"ratio": 1.03, "seconds": 1.0}, "pyperf": {"problem": "gone", "seconds": 1.0}}
    rows = [trial("aa", "not slower", others=said, condition=c) for c in ("idle", "loaded")]
    text = write(rows * 3, tmp_path).read_text()
    for part in ("`python -m benchmarks.harness`", "2026-01-01", "grade C", "python 3.11", "6 aa"):
        assert part in text
    assert "pyperf: gone (6 times)" in text
    assert "A \\| B" in text
    for name in ("rules.svg", "intervals.svg"):
        assert f"({name})" in text
        first = (tmp_path / name).read_bytes()
        assert first.startswith(b"<?xml")
    write(rows * 3, tmp_path)
    assert (tmp_path / "intervals.svg").read_bytes() == first


def test_the_terminal_shows_tables_within_80_columns() -> None:
    from benchmarks.harness.summary import tables
    from benchmarks.harness.terminal import as_text

    names = ("olive", "optimum-benchmark", "onnxruntime_perf_test", "pytest-benchmark mean")
    said = {name: {"ratio": 1.03, "seconds": 1.0} for name in names}
    rows = [
        trial(kind, "not slower", others=said, condition=c)
        for kind, c in itertools.product(("aa", "power"), ("idle", "loaded", "bursts"))
    ]
    text = as_text(tables(rows))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "pytest-benchmark mean >2%" in text
    assert as_text([]) == "no trials yet"


def test_truth_is_told_by_process() -> None:
    from benchmarks.harness.truth import compare

    rows = [np.array([[1010.0, 1000.0, 50.0], [1030.0, 1000.0, 70.0], [990.0, 1000.0, 60.0]])] * 6
    found = compare(rows)
    assert found["ratio"]["point"] == pytest.approx(1.01)
    assert found["added_us"]["point"] == pytest.approx(0.01)
    assert found["between_us"]["point"] == pytest.approx(0.06)
    assert found["blocks"] == 18


def test_a_tail_is_not_told_from_too_few_queries() -> None:
    from benchmarks.harness.omission import quantiles

    few = quantiles(np.ones(600))
    assert few["p50_ms"] == 1.0
    assert few["p99_ms"] is None
    many = quantiles(np.concatenate([np.ones(950), np.full(50, 100.0)]))
    assert many["p99_ms"] == 100.0
    assert many["late_share"] == pytest.approx(0.05)


def test_a_counted_spin_is_calibrated_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import delays

    # A clock that counts what is run: 100 ns a query, nothing else costs time.
    now = itertools.count(step=1)
    ran: list[int] = []

    def clock() -> int:
        return next(now) + 100 * len(ran)

    monkeypatch.setattr(delays.time, "perf_counter_ns", clock)
    slower = delays.delayed(lambda: ran.append(1), "spin:500")
    ran.clear()
    slower()
    assert ran == [1]
    with pytest.raises(ValueError, match="no such delay"):
        delays.delayed(lambda: None, "sleep:1")


def test_a_clocked_spin_lasts_as_long_as_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import delays

    reads = itertools.count(step=1000)
    monkeypatch.setattr(delays.time, "perf_counter_ns", lambda: next(reads))
    delays.delayed(lambda: None, "spin:50000")()
    # 1000 ns a reading: 50 of them after the first, and the one that ends it.
    assert next(reads) == 51_000


def test_bursts_are_those_of_their_seed() -> None:
    from benchmarks.harness.noise import OFF_S, ON_S, burst_lengths

    first = list(itertools.islice(burst_lengths(3), 50))
    assert first == list(itertools.islice(burst_lengths(3), 50))
    assert first != list(itertools.islice(burst_lengths(4), 50))
    assert all(ON_S[0] <= on <= ON_S[1] and OFF_S[0] <= off <= OFF_S[1] for on, off in first)


def test_a_loaded_machine_needs_a_second_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.harness import noise

    monkeypatch.setattr(noise.os, "sched_getaffinity", lambda pid: {0})
    with pytest.raises(noise.NoiseError, match="second processor"), noise.condition("loaded", 0, 0):
        pass


def test_the_models_are_what_the_runtime_takes(tmp_path: Path) -> None:
    import onnxruntime

    from benchmarks.harness.models import SUBJECTS, examples

    for name in ("identity", "lenet", "separable-200us"):
        subject = SUBJECTS[name]
        subject.write(tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(
            str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
        )
        (answer,) = session.run(None, {"x": examples(subject, 3)})
        assert len(answer) == 3
        assert np.isfinite(answer).all()


def test_the_others_loops_count_what_they_say() -> None:
    from benchmarks.harness.arms import in_process

    calls: list[int] = []
    in_process.olive(lambda: calls.append(1))
    assert len(calls) == 30
    calls.clear()
    in_process.onnxruntime_perf_test(lambda: calls.append(1))
    assert len(calls) == 1001
    calls.clear()
    in_process.optimum_benchmark(lambda: calls.append(1), duration_s=0.0)
    assert len(calls) == 21


def test_a_bundle_is_one_the_agent_takes(tmp_path: Path) -> None:
    from benchmarks.harness.measuring import write_bundle
    from benchmarks.harness.models import SUBJECTS
    from edgebench.agent.bundle import open_bundle
    from edgebench.protocol import PROFILES

    folder = write_bundle(
        tmp_path / "b",
        SUBJECTS["lenet"],
        ["base", "slower"],
        PROFILES["quick"],
        seed=3,
        cpu=0,
        timed=["slower"],
    )
    bundle = open_bundle(folder, tmp_path / "scratch")
    assert [(m["name"], m["timed"]) for m in bundle.models] == [("base", False), ("slower", True)]
    assert json.loads((folder / "manifest.json").read_text())["protocol"]["cpu"] == [0]
