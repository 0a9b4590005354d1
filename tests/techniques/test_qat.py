"""Quantization-aware training: in the target's format, and better for the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.techniques.base import TECHNIQUES
from edgebench.quantization.fake_quant import GRIDS, Grid
from edgebench.training.loop import deterministic

QAT = TECHNIQUES.get("qat")


def train(tools, module: nn.Module, context, **options):
    return QAT().apply(module, tools.options_of("qat", **options), context)


@pytest.mark.parametrize("int8", ["u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric"])
def test_every_format_keeps_the_accuracy(
    data, network, context, tools, tmp_path: Path, int8: str
) -> None:
    before = tools.accuracy(tools.run_module(network("lenet"), data.test_x), data.test_y)
    module, outcome = train(tools, network("lenet"), context(int8=int8), epochs=2)
    assert outcome.notes == [f"int8 format {int8}"]
    assert not any(part.training for part in module.modules())
    export_onnx(module, data.test_x[:32], tmp_path / "model.onnx", opset=20)
    answers = tools.run_onnx(tmp_path / "model.onnx", data.test_x, optimised=False)
    assert tools.accuracy(answers, data.test_y) > before - 0.05


def test_training_on_the_grid_beats_rounding_to_it(
    data, network, context, tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a far coarser grid than int8, so that rounding really costs.
    monkeypatch.setitem(GRIDS, "u8s8", Grid(0, 15, torch.uint8, False, 3))

    def accuracy(**options) -> float:
        module, _ = train(tools, network("lenet"), context(int8="u8s8"), **options)
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    assert accuracy(epochs=8, learning_rate=5e-3) > accuracy(epochs=1, learning_rate=1e-9) + 0.03


def test_dropout_before_a_range_draws_nothing(data, context, tools) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        with deterministic(0):
            module = nn.Sequential(
                nn.Dropout(0.5), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
            )
        torch.manual_seed(seed)
        return train(tools, module, context(), epochs=1)[0].state_dict()

    one, other = trained(1), trained(2)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_module_that_was_given_may_go_on(network, context, tools) -> None:
    module = network("resnet8")
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    train(tools, module, context(), epochs=1)
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


def test_a_target_without_int8(network, context, tools) -> None:
    with pytest.raises(BuildError, match="the target runs no int8; see 'precisions'"):
        train(tools, network("lenet"), context(precisions=("fp32",)))
