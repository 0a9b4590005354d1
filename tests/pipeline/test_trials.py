"""What a search draws, keeps, and goes on with: against made-up results, the real optimiser."""

from __future__ import annotations

import json
import math

import pytest

from edgebench.errors import StorageError
from edgebench.pipeline.trials import (
    RANDOM,
    Trials,
    Tried,
    excess_over,
    front,
    nearest_to_limits,
    read_earlier,
)
from edgebench.recipe import Gate
from edgebench.search_space import Search

LIMITS = [Gate(metric="latency_ratio", max=0.9)]
SPACE = Search.model_validate(
    {
        "chains": {
            "pruned": [
                {"technique": "prune-structured", "ratio": {"from": 0.1, "to": 0.9}},
                {"technique": "ptq", "optional": True, "method": {"choose": ["minmax", "mse"]}},
            ],
            "student": [{"technique": "distill", "epochs": {"from": 1, "to": 64, "log": True}}],
        },
    }
)
SMALL = Search.model_validate(
    {"chains": {"a": [{"technique": "ptq", "bits": {"choose": [8, 4]}}, {"technique": "cast"}]}}
)


def trials(tmp_path, search=SPACE, **more):
    known = {"plan": "p", "device": "d", **more}
    return Trials(tmp_path / "journal", search, LIMITS, 0, **known)


def outcome(draw):
    """What a chain gives, known exactly: the best are those with a ratio near 0.7."""
    ratio = draw.chain[0].get("ratio")
    if ratio is None:
        return Tried(draw.number, draw.name, tuple(draw.chain), {}, {}, "it diverged")
    metrics = {"latency_ratio": 1 - ratio, "accuracy_delta_pp": -40 * abs(ratio - 0.7)}
    excess = excess_over(LIMITS, metrics)
    return Tried(draw.number, draw.name, tuple(draw.chain), metrics, excess)


def go_on(run, until):
    while len(run.ended()) < until:
        draw = run.begin()
        run.tell(draw, outcome(draw))
    return run.ended()


def test_interrupted_at_every_trial_it_draws_what_it_would_have(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = go_on(trials(tmp_path / "whole"), 20)
    for number in range(20):
        run = trials(tmp_path)
        assert len(run.ended()) == number
        # Killed between drawing and telling: nothing of it is kept.
        run.begin()
        run = trials(tmp_path)
        assert len(run.ended()) == number
        go_on(run, number + 1)
    assert trials(tmp_path).ended() == whole
    assert [one.number for one in whole] == list(range(20))


def test_the_optimiser_learns(tmp_path):
    ended = go_on(trials(tmp_path), 40)
    away = [abs(one.chain[0].get("ratio", 0.1) - 0.7) for one in ended]
    assert sum(away[-16:]) / 16 < 0.6 * sum(away[:RANDOM]) / RANDOM
    # Chains that fail count against their kind.
    assert sum(one.name == "student" for one in ended[-16:]) <= 4


def test_nothing_is_tried_twice_and_a_small_space_ends(tmp_path):
    run = trials(tmp_path, SMALL)
    seen = []
    while (draw := run.begin()) is not None:
        seen.append(draw.chain[0]["bits"])
        run.tell(draw, Tried(draw.number, "a", tuple(draw.chain), {}, {}, "no"))
    assert sorted(seen) == [4, 8]
    assert trials(tmp_path, SMALL).begin() is None


def test_equal_chains_of_two_names_are_one(tmp_path):
    two = Search.model_validate(
        {
            "chains": {
                "plain": [{"technique": "ptq"}],
                "more": [{"technique": "cast", "optional": True}, {"technique": "ptq"}],
            }
        }
    )
    run = trials(tmp_path, two)
    chains = []
    while (draw := run.begin()) is not None:
        chains.append(json.dumps(draw.chain))
        run.tell(draw, Tried(draw.number, "a", tuple(draw.chain), {}, {}, "no"))
    assert len(chains) == len(set(chains)) == 2


def test_a_new_search_of_the_same_plan_tries_the_same_chains_first(tmp_path):
    first = go_on(trials(tmp_path), 12)
    earlier = read_earlier(tmp_path / "journal")
    (tmp_path / "journal").unlink()
    # Killed at the third of them, it still knows the others.
    go_on(trials(tmp_path, earlier=earlier), 3)
    again = go_on(trials(tmp_path), 14)
    assert [one.chain for one in again[:12]] == [one.chain for one in first]
    assert len({json.dumps(one.chain) for one in again}) == 14


def test_another_plan_begins_anew(tmp_path):
    go_on(trials(tmp_path), 2)
    earlier = read_earlier(tmp_path / "journal")
    assert (earlier.plan, len(earlier.draws)) == ("p", 2)
    (tmp_path / "journal").unlink()
    other = Search.model_validate({"chains": {"b": [{"technique": "cast"}]}})
    run = trials(tmp_path, other, plan="q", earlier=earlier)
    assert run.begin().chain == [{"technique": "cast"}]


def test_what_another_device_measured_is_measured_again(tmp_path):
    first = go_on(trials(tmp_path), 3)
    run = trials(tmp_path, device="e")
    assert run.ended() == []
    assert [one.chain for one in go_on(run, 3)] == [one.chain for one in first]


def test_a_line_that_was_not_written_to_its_end(tmp_path):
    whole = go_on(trials(tmp_path), 3)
    file = tmp_path / "journal"
    content = file.read_bytes()
    file.write_bytes(content + content.splitlines()[-1][:40])
    run = trials(tmp_path)
    assert run.ended() == whole
    assert len(go_on(run, 4)) == 4
    assert len(trials(tmp_path).ended()) == 4


def test_a_damaged_file_is_one_line(tmp_path):
    go_on(trials(tmp_path), 1)
    file = tmp_path / "journal"
    file.write_text("no journal\n" + file.read_text())
    with pytest.raises(StorageError, match="holds no trials that can be read"):
        trials(tmp_path)
    assert read_earlier(file).draws == ()


def test_no_lock_outlives_a_kill(tmp_path):
    go_on(trials(tmp_path), 1)
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]


