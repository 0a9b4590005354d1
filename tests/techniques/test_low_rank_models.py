"""Low rank on models that use their layers in other ways than one call on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.models.costs import costs
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic

LOW_RANK = TECHNIQUES.get("low-rank")


def factorize(tools, module: nn.Module, context, **options):
    return LOW_RANK().apply(module, tools.options_of("low-rank", **options), context)


class UpAndDown(nn.Module):
    """Most of the work lies in transposed convolutions, which are not factorized."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 16, 3, 2, 1), nn.ConvTranspose2d(16, 16, 2, 2)
        self.read, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(self.up(self.down(x).relu()).relu()).relu().mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer, whose layers read the weights of their dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.hidden, self.head = nn.Linear(16, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.inner(self.rows(x[:, 0])).mean(1)).relu())


class Folded(nn.Module):
    """Four views of each example, side by side in the batch; one layer called by its keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = torch.cat([x, x.flip(3), x.flip(2), 2 * x])
        views = self.second(input=self.first(views).relu()).relu().mean((2, 3))
        return self.head(views).view(4, len(x), -1).sum(0)


class Sized(Folded):
    """A model that asks one of its layers for its size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu().mean((2, 3))
        return self.head(x.view(-1, self.second.out_channels))


def made(kind: type[nn.Module]) -> nn.Module:
    with deterministic(1):
        return kind()


@pytest.mark.parametrize(("kind", "ratio"), [(UpAndDown, 0.4), (Encoder, 0.02)])
def test_the_ratio_is_of_all_products(data, context, tools, kind, ratio: float) -> None:
    example = torch.from_numpy(data.train_x[:2])
    whole = costs(made(kind), example)["macs"]
    module, outcome = factorize(tools, made(kind), context(), ratio=ratio)
    after = costs(module, example)["macs"]
    assert ratio * whole <= whole - after < (ratio + 0.1) * whole
    assert f"multiply-accumulates {whole:,} → {after:,}" in outcome.notes[1]


@pytest.mark.parametrize("kind", [UpAndDown, Encoder])
def test_what_is_not_factorized_cannot_go(context, tools, kind) -> None:
    with pytest.raises(
        BuildError, match=r"smallest ranks save \d+\.\d% of the multiply-accumulates"
    ):
        factorize(tools, made(kind), context(), ratio=0.9)


@pytest.mark.parametrize("conv", ["tucker", "cp", "svd", "spatial"])
def test_what_an_example_brings_into_the_batch_is_counted(data, context, tools, conv: str) -> None:
    example = torch.from_numpy(data.train_x[:2])
    whole = costs(made(Folded), example)["macs"]
    for ratio in (0.1, 0.5):
        module, _ = factorize(tools, made(Folded), context(), ratio=ratio, conv=conv)
        gone = 1 - costs(module, example)["macs"] / whole
        assert ratio <= gone < ratio + 0.1


def test_layers_that_the_model_reads_itself_are_left(data, context, tools) -> None:
    module, outcome = factorize(tools, made(Encoder), context(), energy=0.5)
    assert "hidden" in outcome.structure["layers"]
    assert not any(name.startswith("inner") for name in outcome.structure["layers"])
    inner = [f"'inner.layers.{i}.linear{j}'" for i in (0, 1) for j in (1, 2)]
    said = "left as they are, since the model reads weights or sizes itself: "
    assert outcome.notes[-1] == said + ", ".join(inner)
    # In evaluation, where the layer's own fast path is taken, and after what follows in a chain.
    assert np.isfinite(tools.run_module(module, data.test_x)).all()
    prune = TECHNIQUES.get("prune-structured")
    smaller, _ = prune().apply(module, tools.options_of("prune-structured", ratio=0.3), context())
    assert np.isfinite(tools.run_module(smaller, data.test_x)).all()
    with pytest.raises(BuildError, match=r"of the layer 'inner.layers.0.linear1' the model reads"):
        factorize(tools, made(Encoder), context(), layers=["inner.layers.0.linear1"])


def test_a_layer_that_is_asked_for_its_size_is_left(data, context, tools) -> None:
    module, outcome = factorize(tools, made(Sized), context(), energy=0.5)
    assert isinstance(module.second, nn.Conv2d)
    assert outcome.notes[-1].endswith("the model reads weights or sizes itself: 'second'")
    assert np.isfinite(tools.run_module(module, data.test_x)).all()
