"""The space of a search: what may stand in it, and what is drawn."""

from __future__ import annotations

from itertools import islice

import pytest
from pydantic import ValidationError

from edgebench.search_space import Choice, Interval, Search, fill, opened

STEPS = [
    {"technique": "prune-structured", "ratio": {"from": 0.1, "to": 0.8}, "of": "macs"},
    {"technique": "ptq", "optional": True, "bits": {"choose": [8, 4]}},
]


def search(steps=STEPS, **more):
    return Search.model_validate({"chains": {"a": steps}, **more})


def answers(values):
    """Suggest what stands in `values`, and fail for anything else."""
    return lambda place, space: values[place]


def test_every_open_value_is_found_at_any_depth():
    steps = [
        {
            "technique": "distill",
            "finetune": {"epochs": {"choose": [1, 2]}, "rates": [{"from": 1, "to": 3}, 5]},
        }
    ]
    assert list(opened("x", steps)) == [
        "x.0.distill.finetune.epochs",
        "x.0.distill.finetune.rates.0",
    ]
    drawn = {"x.0.distill.finetune.epochs": 2, "x.0.distill.finetune.rates.0": 3}
    assert fill("x", steps, answers(drawn)) == [
        {"technique": "distill", "finetune": {"epochs": 2, "rates": [3, 5]}}
    ]


def test_an_optional_step_is_there_or_not():
    values = {"a.0.prune-structured.ratio": 0.5, "a.1.ptq?": False}
    pruned = {"technique": "prune-structured", "ratio": 0.5, "of": "macs"}
    # The value of a step that is left out is not asked for.
    assert search().draw(answers(values)) == ("a", [pruned])
    values |= {"a.1.ptq?": True, "a.1.ptq.bits": 4}
    assert search().draw(answers(values)) == ("a", [pruned, {"technique": "ptq", "bits": 4}])


def test_the_chain_is_drawn_where_there_are_several():
    both = Search.model_validate(
        {"chains": {"b": [{"technique": "cast"}], "a": [{"technique": "ptq"}]}}
    )
    asked = []

    def suggest(place, space):
        asked.append((place, space.choose))
        return "b"

    assert both.draw(suggest) == ("b", [{"technique": "cast"}])
    assert asked == [("chain", ["a", "b"])]


def test_a_whole_mapping_can_be_chosen():
    short, long = {"epochs": 1}, {"epochs": 9, "learning_rate": 0.1}
    steps = [{"technique": "prune-structured", "finetune": {"choose": [None, short, long]}}]
    place = "a.0.prune-structured.finetune"
    assert search(steps).draw(answers({place: long}))[1][0]["finetune"] == long
    assert opened("a", steps)[place].texts[0] == "null"


def test_one_and_true_are_two_values():
    assert Choice(choose=[1, 1.0, True, "1"]).texts == ["1", "1.0", "true", '"1"']