def test_what_is_infinite_is_kept_so(tmp_path):
    endless = Search.model_validate(
        {**SPACE.model_dump(), "objectives": ["sqnr_db", "latency_ratio"]}
    )
    run = trials(tmp_path, endless)
    for _ in range(RANDOM + 4):
        draw = run.begin()
        metrics = {"sqnr_db": math.inf, "latency_ratio": 0.5}
        run.tell(draw, Tried(draw.number, draw.name, tuple(draw.chain), metrics, {}))
    kept = trials(tmp_path, endless).ended()
    assert {one.metrics["sqnr_db"] for one in kept} == {math.inf}
    assert front(kept, endless.objectives) == kept[:1]


def tried(number, latency, accuracy, excess=0.0, problem=None):
    metrics = {"latency_ratio": latency, "accuracy_delta_pp": accuracy}
    return Tried(number, "a", ({"n": number},), metrics, {"gate": excess}, problem)


def test_front():
    objectives = ["latency_ratio", "accuracy_delta_pp"]
    all_of_them = [
        tried(0, 0.9, 0.0),
        tried(1, 0.5, -2.0),
        tried(2, 0.9, -1.0),  # beaten by 0
        tried(3, 0.5, -2.0),  # as good as 1, and later
        tried(4, 0.1, 0.5, excess=0.1),  # beyond a limit
        Tried(5, "a", (), {}, {}, "failed"),
        tried(6, 0.7, -1.0),
    ]
    assert [one.number for one in front(all_of_them, objectives)] == [1, 6, 0]
    assert [one.number for one in front(all_of_them, ["accuracy_delta_pp"])] == [0]
    assert front([all_of_them[4]], objectives) == []


def test_front_of_three_objectives():
    one = Tried(0, "a", (), {"latency_ratio": 1, "accuracy": 0.9, "size_ratio": 0.5}, {})
    two = Tried(1, "a", (), {"latency_ratio": 1, "accuracy": 0.9, "size_ratio": 0.4}, {})
    three = Tried(2, "a", (), {"latency_ratio": 2, "accuracy": 0.91, "size_ratio": 0.9}, {})
    names = ["latency_ratio", "accuracy", "size_ratio"]
    assert front([one, two, three], names) == [two, three]


def test_excess_is_a_share_of_the_limit():
    limits = [
        Gate(metric="latency_ratio", max=0.8),
        Gate(metric="accuracy_delta_pp", min=-2.0, max=5.0),
        Gate(metric="negative_flips", max=0.0),
        Gate(metric="sqnr_db", min=20.0),
    ]
    metrics = {
        "latency_ratio": 1.0,
        "accuracy_delta_pp": -3.0,
        "negative_flips": 0.01,
        "sqnr_db": math.inf,
    }
    found = list(excess_over(limits, metrics).values())
    assert found[:3] == pytest.approx([0.25, 0.5, 0.01])
    assert found[3] == -math.inf


def test_nearest_to_limits():
    near = nearest_to_limits([tried(0, 1, 0, 0.5), tried(1, 1, 0, 0.2), tried(2, 1, 0, 0, "no")])
    assert near.number == 1
    assert nearest_to_limits([tried(0, 1, 0, 0, "no")]) is None
