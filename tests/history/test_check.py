from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from edgebench.__main__ import run as command
from edgebench.errors import UsageError
from edgebench.history import History, findings_table
from edgebench.history.check import Finding, check_series, exit_code
from edgebench.history.series import current_series
from edgebench.records import Estimate, Measurement, RunRecord, Variant

NODES = {"QLinearConv": 2, "QGemm": 1}


def ratio(point: float) -> Estimate:
    return Estimate(point=point, low=point * 0.99, high=point * 1.01, n=6, method="t")


def make(
    run: Callable[..., RunRecord],
    number: int,
    *,
    latency: float = 0.5,
    load: float = 3.0,
    size: int = 1000,
    accuracy: float = 0.9,
    nodes: dict[str, int] = NODES,
    fingerprint: str = "m1",
    floor: float = 0.02,
    valid: bool = True,
    recipe: str = "quickstart",
    grade: str = "B",
    extra: str | None = None,
) -> RunRecord:
    """One run of a base and of the variant `int8`, on day `number`."""
    measurement = Measurement(
        grade=grade,
        valid=valid,
        fingerprint=fingerprint,
        noise_floor=floor,
        evidence={"inspection": {"nodes": {"CPU": nodes}, "integer_operators": nodes}},
    )
    variant = Variant(
        name="int8",
        status="measured",
        verdict="GO",
        metrics={"size_bytes": size, "accuracy": accuracy, "load_ms": load},
        intervals={"load_ms": ratio(load)},
        comparisons={"latency_ratio": ratio(latency)},
        measurement=measurement,
    )
    base = Variant(
        name="base",
        status="measured",
        metrics={"size_bytes": 4000},
        comparisons={"latency_ratio": ratio(1.0)},
        measurement=measurement.model_copy(update={"evidence": {}}),
    )
    more = (variant.model_copy(update={"name": extra}),) if extra else ()
    control = variant.model_copy(update={"name": "independent-1", "control": True})
    return run(
        f"202601{number:02d}T000000-abcdef",
        created=f"2026-01-{number:02d}T00:00:00+00:00",
        recipe={"name": recipe, "model": "lenet", "data": "digits"},
        variants=(base, variant, *more, control),
    )


def found(
    runs: list[RunRecord], metric: str, variant: str = "int8", limit: float = 0.05
) -> list[Finding]:
    return [check_series(s, limit) for s in current_series(runs, variant=variant, metric=metric)]


def test_a_slower_variant_is_a_regression_since_the_first_slow_run(run) -> None:
    runs = [make(run, n, latency=0.5 if n < 4 else 0.6) for n in range(1, 7)]
    (finding,) = found(runs, "latency_ratio")
    assert (finding.state, finding.since) == ("regression", runs[3].run_id)
    assert (finding.before, finding.after) == (0.5, 0.6)
    assert exit_code([finding]) == 1


def test_a_faster_variant_is_an_improvement(run) -> None:
    runs = [make(run, n, latency=0.5 if n < 4 else 0.4) for n in range(1, 7)]
    (finding,) = found(runs, "latency_ratio")
    assert finding.state == "improvement"
    assert exit_code([finding]) == 0


def test_a_change_within_the_noise_floor_of_the_device_is_steady(run) -> None:
    def runs(floor: float) -> list[RunRecord]:
        return [make(run, n, latency=0.5 if n < 4 else 0.55, floor=floor) for n in range(1, 7)]

    assert found(runs(0.02), "latency_ratio")[0].state == "regression"
    noisy = found(runs(0.2), "latency_ratio")[0]
    assert (noisy.state, noisy.delta) == ("steady", 0.2)


