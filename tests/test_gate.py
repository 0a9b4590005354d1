from __future__ import annotations

import math

import pytest

from edgebench import gate
from edgebench.agent.results import NOT_STEADY
from edgebench.recipe import Gate
from edgebench.records import Estimate, Measurement, Variant


def estimate(low: float, high: float) -> Estimate:
    return Estimate(point=(low + high) / 2, low=low, high=high, n=12, method="test")


def variant(name: str = "int8", *, valid: bool = True, **found: Estimate) -> Variant:
    return Variant(
        name=name,
        status="measured",
        comparisons=found,
        measurement=Measurement(
            grade="C", valid=valid, invalid_reasons=() if valid else ("it throttled",)
        ),
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.9, "GO"),
        (1.0, 1.05, "GO"),
        (1.06, 1.1, "NO-GO"),
        (1.0, 1.1, "INCONCLUSIVE"),
    ],
)
def test_the_whole_interval_must_agree(low: float, high: float, verdict: str) -> None:
    reason = gate.judge_gate(Gate(metric="latency_ratio", max=1.05), estimate(low, high))
    assert reason.verdict == verdict
    assert "latency_ratio" in reason.text


def test_a_minimum() -> None:
    limit = Gate(metric="functional_preservation", min=0.8)
    assert gate.judge_gate(limit, estimate(0.85, 0.9)).verdict == "GO"
    assert gate.judge_gate(limit, estimate(0.5, 0.7)).verdict == "NO-GO"
    assert gate.judge_gate(limit, estimate(0.7, 0.9)).verdict == "INCONCLUSIVE"


def test_noise_reads_neither_as_go_nor_as_no_go() -> None:
    limit = Gate(metric="latency_ratio", max=1.05)
    reason = gate.judge_gate(limit, estimate(1.06, 1.1), floor=0.2)
    assert reason.verdict == "INCONCLUSIVE"
    assert "noise floor" in reason.text
    assert gate.judge_gate(limit, estimate(1.0, 1.06), floor=0.2).verdict == "INCONCLUSIVE"
    close = gate.judge_gate(limit, estimate(0.95, 1.0), floor=0.2)
    assert close.verdict == "INCONCLUSIVE"
    assert "noise floor" in close.text
    assert gate.judge_gate(limit, estimate(0.5, 0.6), floor=0.2).verdict == "GO"
    assert gate.judge_gate(limit, estimate(1.4, 1.5), floor=0.2).verdict == "NO-GO"


def test_what_was_not_measured_does_not_decide() -> None:
    assert gate.judge_gate(Gate(metric="energy_mj", max=1), None).verdict == "INCONCLUSIVE"


def test_a_value_without_an_interval_does_not_decide() -> None:
    few = Estimate(point=3.0, low=None, high=None, n=3, method="median of 3: too few")
    reason = gate.judge_gate(Gate(metric="load_ms", max=10), few)
    assert reason.verdict == "INCONCLUSIVE"
    assert "too few" in reason.text
    bare = Variant(name="a", status="measured", metrics={"load_ms": 3.0, "size_bytes": 5.0})
    assert gate.find_estimate(bare, "load_ms").low is None
    assert gate.find_estimate(bare, "size_bytes").low == 5
    assert gate.find_estimate(bare, "accuracy") is None


def test_identical_answers_meet_a_gate_on_sqnr() -> None:
    same = Estimate(point=None, low=None, high=None, n=5, method="identical logits: infinite")
    assert gate.judge_gate(Gate(metric="sqnr_db", min=30), same).verdict == "GO"
    assert gate.judge_gate(Gate(metric="sqnr_db", max=5), same).verdict == "NO-GO"


def test_an_invalid_base_decides_nothing() -> None:
    base = variant("base", valid=False, latency_ratio=estimate(0.99, 1.01))
    good = variant(latency_ratio=estimate(0.5, 0.6))
    judged = gate.judge_variant(good, base, [Gate(metric="latency_ratio", max=1)])
    assert judged.verdict == "INCONCLUSIVE"
    assert "base's measurement" in judged.reasons[0].text


def test_a_latency_that_was_still_moving_decides_nothing() -> None:
    base = variant("base", latency_ratio=estimate(0.99, 1.01))
    moving = variant(latency_ratio=estimate(0.5, 0.6), accuracy_delta_pp=estimate(0, 1))
    moving = moving.model_copy(
        update={
            "measurement": moving.measurement.model_copy(update={"evidence": {"steady": False}})
        }
    )
    gates = [Gate(metric="latency_ratio", max=1), Gate(metric="accuracy_delta_pp", min=-1)]
    judged = gate.judge_variant(moving, base, gates)
    assert [r.verdict for r in judged.reasons] == ["INCONCLUSIVE", "GO"]


