"""Low rank: as many operations go as were asked for, and what follows in a chain still works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_model, save_model
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.costs import costs
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic

LOW_RANK = TECHNIQUES.get("low-rank")
KINDS = ["tucker", "cp", "svd", "spatial"]


def factorize(tools, module: nn.Module, context, **options):
    return LOW_RANK().apply(module, tools.options_of("low-rank", **options), context)


@pytest.mark.parametrize("conv", KINDS)
@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_the_macs_asked_for_go(data, network, context, tools, name: str, conv: str) -> None:
    example = torch.from_numpy(data.train_x[:2])
    before = costs(network(name), example)["macs"]
    module, outcome = factorize(tools, network(name), context(), ratio=0.4, conv=conv)
    after = costs(module, example)["macs"]
    assert after <= 0.6 * before
    # Not far beyond what was asked for: the tiny networks move in steps.
    assert after > 0.4 * before
    assert f"multiply-accumulates {before:,} → {after:,}" in outcome.notes[1]
    assert f"→ {sum(p.numel() for p in module.parameters()):,}" in outcome.notes[1]
    kinds = {made["kind"] for made in outcome.structure["layers"].values()}
    # Dense layers and 1×1 convolutions are matrices, of which MobileNet has most of its work.
    assert kinds <= {conv, "svd"}
    assert conv in kinds or name == "mobilenetv1"
    depthwise = [n for n, m in network(name).named_modules() if getattr(m, "groups", 1) > 1]
    assert not set(depthwise) & set(outcome.structure["layers"])


@pytest.mark.parametrize("conv", KINDS)
def test_each_layer_keeps_the_energy_asked_for(network, context, tools, conv: str) -> None:
    base = network("resnet8")
    module, outcome = factorize(tools, network("resnet8"), context(), energy=0.7, conv=conv)
    assert outcome.structure["layers"]
    lost = weight = 0.0
    for name in outcome.structure["layers"]:
        old, new = base.get_submodule(name), module.get_submodule(name)
        if isinstance(old, nn.Linear):
            x = torch.eye(old.in_features)
            wanted, given = (layer(x) - layer(0 * x) for layer in (old, new))
        else:
            # The answers to a one in the middle of each channel are the kernel's values.
            reach = 9
            size, mid = 2 * reach + 1, reach
            x = torch.zeros(old.in_channels, old.in_channels, size, size)
            x[range(len(x)), range(len(x)), mid, mid] = 1
            for layer in (old, *new):
                layer.stride = (1, 1)
            wanted, given = (layer(x) - layer(0 * x) for layer in (old, new))
        wanted, given = wanted.detach(), given.detach()
        wrong, norm = float((wanted - given).norm()) ** 2, float(wanted.norm()) ** 2
        assert 1 - wrong / norm >= 0.7 - 1e-4
        lost, weight = lost + wrong, weight + norm
    error = float(outcome.notes[2].split()[-1])
    assert error == pytest.approx((lost / weight) ** 0.5, rel=0.02)


def test_more_energy_is_closer_to_the_network(data, network, context, tools) -> None:
    wanted = tools.run_module(network("lenet"), data.test_x)

    def distance(**options) -> float:
        module, _ = factorize(tools, network("lenet"), context(), **options)
        return float(np.abs(tools.run_module(module, data.test_x) - wanted).mean())

    assert distance(energy=0.9) < distance(energy=0.7) < distance(energy=0.3)
    assert distance(ratio=0.2) < distance(ratio=0.6)
    assert distance() == distance(energy=0.9)


def test_training_on_recovers(data, network, context, tools) -> None:
    def accuracy(**options) -> float:
        module, _ = factorize(tools, network("lenet"), context(), ratio=0.8, **options)
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    assert accuracy(finetune={"epochs": 4}) > accuracy() + 0.05


def test_the_layers_that_were_named(network, context, tools) -> None:
    names = [n for n, m in network("resnet8").named_modules() if isinstance(m, nn.Conv2d)]
    chosen = [names[2], names[4]]

    def made(**options) -> set[str]:
        _, outcome = factorize(tools, network("resnet8"), context(), energy=0.5, **options)
        assert {label.split()[0] for label in outcome.figures[0].series} >= set(
            outcome.structure["layers"]
        )
        return set(outcome.structure["layers"])

    everything = made()
    assert set(chosen) <= everything
    assert made(layers=chosen) == set(chosen)
    assert made(exclude=chosen) == everything - set(chosen)
    assert made(conv="none") == {"8"}
    assert made(dense="none") == everything - {"8"}


def test_ranks_are_multiples(network, context, tools) -> None:
    def ranks(**options) -> list[int]:
        _, outcome = factorize(tools, network("resnet8"), context(), energy=0.5, **options)
        return [r for made in outcome.structure["layers"].values() for r in made["ranks"]]

    used = context(vector_width=4)
    _, outcome = factorize(tools, network("resnet8"), used, energy=0.5, round_to="auto")
    automatic = [r for made in outcome.structure["layers"].values() for r in made["ranks"]]
    assert automatic == ranks(round_to=4)
    assert any(r % 4 for r in ranks())
    # The full rank of the input's one channel is its own multiple.
    assert all(r % 4 == 0 or r == 1 for r in automatic)


@pytest.mark.parametrize("conv", ["tucker", "cp"])
def test_qat_follows_and_runs_as_integers(
    data, network, context, tools, tmp_path: Path, conv: str
) -> None:
    module, outcome = factorize(tools, network("resnet8"), context(), ratio=0.6, conv=conv)
    structure = json.loads(json.dumps(outcome.structure))
    save_model(module, str(tmp_path / "weights.safetensors"))
    options = tools.options_of("low-rank", ratio=0.6, conv=conv)
    again = LOW_RANK().restructure(network("resnet8"), options, structure, context())
    load_model(again, tmp_path / "weights.safetensors")
    qat = TECHNIQUES.get("qat")
    small, _ = qat().apply(again, tools.options_of("qat", epochs=1), context())
    export_onnx(small, data.test_x[:32], tmp_path / "model.onnx", opset=20)
    running = tools.running_operators(tmp_path / "model.onnx", tmp_path)
    assert running["QLinearConv"] == tools.convolutions(module)
    assert running["Conv"] == 0


@pytest.mark.parametrize("conv", ["spatial", "cp"])
def test_pruning_follows(data, network, context, tools, conv: str) -> None:
    module, _ = factorize(tools, network("resnet8"), context(), ratio=0.6, conv=conv)
    before = costs(module, torch.from_numpy(data.train_x[:2]))["macs"]
    prune = TECHNIQUES.get("prune-structured")
    pruned, _ = prune().apply(module, tools.options_of("prune-structured", ratio=0.3), context())
    assert costs(pruned, torch.from_numpy(data.train_x[:2]))["macs"] < 0.8 * before
    assert np.isfinite(tools.run_module(pruned, data.test_x)).all()


class Shared(nn.Module):
    """One layer called twice under two names, and a weight that is read without its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.again = self.first
        self.read = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.first(x.flatten(1)).relu()).relu()
        return self.head(nn.functional.linear(x, self.read.weight))


