"""What users may write under `protocol.scenarios`, and the one line they get for anything else."""

from __future__ import annotations

import pytest

from edgebench.errors import RecipeError
from edgebench.scenario import Scenario, resolve_scenarios


def resolve(*listed, profile: str = "quick", batch: int = 1) -> tuple[Scenario, ...]:
    return resolve_scenarios(list(listed), profile=profile, batch=batch, where="recipe.yaml")


def test_every_default_is_filled_in():
    single, multi, server, offline = resolve(
        {"scenario": "single-stream"},
        {"scenario": "multi-stream"},
        {"scenario": "server", "load": 0.5},
        {"scenario": "offline", "batch": 32, "threads": 2},
    )
    assert [s.label for s in (single, multi, server, offline)] == [
        "single-stream", "multi-stream-8", "server-load0.5", "offline-b32-t2",
    ]  # fmt: skip
    assert {s.duration_s for s in (single, multi, server, offline)} == {2.0}
    assert [s.min_queries for s in (single, multi, server, offline)] == [120, 120, 120, 4]
    assert [s.queries_of for s in (single, multi, server, offline)] == [1, 8, 1, 32]
    assert single.threads is None


def test_a_longer_profile_asks_for_longer():
    durations = [
        resolve({"scenario": "single-stream"}, profile=profile)[0].duration_s
        for profile in ("quick", "standard", "rigorous")
    ]
    assert durations == sorted(set(durations))


def test_the_protocols_batch_is_the_default():
    single, multi = resolve({"scenario": "single-stream"}, {"scenario": "multi-stream"}, batch=3)
    assert (single.batch, multi.batch) == (3, 1)


def test_a_query_of_loadgens_single_stream_or_server_is_one_example():
    single, multi, server, offline = resolve(
        {"scenario": "single-stream", "driver": "loadgen", "batch": 4},
        {"scenario": "multi-stream", "driver": "loadgen"},
        {"scenario": "server", "driver": "loadgen", "batch": 4, "qps": 5, "target_latency_ms": 9},
        {"scenario": "offline", "driver": "loadgen", "batch": 4},
    )
    assert [s.queries_of for s in (single, multi, server, offline)] == [1, 8, 1, 4]


def test_what_a_process_keeps_is_200_000_queries_or_the_least_that_was_asked_for():
    few, many = resolve(
        {"scenario": "server", "qps": 3000},
        {"scenario": "server", "qps": 5000, "min_queries": 300_000},
        profile="rigorous",
    )
    assert (few.most_queries, many.most_queries) == (200_000, 300_000)
    said = "5,000 queries a second for 60 s are more than the 200,000 that a process keeps"
    with pytest.raises(RecipeError, match=said):
        resolve({"scenario": "server", "qps": 5000}, profile="rigorous")


def test_resolving_twice_changes_nothing():
    once = resolve({"scenario": "server", "qps": 200, "threads": 2}, {"scenario": "offline"})
    assert resolve(*once, profile="rigorous", batch=9) == once
    assert resolve(*(one.model_dump(mode="json") for one in once)) == once


def test_same_settings_need_labels():
    with pytest.raises(RecipeError, match=r"scenarios\[1\]: two scenarios are called 'offline'"):
        resolve({"scenario": "offline"}, {"scenario": "offline"})
    resolve({"scenario": "offline"}, {"scenario": "offline", "label": "again"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scenario": "server"}, "give either 'qps'"),
        ({"scenario": "server", "qps": 5, "load": 0.5}, "give either 'qps'"),
        ({"scenario": "server", "qps": 0}, "'qps' in the scenario: input should be greater than 0"),
        ({"scenario": "server", "qps": -1}, "greater than 0"),
        ({"scenario": "server", "qps": float("nan")}, "qps"),
        ({"scenario": "server", "load": -0.5}, "greater than 0"),
        ({"scenario": "single-stream", "qps": 5}, "'qps' is for the scenario server"),
        ({"scenario": "offline", "samples": 5}, "'samples' is for the scenario multi-stream"),
        ({"scenario": "single-stream", "duration_s": 0}, "greater than 0"),
        ({"scenario": "single-stream", "min_queries": 0}, "greater than or equal to 1"),
        ({"scenario": "single-stream", "batch": 0}, "greater than or equal to 1"),
        ({"scenario": "single-stream", "threads": -2}, "greater than or equal to 1"),
        ({"scenario": "single-stream", "target_latency_ms": 0}, "greater than 0"),
        ({"scenario": "offline", "target_latency_ms": 5}, "offline has no latency"),
        ({"scenario": "multi-stream", "samples": 8, "batch": 3}, "do not divide"),
        ({"scenario": "multi-stream", "batch": 3}, "8 samples do not divide into batches of 3"),
        ({"scenario": "server", "qps": 5, "driver": "loadgen"}, "'target_latency_ms': give one"),
        ({"scenario": "server", "qps": 1e7, "duration_s": 86400}, "10,000,000 queries a second"),
        ({"scenario": "server", "qps": 1e-9}, "120 queries take more than a day"),
        ({"scenario": "single-stream", "min_queries": 10**8}, "less than or equal to 1000000"),
        ({"scenario": "burst"}, "single-stream"),
        ({"scenario": "offline", "bacth": 4}, "did you mean 'batch'"),
        ({"scenario": "offline", "label": "../up"}, "cannot be a label"),
        ({"label": "x"}, "lacks 'scenario'"),
        ("server", "not a mapping"),
        (None, "not a mapping"),
    ],
)
def test_what_cannot_be_run_is_one_line_that_names_the_place(given, said):
    with pytest.raises(RecipeError) as caught:
        resolve({"scenario": "single-stream"}, given)
    line = caught.value.line()
    assert said in line
    assert "recipe.yaml, protocol.scenarios[1]" in line
    assert "\n" not in line


@pytest.mark.parametrize("listed", [{"scenario": "server"}, "server", 3, None])
def test_it_has_to_be_a_list(listed):
    with pytest.raises(RecipeError, match=r"'protocol\.scenarios' is not a list"):
        resolve_scenarios(listed, profile="quick", batch=1, where="recipe.yaml")