def test_an_invalid_measurement_never_decides() -> None:
    base = variant("base", latency_ratio=estimate(0.99, 1.01))
    bad = variant(valid=False, latency_ratio=estimate(0.5, 0.6))
    judged = gate.judge_variant(bad, base, [Gate(metric="latency_ratio", max=1)])
    assert judged.verdict == "INCONCLUSIVE"
    assert "throttled" in judged.reasons[0].text


def test_the_worst_gate_decides() -> None:
    base = variant("base", latency_ratio=estimate(0.99, 1.01))
    gates = [Gate(metric="latency_ratio", max=1), Gate(metric="accuracy_delta_pp", min=-1)]
    fast = variant(latency_ratio=estimate(0.5, 0.6), accuracy_delta_pp=estimate(-5, -3))
    judged = gate.judge_variant(fast, base, gates)
    assert judged.verdict == "NO-GO"
    assert [r.verdict for r in judged.reasons] == ["GO", "NO-GO"]


def test_controls_and_base_are_never_judged() -> None:
    base = variant("base", latency_ratio=estimate(0.99, 1.01))
    assert gate.judge_variant(base, base, [Gate(metric="accuracy", min=0)]).verdict is None


def judged(name: str, verdict: str | None, status: str = "measured") -> Variant:
    return Variant.model_validate(
        {"name": name, "status": status, "verdict": verdict, "problem": "it broke"}
    )


@pytest.mark.parametrize(
    ("variants", "require", "verdict", "code"),
    [
        ([("a", "GO"), ("b", "NO-GO")], [], "GO", 0),
        ([("a", "INCONCLUSIVE"), ("b", "NO-GO")], [], "INCONCLUSIVE", 3),
        ([("a", "NO-GO"), ("b", "NO-GO")], [], "NO-GO", 1),
        ([("a", "GO"), ("b", "NO-GO")], ["b"], "NO-GO", 1),
        ([("a", "GO"), ("b", "INCONCLUSIVE")], ["b"], "INCONCLUSIVE", 3),
        ([("a", "GO"), ("b", "NO-GO")], ["a"], "GO", 0),
        ([("a", "GO"), ("b", "GO"), ("c", "NO-GO")], ["a", "b"], "GO", 0),
    ],
)
def test_the_run(
    variants: list[tuple[str, str]], require: list[str], verdict: str, code: int
) -> None:
    found = gate.judge_run([judged(n, v) for n, v in variants], require)
    assert (found[0], found[2]) == (verdict, code)


def test_a_required_variant_that_failed() -> None:
    found = gate.judge_run([judged("a", "GO"), judged("b", None, "failed")], ["b"])
    assert found == (None, "No verdict on b: it broke", 5)


def test_nothing_measured() -> None:
    assert gate.judge_run([judged("a", None, "skipped")], [])[2] == 4
    assert gate.judge_run([judged("a", None, "failed")], [])[2] == 5


def test_controls_do_not_make_a_run_go() -> None:
    control = Variant(name="independent-1", control=True, status="measured")
    assert gate.judge_run([control, judged("a", "NO-GO")], [])[2] == 1


def test_noise_floor_is_twice_the_half_width_or_what_it_is_off_by() -> None:
    assert gate.floor_of(None) == math.inf
    short = Estimate(point=1.0, low=None, high=None, n=3, method="too few")
    assert gate.floor_of(short) == math.inf
    assert gate.floor_of(estimate(0.99, 1.01)) == pytest.approx(0.0202, abs=1e-3)
    assert gate.floor_of(estimate(1.04, 1.05)) == pytest.approx(0.05)
    assert gate.floor_of(estimate(0.90, 0.91)) == pytest.approx(1 / 0.9 - 1)


def test_smallest_detectable_change() -> None:
    found = gate.smallest_detectable_change(estimate(0.99, 1.01), 0.02)
    assert found == pytest.approx(0.055, abs=1e-3)
    assert gate.smallest_detectable_change(estimate(0.99, 1.01), math.inf) is None
    none = Estimate(point=1.0, low=None, high=None, n=3, method="too few")
    assert gate.smallest_detectable_change(none, 0.02) is None


