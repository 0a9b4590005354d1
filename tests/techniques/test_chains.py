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


@pytest.mark.parametrize(
    ("chain", "line"),
    [
        (
            [{"technique": "prune-unstructured", "ratio": 0.5}, {"technique": "low-rank"}],
            "here: 'low-rank' would undo 'prune-unstructured': factors have no zeros; put "
            "'low-rank' first",
        ),
        (
            [{"technique": "qat"}, {"technique": "prune-unstructured", "ratio": 0.5}],
            "here: 'prune-unstructured' cannot follow 'qat': its ranges hold only for the weights "
            "it was trained with; put 'qat' last",
        ),
        (
            [{"technique": "prune-unstructured", "ratio": 0.5}, {"technique": "distill"}],
            "here: 'distill' starts a new network and would lose 'prune-unstructured'; put "
            "'distill' first",
        ),
        (
            [{"technique": "cast"}, {"technique": "qat"}],
            "here: 'qat' cannot follow 'cast': the other techniques expect float32; put 'cast' "
            "last",
        ),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(chain, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_chain([Step.model_validate(step) for step in chain], "here")
    assert caught.value.line() == line
