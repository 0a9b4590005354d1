"""Steps of a chain on top of one another: what one did, the next one keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgebench.errors import RecipeError
from edgebench.exporters.onnx_file import count_parameters, read_onnx
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.pipeline.plan import plan_chain
from edgebench.recipe import Step
from edgebench.techniques.base import TECHNIQUES

# Needs a package that need not be installed; for the order, it is as ptq.
OPTIONAL = "ptq-neural-compressor"
LEAVE_OUT = "leave one of them out"


def apply(tools, module, context, technique: str, **options):
    kind = TECHNIQUES.get(technique)
    return kind().apply(module, tools.options_of(technique, **options), context)[0]


def zeros(tools, module) -> float:
    weights = list(tools.weights_of(module).values())
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_pruned_weights_stay_zero_in_training_for_integers(
    data, network, context, tools, tmp_path: Path, name: str
) -> None:
    pruned = apply(tools, network(name), context(), "prune-unstructured", ratio=0.5)
    before = {n: w.clone() for n, w in tools.weights_of(pruned).items()}
    trained = apply(tools, pruned, context(), "qat", epochs=1)
    path = tmp_path / "model.onnx"
    export_onnx(trained, data.test_x[:32], path, opset=21)
    total, zero = count_parameters(read_onnx(path))
    assert zero / total > 0.45
    moved = dict(trained.named_parameters())
    for layer, weight in before.items():
        now = moved[f"{layer}.weight"]
        assert bool((now[weight == 0] == 0).all()), layer
        assert not torch.equal(now, weight), layer


def test_pruned_weights_stay_zero_in_the_training_after_pruned_channels(
    network, context, tools
) -> None:
    sparse = apply(tools, network("lenet"), context(), "prune-unstructured", ratio=0.6)
    share = zeros(tools, sparse)
    both = apply(tools, sparse, context(), "prune-structured", ratio=0.25, finetune={"epochs": 1})
    # Fewer weights are left, and a good part of these is zero as before.
    assert zeros(tools, both) > share / 2


def test_a_network_without_zeros_trains_all_its_weights(network, context, tools) -> None:
    module = apply(
        tools, network("lenet"), context(), "prune-structured", ratio=0.25, finetune={"epochs": 1}
    )
    assert zeros(tools, module) == 0


ZEROS = {"technique": "prune-unstructured", "ratio": 0.5}
PATTERN = {"technique": "prune-unstructured", "pattern": "2:4"}
PUBLISHED = {**ZEROS, "scope": "all_as_published"}
NARROW = {"technique": "prune-structured", "ratio": 0.5}
# Every technique, and those of its options that an order depends on.
STEPS = [
    ZEROS,
    PATTERN,
    PUBLISHED,
    NARROW,
    {**NARROW, "finetune": {"epochs": 1}},
    {"technique": "low-rank"},
    {"technique": "low-rank", "finetune": {"epochs": 1}},
    {"technique": "distill"},
    {"technique": "qat"},
    {"technique": "qat", "dtype": "fp16"},
    {"technique": "ptq"},
    {"technique": "cast"},
]
QAT = "its ranges hold only for the weights it was trained with"


def planned(*steps: dict) -> None:
    plan_chain([Step.model_validate(step) for step in steps], "here")


def refused(*steps: dict) -> RecipeError | None:
    try:
        planned(*steps)
    except RecipeError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("chain", "line"),
    [
        (
            [ZEROS, {"technique": "low-rank"}],
            "'low-rank' would undo 'prune-unstructured': factors have no zeros; put 'low-rank' "
            "before 'prune-unstructured'",
        ),
        (
            [ZEROS, NARROW, {"technique": "low-rank"}],
            "'low-rank' would undo 'prune-unstructured': factors have no zeros; put 'low-rank' "
            "before 'prune-unstructured'",
        ),
        (
            [PATTERN, NARROW],
            "'prune-structured' would undo 'prune-unstructured': its groups of 4 input channels "
            "fall apart when channels go; put 'prune-structured' before 'prune-unstructured'",
        ),
        (
            [PUBLISHED, {**NARROW, "finetune": {"epochs": 1}}],
            "'prune-structured' would undo 'prune-unstructured': training on keeps the zeros of "
            "weights, not of biases and running statistics; put 'prune-structured' before "
            "'prune-unstructured'",
        ),
        (
            [PUBLISHED, {"technique": "qat"}],
            "'qat' would undo 'prune-unstructured': training on keeps the zeros of weights, not of "
            "biases and running statistics; leave one of them out",
        ),
        (
            [{"technique": "qat"}, ZEROS],
            f"'prune-unstructured' cannot follow 'qat': {QAT}; put 'prune-unstructured' before "
            "'qat'",
        ),
        (
            [ZEROS, {"technique": "distill"}],
            "'distill' starts a new network and would lose 'prune-unstructured'; put 'distill' "
            "before 'prune-unstructured'",
        ),
        (
            [NARROW, {"technique": "qat"}, {"technique": "ptq"}],
            f"'ptq' cannot follow 'qat': {QAT}; leave one of them out",
        ),
        (
            [{"technique": "cast"}, {"technique": "qat"}],
            "'qat' cannot follow 'cast': the other techniques expect float32; leave one of them "
            "out",
        ),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(chain, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(*chain)
    assert caught.value.line() == f"here: {line}"


@pytest.mark.parametrize("chain", [[PATTERN, ZEROS], [PUBLISHED, NARROW], [NARROW, PATTERN]])
def test_an_order_that_undoes_nothing_is_not_refused(chain) -> None:
    planned(*chain)


def test_the_hint_of_each_refused_pair_leads_out() -> None:
    assert {step["technique"] for step in STEPS} == set(TECHNIQUES.names()) - {OPTIONAL}
    hints = set()
    for first in STEPS:
        for second in STEPS:
            error = refused(first, second)
            if error is None:
                continue
            one, other = (step["technique"] for step in (first, second))
            swapped = refused(second, first)
            wanted = f"put '{other}' before '{one}'" if swapped is None else LEAVE_OUT
            assert error.hint == wanted, (first, second)
            hints.add(wanted)
    assert LEAVE_OUT in hints
    assert len(hints) > 10