@pytest.mark.parametrize(
    ("low", "high", "limit", "floor", "word"),
    [
        (1.02, 1.04, 0.0, 0.01, "slower"),
        (1.02, 1.04, 0.05, 0.01, "not slower"),
        (1.02, 1.04, 0.0, 0.03, "inconclusive"),
        (0.99, 1.005, 0.0, 0.01, "not slower"),
        (0.99, 1.02, 0.0, 0.01, "inconclusive"),
        (0.8, 0.9, 0.0, 0.01, "faster"),
        (0.98, 0.985, 0.05, 0.01, "not slower"),
    ],
)
def test_slower_only_beyond_limit_and_floor(
    low: float, high: float, limit: float, floor: float, word: str
) -> None:
    assert gate.judge_slower(estimate(low, high), limit=limit, floor=floor) == word


def confirmed_by(low: float, high: float) -> Variant:
    first = variant(latency_ratio=estimate(1.2, 1.3))
    assert first.measurement is not None
    evidence = {
        "confirms": True,
        "confirmation": {"latency_ratio": estimate(low, high).model_dump()},
    }
    measurement = first.measurement.model_copy(update={"evidence": evidence})
    return first.model_copy(update={"measurement": measurement})


def test_no_go_on_the_clock_needs_its_confirmation() -> None:
    base = variant("base", latency_ratio=estimate(0.999, 1.001))
    limit = [Gate(metric="latency_ratio", max=1.0)]
    again = gate.judge_variant(confirmed_by(1.15, 1.25), base, limit)
    assert again.verdict == "NO-GO"
    assert "confirmed in fresh processes" in again.reasons[0].text
    doubtful = gate.judge_variant(confirmed_by(0.98, 1.05), base, limit)
    assert doubtful.verdict == "INCONCLUSIVE"
    assert "fresh processes do not confirm it" in doubtful.reasons[0].text


def test_no_go_that_was_never_looked_at_again_decides_nothing() -> None:
    base = variant("base", latency_ratio=estimate(0.999, 1.001))
    slow = confirmed_by(1.15, 1.25)
    assert slow.measurement is not None
    unseen = slow.measurement.model_copy(update={"evidence": {"confirms": True}})
    limit = [Gate(metric="latency_ratio", max=1.0)]
    judged = gate.judge_variant(slow.model_copy(update={"measurement": unseen}), base, limit)
    assert judged.verdict == "INCONCLUSIVE"
    assert "was not measured again" in judged.reasons[0].text
    quick = slow.measurement.model_copy(update={"evidence": {}})
    judged = gate.judge_variant(slow.model_copy(update={"measurement": quick}), base, limit)
    assert judged.verdict == "NO-GO"


def test_without_a_noise_floor_no_ratio_is_judged() -> None:
    short = Estimate(point=1.0, low=None, high=None, n=3, method="median of 3: too few")
    base, fast = variant("base", latency_ratio=short), variant(latency_ratio=estimate(0.5, 0.6))
    judged = gate.judge_variant(fast, base, [Gate(metric="latency_ratio", max=1.0)])
    assert judged.verdict == "INCONCLUSIVE"
    assert "no noise floor" in judged.reasons[0].text
    assert gate.judge_slower(estimate(1.2, 1.3), floor=math.inf) == "inconclusive"


def test_a_moving_clock_leaves_the_answers_alone() -> None:
    base = variant("base", latency_ratio=estimate(0.999, 1.001))
    moving = Variant(
        name="int8",
        status="measured",
        comparisons={
            "latency_ratio": estimate(0.5, 0.6),
            "functional_preservation": estimate(0.9, 0.95),
        },
        measurement=Measurement(
            grade="C", valid=False, invalid_reasons=(NOT_STEADY,), evidence={"steady": False}
        ),
    )
    gates = [
        Gate(metric="latency_ratio", max=1.0),
        Gate(metric="functional_preservation", min=0.8),
    ]
    judged = gate.judge_variant(moving, base, gates)
    assert [r.verdict for r in judged.reasons] == ["INCONCLUSIVE", "GO"]
    assert NOT_STEADY in judged.reasons[0].text


def test_scenario_ratios_have_a_floor_too() -> None:
    base = variant("base", server_p99_ratio=estimate(0.9, 1.1))
    slower = variant(server_p99_ratio=estimate(1.05, 1.15))
    limit = Gate(metric="server_p99_ratio", max=1.0)
    judged = gate.judge_variant(slower, base, [limit])
    assert judged.verdict == "INCONCLUSIVE"
    assert "noise floor" in judged.reasons[0].text
