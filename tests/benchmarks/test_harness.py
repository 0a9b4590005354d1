"""The harness's own pure functions: the log, the rules, and the tables made of trials."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def row(experiment: str, condition: str = "idle", **result: Any) -> dict[str, Any]:
    settings = {"condition": condition, "subject": "lenet", "profile": "quick"}
    if experiment == "power":
        settings["effect"] = 0.03
    return {
        "schema": "edgebench.harness/2",
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
    promised: float | None = 0.07,
    verdict: str | None = None,
) -> dict[str, Any]:
    low, point, high = ratio
    measured = {
        "ratio": {"low": low, "point": point, "high": high, "n": 6, "method": "m"},
        "seconds": 5.0,
        "valid": True,
        "steady": steady,
        "processes": 6,
        "others_share": 0.02,
        "runnable": 1.0,
        "second_look_s": 2.0,
    }
    return row(
        experiment,
        condition,
        measured=measured,
        floor={**measured, "steady": True, "seconds": 3.0},
        judged={
            "by_interval": word,
            "verdict": verdict or (word.upper() if steady else "INCONCLUSIVE"),
            "floor": 0.01,
            "smallest_detectable_change": promised,
        },
        others=others,
    )


def measured(*, share: float = 0.0, again: float | None = None, **changes: Any) -> Any:
    """A measurement of six processes that see about `share` more than base, ± 0.1 %."""
    from benchmarks.harness.measuring import Measured
    from edgebench.records import Estimate

    def ratio(more: float) -> Estimate:
        low, point, high = (1 + more + width for width in (-0.001, 0.0, 0.001))
        return Estimate(point=point, low=low, high=high, n=6, method="m")

    cold = dict.fromkeys(("load_ms", "first_inference_ms"), (1.0, 1.1, 1.0, 1.1, 1.0, 1.1))
    return Measured(
        **{
            "ratio": ratio(share),
            "again": None if again is None else ratio(again),
            "confirms": True,
            "logs": tuple(float(np.log1p(share + 0.0005 * k)) for k in (-2, -1, 0, 0, 1, 2)),
            "cold": {**cold, "peak_memory_mib": (9.0,) * 6},
            "base_us": 1000.0,
            "p50_ms": 1.0,
            "seconds": 5.0,
            "processes": 6,
            "valid": True,
            "steady": True,
            "reasons": (),
            "stopped": "all processes",
            "others_share": 0.0,
            "runnable": 1.0,
            **changes,
        }
    )


def test_a_rate_has_the_exact_interval() -> None:
    from benchmarks.harness.table import Rate

    # Nothing in 200: the upper end is 1 − 0.025^(1/200).
    low, high = Rate(0, 200).interval
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 200))
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert str(Rate(1, 4)).startswith("25.0 % (1 of 4; ")


@pytest.mark.parametrize(
    ("hits", "n", "least", "most", "word"),
    [
        (0, 200, 0.0, 0.01, "n too small to show it"),
        (0, 600, 0.0, 0.01, "shown"),
        (20, 200, 0.0, 0.01, "not met"),
        (20, 20, 0.95, 1.0, "n too small to show it"),
        (72, 72, 0.95, 1.0, "shown"),
        (71, 72, 0.95, 1.0, "n too small to show it"),
        (50, 72, 0.95, 1.0, "not met"),
        (3, 4, 0.0, 1.0, ""),
        (0, 0, 0.95, 1.0, ""),
    ],
)
def test_a_rate_passes_or_fails_by_its_whole_interval(
    hits: int, n: int, least: float, most: float, word: str
) -> None:
    from benchmarks.harness.table import Rate

    found = Rate(hits, n, least, most)
    assert found.word == word
    assert str(found).endswith(f"): {word}") == bool(word)


def test_found_is_what_a_comparison_says() -> None:
    from benchmarks.harness.judging import judged

    floor = measured()
    slower = judged(measured(share=0.03, again=0.03), floor)
    assert slower["by_interval"] == "slower"
    assert slower["verdict"] == "SLOWER"
    assert slower["p_adjusted"] < 0.001
    # A floor of twice the half width, 0.2 %.
    assert slower["floor"] == pytest.approx(0.002, rel=0.01)
    for second, its_floor, why in (
        (measured(share=0.03), floor, "not measured again"),
        (measured(share=0.03, again=0.0), floor, "do not confirm"),
        (measured(share=0.03, again=0.03, valid=False, reasons=("hot",)), floor, "hot"),
        (measured(share=0.03, again=0.03), measured(steady=False), "noise floor"),
        # One process far off leaves the interval alone, not the t-test.
        (
            measured(share=0.03, again=0.03, logs=(-0.9, 0.03, 0.03, 0.03, 0.03, 0.03)),
            floor,
            "after Holm",
        ),
    ):
        found = judged(second, its_floor)
        assert found["by_interval"] == "slower"
        assert found["verdict"] == "INCONCLUSIVE"
        assert why in found["why"]
    alone = judged(measured(share=0.03, confirms=False), floor)
    assert alone["verdict"] == "SLOWER"
    assert judged(measured(share=0.001), floor)["verdict"] == "NOT SLOWER"


def test_a_promised_change_is_looked_for_in_the_other_trials() -> None:
    from benchmarks.harness.verdict_tables import promise

    # The floor is 1 %: 1.7 % more lifts 0.995 above it and leaves 0.98 below.
    narrow = trial("aa", "not slower", (0.995, 1.0, 1.005), promised=0.017)
    wide = trial("aa", "not slower", (0.98, 1.0, 1.02), promised=0.07)
    silent = trial("aa", "not slower", (0.98, 1.0, 1.02), promised=None)
    assert promise([narrow, wide]) == (1, 2)
    assert promise([narrow, narrow]) == (2, 2)
    assert promise([narrow, wide, silent]) == (2, 4)
    assert promise([narrow]) == (0, 0)


def test_false_alarms_are_counted_by_the_interval_and_by_the_verdict() -> None:
    from benchmarks.harness.verdict_tables import false_alarm_table

    alarms = [
        trial("aa", "slower", (1.05, 1.06, 1.07), steady=False),
        trial("aa", "not slower"),
        trial("aa", "not slower"),
        trial("aa", "faster", (0.9, 0.91, 0.92)),
    ]
    table = false_alarm_table(alarms)
    assert table is not None
    (line,) = table.cells
    slower, verdict, faster, covers, _promise, _half, seconds, bad, others = line[3:]
    assert (slower.hits, verdict.hits, faster.hits, covers.hits, slower.n) == (1, 0, 1, 2, 4)
    # The measurement's five seconds and the three of its noise floor.
    assert (seconds, bad, others) == ("8.0 (8.0)", "1", "2 % (2 %); 1")


def test_conditions_are_pooled_beside_the_single_ones() -> None:
    from benchmarks.harness.verdict_tables import POOLED, false_alarm_table

    rows = [trial("aa", "not slower", condition=c) for c in ("idle", "loaded", "bursts")]
    one = {**trial("aa", "slower"), "profile": "standard"}
    table = false_alarm_table([*rows, *rows, one])
    assert table is not None
    lines = {(line[0], line[2]): line[3:] for line in table.cells}
    assert list(lines) == [
        ("idle", "quick"),
        ("loaded", "quick"),
        ("bursts", "quick"),
        (POOLED, "quick"),
        ("idle", "standard"),
    ]
    pooled = lines[POOLED, "quick"]
    assert (pooled[0].hits, pooled[0].n) == (0, 6)
    # Two trials a condition: six others in all, 7 % is above what they need.
    assert pooled[4] == "100.0 %"


def test_power_says_why_a_change_was_not_found() -> None:
    from benchmarks.harness.verdict_tables import power_table

    found = power_table(
        [
            trial("power", "slower"),
            trial("power", "slower", steady=False),
            trial("power", "slower", verdict="INCONCLUSIVE"),
            trial("power", "not slower"),
        ]
    )
    assert found is not None
    (line,) = found.cells
    assert (line[4].hits, line[4].n, line[4].least) == (1, 4, 0.95)
    assert line[5] == "1 / 1 / 1"
    assert line[9:11] == ("8.0 (8.0)", "3.0; 2.0")


def test_a_measurement_that_only_gave_the_floor_is_no_trial() -> None:
    from benchmarks.harness.summary import tables
    from benchmarks.harness.table import trials_of

    floor = row("aa", measured={"ratio": {"low": 1, "point": 1, "high": 1}})
    assert trials_of([floor], "aa") == []
    assert tables([floor]) == []


def test_the_rules_are_judged_in_the_same_trials() -> None:
    from benchmarks.harness.rule_tables import rule_tables

    said = {
        "olive": {"ratio": 1.03, "seconds": 1.0},
        "pyperf": {
            "ratio": 1.03,
            "significant": True,
            "fails": {"5": False, "2": True},
            "seconds": 9.0,
        },
        "optimum-benchmark": {"problem": "no memory", "seconds": 2.0},
    }
    slow = {"olive": {"ratio": 1.03, "seconds": 7.0}}
    rows = [
        trial("aa", "not slower", others=said),
        trial("aa", "slower", others=None),
        trial("aa", "not slower", others=slow, condition="bursts"),
        trial("power", "slower", others=said),
        {**trial("aa", "slower", others=slow), "profile": "standard"},
    ]
    alarms, other, misses = rule_tables(rows)
    assert "quick" in alarms.heading
    assert "standard" in other.heading
    cells = {line[0]: line[1:] for line in alarms.cells}
    # The second A/A trial ran no other rule, so it is not in this comparison.
    assert [(c.hits, c.n) for c in cells["edgebench"][::2]] == [(0, 1), (0, 1)]
    assert cells["edgebench"][1] == "8.0"
    assert [(c.hits, c.n) for c in cells["olive >2%"][::2]] == [(1, 1), (1, 1)]
    # Each condition tells its own seconds.
    assert cells["olive >2%"][1::2] == ("1.0", "7.0")
    assert cells["pyperf"][0].hits == 1
    assert cells["pyperf --min-speed=2"][0].hits == 1
    assert cells["pyperf --min-speed=5"][0].hits == 0
    assert cells["optimum-benchmark >5%"][0].n == 0
    missed = {line[0]: line[1].hits for line in misses.cells}
    assert missed["edgebench"] == 0
    assert (missed["olive >5%"], missed["olive >2%"]) == (1, 0)


@pytest.mark.parametrize(
    ("result", "limit", "says"),
    [
        ({"ratio": 1.04}, 5, False),
        ({"ratio": 1.06}, 5, True),
        ({"ratio": 1.04, "fails": {"5": True}}, 5, True),
        ({"ratio": 0.9, "significant": True}, None, False),
        ({"ratio": 1.001, "significant": True}, None, True),
        ({"ratio": 1.001, "significant": True, "fails": {"2": False}}, 2, False),
        ({"problem": "x"}, 5, None),
    ],
)
def test_what_a_rule_says(result: dict[str, Any], limit: int | None, says: bool | None) -> None:
    from benchmarks.harness.others import says_slower

    assert says_slower(result, limit) is says


def test_a_command_names_no_folder_outside_the_repository(tmp_path: Path) -> None:
    from benchmarks.harness.log import command_line

    arguments = [
        "--only",
        "aa",
        "--rules",
        "",
        "--out",
        str(tmp_path),
        f"--report={ROOT}/reports/h",
    ]
    assert command_line(arguments) == (
        "python -m benchmarks.harness --only aa --rules '' --report reports/h"
    )
    assert command_line([f"--out={tmp_path}", "--page"]) == "python -m benchmarks.harness --page"


def test_the_log_tells_no_place_of_the_repository(tmp_path: Path) -> None:
    from benchmarks.harness.log import Log

    log = Log(tmp_path)
    log.append({"experiment": "aa"}, None, {"problem": f"no {ROOT}/benchmarks/x.py"})
    assert [row["result"]["problem"] for row in log.rows()] == ["no benchmarks/x.py"]


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


def test_a_command_that_went_on_is_named_once(tmp_path: Path) -> None:
    from benchmarks.harness.page import write

    rows = [trial("aa", "not slower") for _ in range(3)]
    for one, options in zip(rows, (" --trials 5", " --trials 9", " --only aa"), strict=True):
        one["command"] += options
    text = write(rows, tmp_path).read_text()
    assert "harness --trials 9`" in text
    assert "--trials 5" not in text
    assert "harness --only aa`" in text


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
    assert "pytest-benchmark mean:2%" in text
    assert "times -r 1000 >5%" in text
    assert "to show it" in text
    assert as_text([]) == "no trials yet"
