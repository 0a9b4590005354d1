"""How many channels go: shares, rankings and rounding, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from edgebench.pruning.budget import (
    Rounding,
    heads_that_go,
    one_ranking,
    same_share,
    smallest_measured_share,
    smallest_share,
    step_of,
)
from edgebench.pruning.channels import Group
from edgebench.pruning.heads import Attention


def group(name: str, worth: list[float], unit: int = 1) -> Group:
    return Group(name, (name,), len(worth), unit, torch.tensor(worth, dtype=torch.float64))


def attention(name: str, worth: list[float], heads: int) -> Group:
    own = Attention(name, f"{name}.qkv", f"{name}.proj", heads, len(worth) // heads)
    values = torch.tensor(worth, dtype=torch.float64)
    return Group(own.qkv, (own.qkv,), len(worth), heads, values, own)


def test_units_are_ranked_by_their_mean() -> None:
    # Places 0, 1 and 2 of both halves: 1+6, 5+1 and 2+2.
    one = group("a", [1, 5, 2, 6, 1, 2], unit=2)
    assert one.scores().tolist() == [3.5, 3.0, 2.0]
    assert one.weakest(1) == [2, 5]
    assert one.weakest(2) == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("channels", "unit", "gone", "multiple", "strict", "wanted"),
    [
        (16, 1, 5, 1, True, 5),
        (16, 1, 5, 8, True, 8),  # 11 stay, rounded down to 8
        (16, 1, 8, 8, True, 8),
        (16, 1, 12, 8, True, 8),  # one multiple stays at least
        (16, 1, 12, 8, False, 12),  # auto leaves four as they are
        (12, 1, 3, 8, False, 4),
        (6, 1, 3, 8, True, 0),  # narrower than a multiple: nothing goes
        (6, 1, 3, 8, False, 3),
        (16, 1, 0, 8, True, 0),
        (20, 1, 0, 8, True, 0),
        (16, 1, 16, 1, True, 15),  # one stays
        (24, 4, 1, 8, True, 2),  # units of four: 20 stay, rounded down to 16
        (24, 3, 2, 8, True, 0),  # a multiple of 8 and of 3 is 24
    ],
)
def test_rounding(
    channels: int, unit: int, gone: int, multiple: int, strict: bool, wanted: int
) -> None:
    one = group("a", [1.0] * channels, unit)
    assert Rounding(multiple, strict=strict).units(one, gone) == wanted


def test_the_same_share_of_each() -> None:
    groups = [group("a", [1.0] * 10), group("b", [1.0] * 5), group("c", [1.0] * 8, unit=4)]
    shares = dict.fromkeys("abc", 0.3)
    # .3 of 10 is 3 in spite of float32; 1.5 of 5 is rounded up; 1 of the 2 units is one too.
    assert same_share(groups, shares, Rounding()) == {"a": 3, "b": 2, "c": 1}
    assert same_share(groups, dict.fromkeys("abc", 0.0), Rounding()) == {"a": 0, "b": 0, "c": 0}


def test_one_ranking_takes_the_weakest_wherever_they_are() -> None:
    groups = [group("a", [0.1, 0.2, 3.0, 4.0]), group("b", [0.3, 1.0, 1.1, 1.2])]
    assert one_ranking(groups, 3 / 8, Rounding()) == {"a": 2, "b": 1}
    assert one_ranking(groups, 1 / 2, Rounding()) == {"a": 2, "b": 2}


def test_one_ranking_leaves_a_tenth_of_each() -> None:
    groups = [group("weak", [0.01] * 20), group("strong", [1.0] * 20)]
    assert one_ranking(groups, 0.5, Rounding()) == {"weak": 18, "strong": 2}
    assert one_ranking(groups, 0.95, Rounding()) == {"weak": 19, "strong": 19}
    tiny = [group("weak", [0.01] * 3), group("strong", [1.0] * 20)]
    assert one_ranking(tiny, 0.3, Rounding()) == {"weak": 2, "strong": 5}


def test_a_unit_counts_for_all_its_channels() -> None:
    groups = [group("a", [0.1] * 8, unit=4), group("b", [1.0] * 8)]
    assert one_ranking(groups, 0.5, Rounding()) == {"a": 1, "b": 4}


def test_heads_by_share_and_by_one_ranking() -> None:
    groups = [attention("a", [1, 1, 2, 2, 9, 9, 8, 8], 4), attention("b", [3, 3, 7, 7], 2)]
    assert groups[0].head_scores().tolist() == [1, 2, 9, 8]
    together = {"ranked_together": True}
    apart = {"ranked_together": False}
    assert heads_that_go(groups, 0.5, **apart) == {"a.qkv": 2, "b.qkv": 1}
    assert heads_that_go(groups, 0.3, **apart) == {"a.qkv": 2, "b.qkv": 1}
    assert heads_that_go(groups, 0.9, **apart) == {"a.qkv": 3, "b.qkv": 1}
    assert heads_that_go(groups, 0.3, **together) == {"a.qkv": 2, "b.qkv": 0}
    assert heads_that_go(groups, 0.5, **together) == {"a.qkv": 2, "b.qkv": 1}
    # One stays in each, whatever it is worth.
    assert heads_that_go(groups, 0.99, **together) == {"a.qkv": 3, "b.qkv": 1}


def test_a_step_holds_whole_heads_or_the_same_place_of_each() -> None:
    one = attention("a", [1, 5, 2, 9, 8, 7], 2)
    entry = {"name": "a", "qkv": "a.qkv", "projection": "a.proj", "heads": 2, "head_dim": 3}
    assert step_of([one], {}, {"a.qkv": 1}) == {
        "channels": [],
        "attention": [{**entry, "channels": [0, 1, 2], "left": 1}],
    }
    # The means of places: 5, 6.5 and 4.5.
    assert step_of([one], {"a.qkv": 1}, {}) == {
        "channels": [],
        "attention": [{**entry, "channels": [2, 5], "left": 2}],
    }
    assert step_of([group("b", [2.0, 1.0])], {"b": 1}, {})["channels"] == [["b", [1]]]


@pytest.mark.parametrize("threshold", [0.001, 0.3, 0.5, 0.98])
def test_bisection_ends_just_above_the_threshold(threshold: float) -> None:
    found = smallest_share(lambda share: share >= threshold, 0.999)
    assert threshold <= found <= threshold + 0.001


@pytest.mark.parametrize("target", [0.95, 0.6, 0.3, 0.05])
def test_a_measured_target_takes_few_measurements(target: float) -> None:
    calls: list[int] = []

    def measure(shares: list[float]) -> list[float]:
        calls.append(len(shares))
        assert shares == sorted(shares)
        return [1 - share**0.5 for share in shares]

    found = smallest_measured_share(measure, target, 0.999)
    exact = (1 - target) ** 2
    assert found is not None
    assert exact <= found <= exact + 0.005
    assert calls[0] == 6
    assert len(calls) == 3


def test_a_target_that_no_measurement_reaches() -> None:
    assert smallest_measured_share(lambda shares: [0.8] * len(shares), 0.7, 0.999) is None


def test_a_measurement_that_jumps_back_does_not_mislead() -> None:
    # The second share reads fast by chance; the search goes on below it and ends where it began.
    def measure(shares: list[float]) -> list[float]:
        return [0.4 if abs(share - 0.333) < 0.001 else 1 - share for share in shares]

    found = smallest_measured_share(measure, 0.5, 0.999)
    assert found == pytest.approx(0.333, abs=0.001)