def test_intervals_are_whole_where_all_is():
    assert Interval.model_validate({"from": 1, "to": 9, "step": 2}).whole
    assert Interval.model_validate({"from": 1, "to": 9, "step": 2}).examples() == [1, 5, 9]
    assert Interval.model_validate({"from": 1, "to": 8, "log": True}).whole
    assert not Interval.model_validate({"from": 1, "to": 8.0}).whole
    low, inner, high = Interval.model_validate({"from": 1.0, "to": 9.0}).examples()
    assert (low, high) == (1.0, 9.0)
    # So that an option that takes whole numbers refuses it.
    assert inner != round(inner)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"from": 2, "to": 1}, "'from: 2' is not below 'to: 1'"),
        ({"from": 0, "to": 1, "log": True}, "'log: true' needs 'from' above 0"),
        ({"from": 0.1, "to": 1, "log": True, "step": 0.1}, "and no step"),
        ({"from": 0.1, "to": 1.0, "step": 0.4}, "steps of 0.4 do not lead to 'to: 1'"),
        ({"from": 0.1, "to": float("inf")}, "to: "),
        ({"from": 0.1}, "a.0.ptq.bits: to: Field required"),
        ({"from": 0.1, "to": 1, "setp": 2}, "setp: Extra inputs are not permitted"),
        ({"choose": []}, "choose: "),
        ({"choose": [8, 4, 8]}, "8 stands there twice"),
        ({"choose": [8], "log": True}, "log: Extra inputs"),
    ],
)
def test_wrong_values(value, said):
    with pytest.raises(ValidationError) as caught:
        search([{"technique": "ptq", "bits": value}])
    assert said in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([], "the chain 'a' is empty"),
        ([{"bits": 8}], "names no technique"),
        ([{"technique": {"choose": ["ptq", "qat"]}}], "names no technique"),
        ([{"technique": "ptq", "optional": 1}], "neither true nor false"),
        ([{"technique": "ptq", "optional": True}], "every step of the chain 'a' is optional"),
    ],
)
def test_wrong_chains(steps, said):
    with pytest.raises(ValidationError, match=said):
        search(steps)


@pytest.mark.parametrize(
    "more",
    [
        {"trials": 0},
        {"keep": 0},
        {"objectives": []},
        {"objectives": ["latency_ratio", "latency_ratio"]},
        {"objectives": ["a", "b", "c", "d"]},
        {"speed": 1},
    ],
)
def test_wrong_settings(more):
    with pytest.raises(ValidationError):
        search(**more)


def test_examples_hold_every_value_once_with_the_first_and_with_the_last_of_the_others():
    found = [(name, list(islice(chains, 2))) for name, chains in search().examples(0)]
    assert {name for name, _ in found} == {"a"}
    ratios = [[chain[0]["ratio"] for chain in chains] for _, chains in found[:3]]
    assert ratios[0] == [0.1, 0.1]
    assert ratios[2] == [0.8, 0.8]
    # With the ratio's own example, the optional step stays in, with its first and its last value.
    assert [chain[1]["bits"] for chain in found[0][1]] == [8, 4]
    # The step itself: there, and left out.
    assert [len(chains[0]) for _, chains in found[3:5]] == [2, 1]
    assert [[c[1]["bits"] for c in chains] for _, chains in found[5:]] == [[8, 8], [4, 4]]


def test_a_chain_without_open_values_is_its_own_example():
    [(name, chains)] = search([{"technique": "cast"}]).examples(0)
    assert (name, list(chains)) == ("a", [[{"technique": "cast"}]])


def test_further_examples_of_a_value_are_drawn_with_it():
    steps = [
        {"technique": "distill", "loss": {"choose": [1, 2, 3]}, "dkd": {"choose": [None, 4]}},
        {"technique": "cast", "optional": True, "dtype": {"choose": ["fp16", "bf16"]}},
        {"technique": "ptq", "optional": True},
    ]

    def drawn(seed):
        examples = [list(chains) for _, chains in search(steps).examples(seed)]
        of_dkd, of_dtype = examples[4], examples[7]
        assert all(chain[0]["dkd"] == 4 for chain in of_dkd)
        assert {chain[0]["loss"] for chain in of_dkd} == {1, 2, 3}
        # Every chain has the step that holds the value; others are left out at times.
        assert all(chain[1]["dtype"] == "fp16" for chain in of_dtype)
        assert {len(chain) for chain in of_dtype} == {2, 3}
        return examples

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_what_was_drawn_in_words():
    drawn = {"chain": "a", "a.0.prune-structured.ratio": 0.25, "a.1.ptq?": False}
    assert search().drawn_words("a", drawn) == [("ratio", 0.25), ("without", "ptq")]
    drawn |= {"a.1.ptq?": True, "a.1.ptq.bits": 4}
    assert search().drawn_words("a", drawn) == [("ratio", 0.25), ("bits", 4)]
