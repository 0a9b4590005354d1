"""Layers keep their modules' names in the file, which is what `exclude` finds them by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.base import MODELS
from edgebench.quantization.prepare import named_copy
from edgebench.training.loop import deterministic


def names(path: Path, folder: Path) -> list[str]:
    return [layer.name for layer in named_copy(path, folder / "named.onnx").layers]


def test_every_layer_of_a_transformer_has_its_name(data, context, tools, tmp_path: Path) -> None:
    """Torch transposes the weights of dense layers on tokens, and gives them names of its own."""
    with deterministic(0):
        module = MODELS.get("vit")(data.input_shape, data.classes, dim=16, depth=1).eval()
    source = tmp_path / "vit.onnx"
    export_onnx(module, data.test_x[:8], source, opset=20)
    onnx.checker.check_model(str(source), full_check=True)
    kinds = (nn.Conv2d, nn.Linear)
    layers = [n for n, layer in module.named_modules() if isinstance(layer, kinds)]
    assert names(source, tmp_path) == layers
    path = tmp_path / "int8.onnx"
    ptq, excluded = tools.TECHNIQUES.get("ptq"), ["blocks.0.attention.qkv", "blocks.0.dense.3"]
    outcome = ptq().apply(source, path, tools.options_of("ptq", exclude=excluded), context())
    assert outcome.notes[1].startswith(f"{len(layers) - 2} of {len(layers)} convolutions")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name in excluded:
        weight = module.get_submodule(name).weight.detach().numpy()
        np.testing.assert_array_equal(stored[f"{name}.weight"], weight.T)


class Tokens(nn.Module):
    """Dense layers on rows: one twice, one whose matrix is a parameter, and attention."""

    def __init__(self) -> None:
        super().__init__()
        with deterministic(0):
            self.twice = nn.Linear(8, 8)
            self.matrix = nn.Parameter(torch.randn(8, 8))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1, 2)
        x = self.twice(self.twice(x).relu()) @ self.matrix
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_what_has_a_name_keeps_it(data, tmp_path: Path) -> None:
    source = tmp_path / "tokens.onnx"
    export_onnx(Tokens().eval(), data.test_x[:8], source, opset=20)
    found = names(source, tmp_path)
    assert found[:2] == ["twice", "twice"]
    assert found[3:] == ["attention", "attention.out_proj", "head"]
    weights = [n.input[1] for n in onnx.load(source).graph.node if n.op_type == "MatMul"]
    assert weights[2] == "matrix"
