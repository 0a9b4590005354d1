"""How JSON from a device is read."""

from __future__ import annotations

import math

import pytest

from edgebench.report import facts
from edgebench.report.facts import Fact, Told


def test_what_is_taken_is_gone_and_what_is_odd_stays():
    told = Told({"a": 1, "b": "x", "c": None, "d": {"e": 2, "f": []}})
    assert told.take("a", facts.amount) == 1.0
    assert told.take("b", facts.amount) is None
    assert told.take("nothing", facts.text) is None
    inside = told.inside("d")
    assert inside.take("e", facts.amount) == 2.0
    assert inside.rest() == [Fact("f", "none")]
    assert told.rest() == [Fact("b", "x")]
    assert Told([1]).rest() == []


def test_an_inner_mapping_that_is_none_stays():
    told = Told({"watch": "gone"})
    assert told.inside("watch").left == {}
    assert told.rest() == [Fact("watch", "gone")]


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan, math.inf, 10**400])
def test_no_amount(value):
    assert facts.amount(value) is None


@pytest.mark.parametrize("value", [{"a": "b"}, {"a": None}, [1], 3])
def test_no_amounts(value):
    assert facts.amounts(value) is None


def test_no_rows_texts_or_interval():
    assert facts.rows([]) is None
    assert facts.rows([{}, 1]) is None
    assert facts.texts(["a", 1]) is None
    assert facts.interval({"point": 1}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1e-6, "under 0.01 %"),
        (0.0042, "0.42 %"),
        (0.0151, "1.5 %"),
        (0.123, "12 %"),
        (1.002, "100 %"),
        (-0.05, "−5.0 %"),
        (1e300, "1e+302 %"),
    ],
)
def test_share(value, text):
    assert facts.share(value) == text


def test_counts():
    assert facts.count(1, "query", "queries") == "1 query"
    assert facts.count(2000, "query", "queries") == "2,000 queries"
    assert facts.count(0, "block") == "0 blocks"
    assert facts.whole(1e300) == "1e+300"


def test_long_lists_say_how_many_are_left_out():
    assert facts.listed(["a", "b"]) == "a, b"
    assert facts.listed(list("abcd"), 3) == "a, b, c and 1 more"
