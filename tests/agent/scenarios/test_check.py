from __future__ import annotations

import math

import pytest

from edgebench.agent.scenarios.check import scenario_problem
from edgebench.scenario import resolve_scenarios

GOOD = [
    one.model_dump(mode="json")
    for one in resolve_scenarios(
        [
            {"scenario": "single-stream"},
            {"scenario": "multi-stream"},
            {"scenario": "server", "load": 0.5},
            {"scenario": "server", "qps": 5, "driver": "loadgen", "target_latency_ms": 3},
            {"scenario": "offline", "batch": 4},
        ],
        profile="quick",
        batch=1,
        where="test",
    )
]


def test_what_the_host_resolves_can_be_run():
    assert scenario_problem(GOOD) is None
    assert scenario_problem([]) is None


@pytest.mark.parametrize(
    ("index", "changes", "word"),
    [
        (0, {"scenario": "burst"}, r"[0].scenario: 'burst' is none of"),
        (0, {"driver": None}, "[0].driver"),
        (0, {"label": "../../etc"}, "[0].label"),
        (0, {"label": "offline-b4"}, "[4].label: 'offline-b4' is there twice"),
        (1, {"duration_s": 0}, "[1].duration_s: 0 is no positive number"),
        (1, {"duration_s": math.nan}, "[1].duration_s"),
        (1, {"batch": True}, "[1].batch: True is no positive whole number"),
        (1, {"batch": None}, "[1].batch"),
        (1, {"batch": 3}, "[1].samples"),
        (1, {"min_queries": 2.5}, "[1].min_queries"),
        (2, {"load": -1}, "[2].load"),
        (2, {"load": None}, "[2]: a server has either qps or load"),
        (2, {"threads": 0}, "[2].threads"),
    ],
)
def test_anything_else_is_named(index, changes, word):
    bad = [{**one, **(changes if i == index else {})} for i, one in enumerate(GOOD)]
    assert scenario_problem(bad).startswith(word)


@pytest.mark.parametrize("value", [None, {}, "server", [None], [[]], [{}]])
def test_what_is_no_list_of_scenarios_is_named(value):
    assert scenario_problem(value)


def test_a_missing_key_is_named():
    assert scenario_problem([{k: v for k, v in GOOD[0].items() if k != "qps"}]) == (
        "[0].qps is missing"
    )