def test_on_a_shared_device_only_the_ratio_to_base_is_a_regression(run) -> None:
    def runs(grade: str) -> list[RunRecord]:
        days = range(1, 7)
        slow = {n: 2.0 if n > 3 else 1.0 for n in days}
        return [make(run, n, latency=slow[n], load=slow[n], grade=grade) for n in days]

    assert found(runs("B"), "load_ms")[0].state == "regression"
    assert found(runs("C"), "load_ms")[0].state == "changed"
    assert found(runs("C"), "latency_ratio")[0].state == "regression"


def test_only_the_last_change_decides(run) -> None:
    levels = [0.5] * 3 + [0.7] * 3 + [0.5] * 3
    runs = [make(run, n + 1, latency=level) for n, level in enumerate(levels)]
    (finding,) = found(runs, "latency_ratio")
    assert (finding.state, finding.earlier) == ("improvement", 1)


def test_sizes_are_compared_exactly(run) -> None:
    grown = [make(run, 1), make(run, 2, size=1001)]
    assert found(grown, "size_bytes")[0].state == "regression"
    shrunk = [make(run, 1), make(run, 2, size=999), make(run, 3, size=999)]
    (finding,) = found(shrunk, "size_bytes")
    assert (finding.state, finding.since) == ("improvement", shrunk[1].run_id)
    assert found([make(run, 1), make(run, 2)], "size_bytes")[0].state == "steady"


def test_accuracy_is_compared_exactly_and_higher_is_better(run) -> None:
    runs = [make(run, 1), make(run, 2, accuracy=0.8999)]
    assert found(runs, "accuracy")[0].state == "regression"
    runs = [make(run, 1), make(run, 2, accuracy=0.9001)]
    assert found(runs, "accuracy")[0].state == "improvement"


def test_an_integer_operator_that_is_gone_is_a_regression_and_is_named(run) -> None:
    runs = [make(run, 1), make(run, 2, nodes={"QLinearConv": 0, "QGemm": 1, "Conv": 2})]
    (finding,) = found([runs[0], make(run, 2, nodes={"QGemm": 1})], "integer_operators")
    assert (finding.state, finding.detail) == ("regression", "QLinearConv 2 → 0")
    (other,) = found(runs, "operators")
    assert (other.state, other.detail) == ("changed", "Conv 0 → 2, QLinearConv 2 → 0")


def test_operators_that_change_places_in_equal_number_are_seen(run) -> None:
    runs = [make(run, 1), make(run, 2, nodes={"QLinearConv": 1, "QGemm": 2})]
    assert found(runs, "integer_operators")[0].state == "changed"


def test_another_fingerprint_begins_another_series(run) -> None:
    runs = [make(run, n, latency=0.5) for n in range(1, 5)]
    runs += [make(run, n, latency=0.9, fingerprint="m2") for n in range(5, 7)]
    (finding,) = found(runs, "latency_ratio")
    assert (finding.state, finding.runs, finding.key.fingerprint) == ("too few runs", 2, "m2")
    assert exit_code([finding]) == 3


def test_other_recipes_do_not_mix(run) -> None:
    runs = [make(run, n, recipe="a" if n % 2 else "b", size=n % 2) for n in range(1, 7)]
    assert [f.state for f in found(runs, "size_bytes")] == ["steady", "steady"]


def test_a_variant_that_is_gone_is_not_waited_for(run) -> None:
    runs = [make(run, 1, extra="old"), make(run, 2)]
    assert found(runs, "size_bytes", variant="old") == []


def test_what_was_not_valid_does_not_count(run) -> None:
    runs = [make(run, n) for n in range(1, 5)]
    runs += [make(run, n, latency=2.0, valid=n > 6) for n in range(5, 7)]
    assert found([*runs, make(run, 7)], "latency_ratio")[0].state == "steady"


