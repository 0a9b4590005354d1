from __future__ import annotations

import pytest

from edgebench.comparison import Pair, joined, judge_function, judge_latency, overall
from edgebench.records import Estimate


def ratio(low: float | None, high: float | None) -> Estimate:
    point = None if low is None or high is None else (low + high) / 2
    return Estimate(point=point, low=low, high=high, n=6, method="t")


def word(
    low: float | None,
    high: float | None,
    *,
    limit: float = 0.0,
    floor: float = 0.02,
    p: float | None = 0.001,
    again: Estimate | None = None,
    confirms: bool = True,
) -> str:
    return judge_latency(
        ratio(low, high), limit=limit, floor=floor, p_adjusted=p, again=again, confirms=confirms
    )[0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.90, 0.97, "FASTER"),
        (0.97, 1.01, "NOT SLOWER"),
        (0.97, 1.03, "INCONCLUSIVE"),
        (1.01, 1.05, "INCONCLUSIVE"),
        (1.03, 1.05, "SLOWER"),
        (None, None, "INCONCLUSIVE"),
    ],
)
def test_the_whole_interval_decides(low: float | None, high: float | None, expected: str) -> None:
    assert word(low, high, again=ratio(1.03, 1.06)) == expected


def test_the_larger_of_limit_and_noise_floor_is_delta() -> None:
    again = ratio(1.03, 1.06)
    assert word(1.03, 1.05, limit=0.1, again=again) == "NOT SLOWER"
    assert word(1.03, 1.05, floor=0.1, again=again) == "NOT SLOWER"


def test_slower_has_to_be_seen_twice() -> None:
    assert word(1.03, 1.05, again=None) == "INCONCLUSIVE"
    assert word(1.03, 1.05, again=ratio(1.0, 1.05)) == "INCONCLUSIVE"
    assert word(1.03, 1.05, again=ratio(1.03, 1.05)) == "SLOWER"
    assert word(1.03, 1.05, confirms=False) == "SLOWER"


@pytest.mark.parametrize("p", [None, 0.06])
def test_slower_has_to_hold_among_all_that_was_tested(p: float | None) -> None:
    assert word(1.03, 1.05, p=p, again=ratio(1.03, 1.05)) == "INCONCLUSIVE"


def test_another_function_is_judged_by_the_whole_interval_too() -> None:
    assert judge_function(ratio(0.0, 0.1), None) is None
    found = [judge_function(ratio(low, high), 0.05) for low, high in ((0.06, 0.1), (0.01, 0.05))]
    assert [f[0] for f in found if f] == ["ANOTHER FUNCTION", "NOT SLOWER"]
    assert (judge_function(ratio(0.01, 0.1), 0.05) or ("",))[0] == "INCONCLUSIVE"
    assert (judge_function(None, 0.05) or ("",))[0] == "INCONCLUSIVE"


def test_the_worst_part_decides_and_keeps_its_reasons() -> None:
    parts = [("FASTER", "quick"), ("ANOTHER FUNCTION", "wrong")]
    assert joined(parts) == ("ANOTHER FUNCTION", ("wrong",))
    assert joined([("FASTER", "quick"), ("NOT SLOWER", "alike")]) == ("FASTER", ("quick", "alike"))
    assert joined([("SLOWER", "slow"), ("INCONCLUSIVE", "unknown")])[0] == "SLOWER"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["FASTER", "NOT SLOWER"], 0),
        (["FASTER", "INCONCLUSIVE"], 3),
        (["INCONCLUSIVE", "ANOTHER FUNCTION"], 1),
        (["SLOWER"], 1),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    pairs = [
        Pair(name=f"v{i}", latency_ratio=None, noise_floor=0, delta=0, verdict=v)
        for i, v in enumerate(verdicts)
    ]
    verdict, text, found = overall(pairs, "a.onnx", "b.onnx")
    assert found == code
    assert verdict in verdicts
    assert "b.onnx" in text
