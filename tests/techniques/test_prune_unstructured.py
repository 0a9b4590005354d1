"""The smallest weights become zero: exactly as many as were asked for, and they stay zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES

PRUNE = TECHNIQUES.get("prune-unstructured")
NETWORKS = ["lenet", "resnet8", "mobilenetv1"]


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-unstructured", **options), context)


def share_of_zeros(weights: dict[str, torch.Tensor]) -> float:
    total = sum(w.numel() for w in weights.values())
    return sum(int((w == 0).sum()) for w in weights.values()) / total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_one_asked_for(
    network, context, tools, name: str, ratio: float
) -> None:
    before = tools.weights_of(network(name))
    module, outcome = prune(tools, network(name), context(), ratio=ratio)
    after = tools.weights_of(module)
    total = sum(w.numel() for w in after.values())
    assert share_of_zeros(after) * total == pytest.approx(round(ratio * total))
    assert f"{ratio:.1%} of the weights are zero" in outcome.notes
    kept = torch.cat([before[k][w != 0].abs() for k, w in after.items()])
    gone = torch.cat([before[k][w == 0].abs() for k, w in after.items()])
    assert gone.max() <= kept.min()
    assert all(torch.equal(before[k][w != 0], w[w != 0]) for k, w in after.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_biases_and_normalisation_are_left_alone(network, context, tools, name: str) -> None:
    original = network(name)
    weights = {f"{key}.weight" for key in tools.weights_of(original)}
    module, _ = prune(tools, network(name), context(), ratio=0.9)
    state = module.state_dict()
    others = {key: t for key, t in original.state_dict().items() if key not in weights}
    assert others
    assert all(torch.equal(state[key], tensor) for key, tensor in others.items())


def test_one_threshold_for_each_layer(network, context, tools) -> None:
    module, _ = prune(tools, network("lenet"), context(), ratio=0.6, scope="layer")
    for weight in tools.weights_of(module).values():
        assert int((weight == 0).sum()) == round(0.6 * weight.numel())
    overall, _ = prune(tools, network("lenet"), context(), ratio=0.6)
    shares = [share_of_zeros({"": w}) for w in tools.weights_of(overall).values()]
    assert max(shares) - min(shares) > 0.05


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_zeros_stay_zero_while_the_rest_is_trained_on(network, context, tools, scope: str) -> None:
    options = {"ratio": 0.8, "scope": scope}
    bare, _ = prune(tools, network("lenet"), context(), **options)
    tuned, outcome = prune(
        tools, network("lenet"), context(), **options, finetune={"epochs": 2, "learning_rate": 0.01}
    )
    zeros, after = tools.weights_of(bare), tools.weights_of(tuned)
    for key, weight in after.items():
        assert not weight[zeros[key] == 0].any()
        assert not torch.equal(weight, zeros[key])
    assert share_of_zeros(after) == pytest.approx(0.8, abs=1e-3)
    assert outcome.notes == ["80.0% of the weights are zero"]
    assert not tuned.training


def test_zeros_are_zeros_bit_for_bit(network, context, tools) -> None:
    module, _ = prune(
        tools, network("lenet"), context(), ratio=0.8, finetune={"epochs": 1, "distill": True}
    )
    for weight in tools.weights_of(module).values():
        # −0.0 has a bit set: it would cost when the file is compressed.
        assert not torch.signbit(weight[weight == 0]).any()


def test_a_network_pruned_before_can_be_pruned_further(network, context, tools) -> None:
    first, _ = prune(tools, network("lenet"), context(), ratio=0.5)
    second, _ = prune(tools, first, context(), ratio=0.7)
    assert share_of_zeros(tools.weights_of(second)) == pytest.approx(0.7, abs=1e-3)
    third, outcome = prune(tools, second, context(), ratio=0.2)
    assert share_of_zeros(tools.weights_of(third)) == pytest.approx(0.7, abs=1e-3)
    assert outcome.notes == ["70.0% of the weights are zero"]


def test_fine_tuning_on_bases_answers_brings_the_function_back(data, network, context, tools):
    base = tools.run_module(network("lenet"), data.test_x)

    def distance(**options) -> float:
        module, _ = prune(tools, network("lenet"), context(), ratio=0.9, **options)
        return float(np.abs(tools.run_module(module, data.test_x) - base).mean())

    tuned = distance(finetune={"epochs": 5, "distill": True, "learning_rate": 0.01})
    assert tuned < 0.8 * distance()


def test_fine_tuning_on_base_needs_a_base(network, context, tools) -> None:
    with pytest.raises(BuildError, match="there is no base to distill from"):
        prune(
            tools,
            network("lenet"),
            context(base=None),
            ratio=0.5,
            finetune={"epochs": 1, "distill": True},
        )


def test_a_model_without_layers_has_nothing_to_prune(context, tools) -> None:
    with pytest.raises(BuildError, match="no convolution or dense layer to prune"):
        prune(tools, nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), context(), ratio=0.5)