def test_base_against_itself_and_controls_are_no_series(run) -> None:
    series = current_series([make(run, 1), make(run, 2)])
    assert {s.key.variant for s in series} == {"base", "int8"}
    assert ("base", "latency_ratio") not in {(s.key.variant, s.key.metric) for s in series}


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_and_a_finding_is_one_line(run, width: int) -> None:
    runs = [make(run, n, latency=0.5 if n < 4 else 0.6) for n in range(1, 7)]
    runs[-1] = make(run, 6, latency=0.6, size=1001, nodes={"QGemm": 1})
    findings = [check_series(s, 0.05) for s in current_series(runs)]
    told = [f for f in findings if f.state != "steady"]
    console = Console(width=width)
    with console.capture() as capture:
        console.print(findings_table(told, width))
    lines = capture.get().rstrip().splitlines()
    assert all(len(line) <= width for line in lines)
    assert len(lines) == 2 + len(told)
    assert "20260104T000000" in capture.get()


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[list[RunRecord]], None]:
    def add(runs: list[RunRecord]) -> None:
        history = History.open()
        for one in runs:
            history.add(one, tmp_path)

    return add


def test_the_command_finds_the_regression(run, keep, capsys) -> None:
    keep([make(run, n, latency=0.5 if n < 4 else 0.6) for n in range(1, 7)])
    assert command(["history", "check"]) == 1
    out = capsys.readouterr().out
    assert "regression" in out
    assert "+20.0%" in out
    assert "1 got worse" in out


def test_since_accepts_what_was_before(run, keep) -> None:
    runs = [make(run, n, latency=0.5 if n < 4 else 0.6) for n in range(1, 9)]
    keep(runs)
    assert command(["history", "check"]) == 1
    assert command(["history", "check", "--since", runs[3].run_id]) == 0


def test_too_few_runs_are_exit_code_3(run, keep, capsys) -> None:
    keep([make(run, 1), make(run, 2)])
    assert command(["history", "check"]) == 3
    assert "too few runs" in capsys.readouterr().out
    assert command(["history", "check", "--metric", "size_bytes"]) == 0


def test_json_has_every_finding(run, keep, capsys) -> None:
    keep([make(run, n) for n in range(1, 6)])
    assert command(["history", "check", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "edgebench.history-check/1"
    assert {f["state"] for f in content["findings"]} == {"steady"}
    assert {f["key"]["metric"] for f in content["findings"]} >= {"latency_ratio", "size_bytes"}


def test_an_empty_history_is_said_and_decides_nothing(capsys) -> None:
    assert command(["history", "check"]) == 3
    assert "nothing to check" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "latency_ration"], "did you mean 'latency_ratio'"),
        (["--variant", "int9"], "did you mean 'int8'"),
        (["--since", "2025"], "unknown run '2025'"),
        (["--limit", "-1"], "--limit"),
    ],
)
def test_bad_options_are_one_line(run, keep, capsys, options: list[str], said: str) -> None:
    keep([make(run, 1)])
    assert command(["history", "check", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_a_record_of_another_version_is_left_out_and_counted(run, keep, capsys) -> None:
    from sqlalchemy import text

    from edgebench.history.connection import connect, store_url, writing

    keep([make(run, n) for n in range(1, 7)])
    with writing(connect(store_url())) as connection:
        changed = text("UPDATE runs SET record = '{}' WHERE run_id LIKE '20260102%'")
        connection.execute(changed)
    assert command(["history", "check"]) == 0
    assert "1 run of another version left out" in capsys.readouterr().out


def test_the_newest_runs_come_oldest_first_from_either_kind_of_store(
    store: str, tmp_path: Path, run
) -> None:
    history = History.open(store)
    runs = [make(run, n, recipe="a" if n < 4 else "b") for n in range(1, 6)]
    for one in reversed(runs):
        history.add(one, tmp_path)
    assert history.records() == (tuple(runs), 0)
    assert history.records(limit=2) == (tuple(runs[-2:]), 0)
    assert history.records(recipe="a", model="lenet", target="local") == (tuple(runs[:3]), 0)
    assert history.records(model="other") == ((), 0)
    with pytest.raises(UsageError, match="1 or more"):
        history.records(limit=0)
