"""Whole channels go: as many as were asked for, everywhere but in the last layer."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES, weight_layers

PRUNE = TECHNIQUES.get("prune-structured")
NETWORKS = ["lenet", "resnet8", "mobilenetv1"]


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-structured", **options), context)


def widths(module: nn.Module) -> dict[str, int]:
    return {name: int(layer.weight.shape[0]) for name, layer in weight_layers(module)}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_channels_asked_for_go_and_the_head_stays(
    network, context, tools, name: str, ratio: float
) -> None:
    before = widths(network(name))
    module, outcome = prune(tools, network(name), context(), ratio=ratio)
    after = widths(module)
    *inner, head = before
    assert after[head] == before[head] == 10
    for layer in inner:
        assert after[layer] == pytest.approx(before[layer] * (1 - ratio), abs=1), layer
    sizes = [sum(p.numel() for p in m.parameters()) for m in (network(name), module)]
    gone = sizes[0] - sizes[1]
    assert outcome.notes == [f"{gone:,} of {sizes[0]:,} parameters went ({gone / sizes[0]:.1%})"]
    assert not module.training


@pytest.mark.parametrize("name", NETWORKS)
def test_the_pruned_network_is_made_again_from_its_record(
    data, network, context, tools, tmp_path: Path, name: str
) -> None:
    options = tools.options_of("prune-structured", ratio=0.5, finetune={"epochs": 1})
    pruned, outcome = PRUNE().apply(network(name), options, context())
    save_model(pruned, str(tmp_path / "weights.safetensors"))
    structure = json.loads(json.dumps(outcome.structure))
    again = PRUNE().restructure(network(name), options, structure, context())
    load_model(again, tmp_path / "weights.safetensors")
    wanted = tools.run_module(pruned, data.test_x)
    np.testing.assert_array_equal(tools.run_module(again, data.test_x), wanted)
    assert np.isfinite(wanted).all()


def test_a_chain_of_prunings_is_made_again(data, network, context, tools) -> None:
    options = [tools.options_of("prune-structured", ratio=r) for r in (0.25, 0.4)]
    module, records = network("resnet8"), []
    for one in options:
        module, outcome = PRUNE().apply(module, one, context())
        records.append(outcome.structure)
    again = network("resnet8")
    for one, record in zip(options, records, strict=True):
        again = PRUNE().restructure(again, one, record, context())
    again.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(
        tools.run_module(again, data.test_x), tools.run_module(module, data.test_x)
    )


def test_the_weakest_channels_go(network, context, tools) -> None:
    for importance, norm in (("l1", 1), ("l2", 2)):
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 10, bias=False)
        )
        with torch.no_grad():
            nn.init.zeros_(module[2].weight)
            # By the sum of magnitudes the first is stronger, by the sum of squares the second.
            module[0].weight[:] = torch.tensor([2.0, 0.0, 5.0, 6.0]).view(4, 1, 1, 1)
            module[0].weight[1, 0, 0, 0] = 8.0
        strongest = module[0].weight.detach().flatten(1).norm(p=norm, dim=1).argsort()[1:]
        kept = module[0].weight.detach()[sorted(strongest.tolist())].clone()
        pruned, _ = prune(tools, module, context(), ratio=0.25, importance=importance)
        assert torch.equal(pruned[0].weight.detach(), kept), importance


def test_channels_are_rounded_to_a_multiple(network, context, tools) -> None:
    wide = nn.Sequential(
        nn.Conv2d(1, 40, 3), nn.ReLU(), nn.Conv2d(40, 64, 3), nn.Flatten(), nn.Linear(1024, 10)
    )
    module, _ = prune(tools, deepcopy(wide), context(), ratio=0.3, round_to=8)
    *inner, head = widths(module).values()
    assert all(width % 8 == 0 for width in inner)
    assert all(width < was for width, was in zip(inner, (40, 64), strict=True))
    assert head == 10


def test_training_on_learns(data, network, context, tools) -> None:
    def accuracy(**options) -> float:
        module, _ = prune(tools, network("lenet"), context(), ratio=0.5, **options)
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    tuned = accuracy(finetune={"epochs": 8, "learning_rate": 5e-3})
    assert tuned > accuracy() + 0.05


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            {"ratio": 0.5},
            "a single layer: there is no channel to prune",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)),
            {"ratio": 0.5},
            "no convolution or dense layer to prune",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10)),
            {"ratio": 0.99},
            "removed 0.0% of the channels where 99% were asked for; change ratio",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10)),
            {"ratio": 0.25, "round_to": 8},
            "removed 0.0% of the channels where 25% were asked for",
        ),
    ],
)
def test_where_nothing_can_go_it_is_said(
    context, tools, module: nn.Module, options, text: str
) -> None:
    with pytest.raises(BuildError) as caught:
        prune(tools, module, context(), **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


class Unfollowable(nn.Module):
    """Takes its own weights apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.Tensor) or self.first.weight.shape[0] != 64:
            raise ValueError("64 features\nand no other number")
        return self.head(self.first(x.flatten(1)).view(-1, 8, 8).transpose(1, 2).reshape(-1, 64))


def test_a_crash_inside_torch_pruning_is_one_line(context, tools, monkeypatch) -> None:
    import torch_pruning

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a fake crash\nof two lines")

    monkeypatch.setattr(torch_pruning, "BasePruner", crash)
    with pytest.raises(BuildError, match="cannot prune this model: RuntimeError: a fake crash of"):
        prune(tools, Unfollowable(), context(), ratio=0.5)
