"""Whole attention heads go, and the network runs on, in torch and as a file."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.base import MODELS
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic

PRUNE = TECHNIQUES.get("prune-structured")


def prune(tools, module: nn.Module, context, **options):
    return PRUNE().apply(module, tools.options_of("prune-structured", **options), context)


def small_vit(data) -> nn.Module:
    with deterministic(0):
        return MODELS.get("vit")(data.input_shape, data.classes, dim=16, depth=2, patch=4)


@pytest.mark.parametrize("allocation", ["local", "global"])
def test_heads_go(data, context, tools, allocation: str) -> None:
    module = small_vit(data)
    pruned, outcome = prune(
        tools,
        deepcopy(module),
        context(),
        ratio=0.4,
        heads=0.5,
        importance="taylor",
        allocation=allocation,
    )
    left = [block.attention.num_heads for block in pruned.blocks]
    assert sum(left) == 4
    assert min(left) >= 1
    assert "4 of 8 attention heads went" in outcome.notes
    for block in pruned.blocks:
        inner = block.attention
        # With heads to go, those that stay keep their width.
        assert inner.head_dim == 4
        assert inner.qkv.out_features == 3 * inner.num_heads * inner.head_dim
    options = tools.options_of("prune-structured", ratio=0.4, heads=0.5)
    structure = json.loads(json.dumps(outcome.structure))
    again = PRUNE().restructure(deepcopy(module), options, structure, context())
    again.load_state_dict(pruned.state_dict())
    wanted = tools.run_module(pruned, data.test_x)
    np.testing.assert_array_equal(tools.run_module(again, data.test_x), wanted)


def test_a_vision_transformer_with_fewer_heads_runs_as_a_file(
    data, context, tools, tmp_path: Path
) -> None:
    module, _ = prune(tools, small_vit(data), context(), ratio=0.3, heads=0.5)
    # export_onnx compares ONNX Runtime's answers with torch's.
    export_onnx(module, data.test_x[:32], tmp_path / "vit.onnx", opset=20)
    wanted = tools.run_module(module, data.test_x)
    given = tools.run_onnx(tmp_path / "vit.onnx", data.test_x)
    np.testing.assert_allclose(given, wanted, atol=1e-4)


def test_heads_alone(data, context, tools) -> None:
    pruned, outcome = prune(tools, small_vit(data), context(), ratio=None, heads=0.25)
    assert [b.attention.num_heads for b in pruned.blocks] == [3, 3]
    assert pruned.embedding.out_channels == 16
    assert not any(" channels went " in note for note in outcome.notes)


def test_heads_that_cannot_go_are_said(data, network, context, tools) -> None:
    class BuiltIn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Linear(8, 12)
            self.mix = nn.MultiheadAttention(12, 4, batch_first=True)
            self.head = nn.Linear(12, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.rows(x.squeeze(1))
            return self.head((x + self.mix(x, x, x, need_weights=False)[0]).mean(1))

    with pytest.raises(BuildError, match=r"heads of 'mix' cannot go: torch's own MultiheadAtt"):
        prune(tools, BuiltIn(), context(), ratio=0.5, heads=0.5)
    pruned, _ = prune(tools, BuiltIn(), context(), ratio=0.3)
    assert (pruned.mix.embed_dim, pruned.mix.num_heads, pruned.mix.head_dim) == (8, 4, 2)
    with pytest.raises(BuildError, match="there is no attention whose heads could go"):
        prune(tools, network("lenet"), context(), ratio=None, heads=0.5)
    single = MODELS.get("vit")(data.input_shape, data.classes, dim=8, depth=1, patch=2, heads=1)
    with pytest.raises(BuildError, match="each attention has a single head"):
        prune(tools, single, context(), ratio=None, heads=0.5)