def test_a_layer_that_is_called_twice(data, context, tools) -> None:
    with deterministic(1):
        module = Shared()
    # Twice 64·64, once more where a weight is read without its layer, and the head.
    assert costs(module, torch.from_numpy(data.train_x[:2]))["macs"] == 3 * 4096 + 640
    module, outcome = factorize(tools, module, context(), energy=0.5)
    assert set(outcome.structure["layers"]) == {"first", "head"}
    assert module.first is module.again
    again = LOW_RANK().restructure(
        Shared(), tools.options_of("low-rank"), outcome.structure, context()
    )
    again.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(
        tools.run_module(again, data.test_x), tools.run_module(module, data.test_x)
    )


def test_the_curves(network, context, tools) -> None:
    _, outcome = factorize(tools, network("lenet"), context())
    (figure,) = outcome.figures
    assert figure.kind == "line"
    convolution = next(n for n, m in network("lenet").named_modules() if isinstance(m, nn.Conv2d))
    assert {f"{convolution} outputs", f"{convolution} inputs"} <= set(figure.series)
    for points in figure.series.values():
        assert points[0] == (0, 0)
        assert points[-1] == (1, pytest.approx(1))
        assert len(points) <= 64


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"energy": 0.5, "ratio": 0.5}, "give energy or ratio, not both"),
        ({"energy": 1.0}, "less than 1"),
        ({"ratio": 0.0}, "greater than 0"),
        ({"conv": "none", "dense": "none"}, "nothing to factorize"),
        ({"round_to": 1}, "'auto' or a number from 2 to 256"),
        ({"layers": []}, "at least 1 item"),
        ({"layers": ["a"], "exclude": ["a"]}, "'a' is in layers and in exclude"),
    ],
)
def test_options_that_make_no_sense(tools, options, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        tools.options_of("low-rank", **options)


def crash() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 10))


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (None, {"layers": ["8x"]}, "the model has no layer '8x'; did you mean '8'?"),
        (None, {"exclude": ["3.frist"]}, "no layer '3.frist'; did you mean '3.first'?"),
        (None, {"layers": ["8"], "dense": "none"}, "'8' is not to be factorized: conv or dense"),
        (None, {"ratio": 0.99}, "of the multiply-accumulates where 99.0% are asked for"),
        (None, {"energy": 0.9999999}, "no layer is cheaper in factors that keep 1 of"),
        (nn.Flatten(), {}, "the model has no layer that can be factorized"),
        (crash(), {}, "the model cannot be run: RuntimeError: mat1 and mat2"),
        (Shared(), {"layers": ["read"]}, "the layer 'read' is never called as a layer"),
        (
            nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()),
            {"layers": ["1"]},
            "the layer '1' is grouped or depthwise",
        ),
    ],
)
def test_what_cannot_be_done_is_said(network, context, tools, module, options, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        factorize(tools, module or network("resnet8"), context(), **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
