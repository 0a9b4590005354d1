"""Fake quantization computes what the exported integers compute, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.quantization.fake_quant import (
    GRIDS,
    SMALLEST_SCALE,
    ActivationQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    Rounding,
    calibrate,
    is_quantized,
    prepare_for_export,
)
from edgebench.quantization.half_precision import half_format, round_to_half
from edgebench.quantization.learned_steps import LearnedStep, round_to_steps
from edgebench.quantization.quantized_graph import quantized_graph
from edgebench.training.loop import deterministic, predict

NAMES = list(GRIDS)


def test_seven_bit_weights_cannot_overflow_sixteen_bits() -> None:
    # x86 without VNNI adds two products of an activation and a weight in an int16.
    limit = np.iinfo(np.int16).max
    assert 2 * GRIDS["u8s8-reduced"].high * GRIDS["u8s8-reduced"].weight_limit <= limit
    assert 2 * GRIDS["u8s8"].high * GRIDS["u8s8"].weight_limit > limit


def observed(grid: str, *batches: torch.Tensor) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(GRIDS[grid])
    for batch in batches:
        quantizer(batch)
    return quantizer.eval()


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_lies_on_its_grid_and_zero_is_exact(name: str) -> None:
    grid = GRIDS[name]
    x = torch.linspace(-1.3, 2.7, 1001)
    quantizer = observed(name, x)
    scale, zero = quantizer.scale_and_zero()
    y = quantizer(x)
    integers = y / scale + zero
    assert torch.allclose(integers, integers.round(), atol=1e-3)
    assert integers.min() >= grid.low - 1e-3
    assert integers.max() <= grid.high + 1e-3
    assert float(quantizer(torch.zeros(1))) == 0.0
    assert float((y - x).abs().max()) <= float(scale) * 0.51
    assert grid.symmetric == (int(zero) == 0 and grid.low < 0)


@pytest.mark.parametrize("name", NAMES)
def test_values_beyond_the_range_are_clipped(name: str) -> None:
    quantizer = observed(name, torch.tensor([-1.0, 1.0]))
    clipped = quantizer(torch.tensor([-100.0, 100.0]))
    scale = float(quantizer.scale_and_zero()[0])
    assert clipped.tolist() == pytest.approx([-1.0, 1.0], abs=1.01 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_zero_divides_by_nothing(name: str) -> None:
    quantizer = observed(name, torch.zeros(4))
    assert float(quantizer.scale_and_zero()[0]) == pytest.approx(SMALLEST_SCALE)
    assert torch.equal(quantizer(torch.zeros(4)), torch.zeros(4))


def test_the_range_follows_the_batches_while_training_alone() -> None:
    quantizer = ActivationQuantizer(GRIDS["u8s8"])
    quantizer(torch.tensor([0.0, 1.0]))
    assert float(quantizer.highest) == 1.0
    quantizer(torch.tensor([0.0, 3.0]))
    assert float(quantizer.highest) == pytest.approx(1.1)
    quantizer.eval()
    quantizer(torch.tensor([-9.0, 9.0]))
    assert float(quantizer.highest) == pytest.approx(1.1)
    assert float(quantizer.lowest) == 0.0


def test_gradients_go_straight_through_inside_the_range() -> None:
    quantizer = observed("u8s8", torch.tensor([-1.0, 1.0]))
    x = torch.tensor([-5.0, -0.5, 0.3, 5.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["convolution", "dense"])
def test_a_weight_has_one_scale_a_channel(name: str, kind: str) -> None:
    grid = GRIDS[name]
    with deterministic(0):
        layer = nn.Conv2d(3, 5, 3) if kind == "convolution" else nn.Linear(7, 5)
    with torch.no_grad():
        layer.weight[1] *= 100
        layer.weight[2] = 0
    original = layer.weight.detach().clone()
    wrap = QuantizedConv2d if kind == "convolution" else QuantizedLinear
    quantized = wrap(layer, grid)
    fake = quantized.quantized_weight().detach()
    error = (fake - original).abs().flatten(1).amax(1)
    largest = original.abs().flatten(1).amax(1)
    assert torch.all(error <= largest / grid.weight_limit * 0.51)
    assert torch.equal(fake[2], torch.zeros_like(fake[2]))
    quantized.freeze()
    assert quantized.weight_int8.dtype == torch.int8
    assert int(quantized.weight_int8.abs().max()) == grid.weight_limit
    assert torch.allclose(quantized.quantized_weight(), fake, atol=1e-7, rtol=1e-6)


def network() -> nn.Module:
    with deterministic(3):
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, bias=False),
            nn.ReLU6(),
            nn.Flatten(),
            nn.Linear(72, 10),
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_integers_answer_as_fake_quantization_does(
    data, tools, tmp_path: Path, name: str
) -> None:
    x = torch.from_numpy(data.train_x[:64])
    module = quantized_graph(network(), GRIDS[name]).train()
    module(x)
    path = tmp_path / "model.onnx"
    export_onnx(module, data.train_x[:64], path, opset=20)
    check_integers(path, name)
    wanted = predict(module, x).numpy()
    # Without rewriting, the file is the arithmetic as it was written: a value in the middle between
    # two integers may fall to either side, once in a while and by one step.
    gap = np.abs(tools.run_onnx(path, data.train_x[:64], optimised=False) - wanted)
    step = steps_of_the_answer(module)
    assert gap.max() <= step
    assert np.median(gap) <= 0.02 * step
    # The integer kernels, too, where they cannot saturate.
    if name == "u8s8-reduced":
        gap = np.abs(tools.run_onnx(path, data.train_x[:64]) - wanted)
        assert gap.max() <= 2 * step


def steps_of_the_answer(module: nn.Module) -> float:
    """How far one step of every input of the last layer, each by its weight, moves an answer."""
    quantizers = [m for m in module.modules() if isinstance(m, ActivationQuantizer)]
    head = next(m for m in module.modules() if isinstance(m, QuantizedLinear))
    scale = float(quantizers[-1].scale_and_zero()[0])
    # A flip further up moves a few of the inputs by a step, not all.
    return scale * float(head.quantized_weight().detach().abs().amax()) * 8


def check_integers(path: Path, name: str) -> None:
    """The file holds int8 weights and activations of the format's types and zero points."""
    grid = GRIDS[name]
    graph = onnx.load(path).graph
    tensors = {t.name: t for t in graph.initializer}
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert len(weights) == 3
    assert all(np.abs(numpy_helper.to_array(t)).max() == grid.weight_limit for t in weights)
    zeros = {
        int(numpy_helper.to_array(tensors[node.input[2]]))
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    types = {
        tensors[node.input[2]].data_type for node in graph.node if node.op_type == "QuantizeLinear"
    }
    assert types == {TensorProto.UINT8 if grid.dtype == torch.uint8 else TensorProto.INT8}
    if grid.symmetric:
        assert zeros == {0}


def test_only_the_copy_for_export_is_frozen() -> None:
    module = quantized_graph(network(), GRIDS["u8s8"])
    assert is_quantized(module)
    assert not is_quantized(network())
    names = set(module.state_dict())
    prepare_for_export(module)
    assert set(module.state_dict()) > names


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_four_bits(per_channel: bool, learned: bool) -> None:
    rounding = Rounding(weight_bits=4, per_channel=per_channel, learned=learned)
    with deterministic(0):
        layer = QuantizedLinear(nn.Linear(50, 6), GRIDS["u8s8"], rounding)
    fake = layer.quantized_weight().detach()
    scales = layer.scales().detach()
    assert scales.numel() == (6 if per_channel else 1)
    integers = fake / scales.view(-1, 1) if per_channel else fake / scales
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert int(integers.abs().max().round()) == 7
    layer.freeze()
    assert torch.allclose(layer.quantized_weight(), fake, atol=1e-7, rtol=1e-6)


def test_the_gradient_of_a_learned_step_is_lsq_s() -> None:
    # Esser et al., equation 3, by hand: −v/s + round(v/s) inside, ±Qp beyond; times 1/√(N·Qp).
    step = LearnedStep(torch.Size())
    step.start(torch.tensor(10.0), torch.tensor(0.1), torch.tensor(7))
    assert float(step().detach()) == pytest.approx(0.1)
    x = torch.tensor([-3.0, -0.24, 0.26, 9.0, 8.0], requires_grad=True)
    y = round_to_steps(x, step(features=5), torch.tensor(0), -7, 7)
    assert y.tolist() == pytest.approx([-0.7, -0.2, 0.3, 0.7, 0.7])
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    lsq = (-7 + 0.4 + 0.4 + 7 + 7) / np.sqrt(5 * 7)
    assert step.log_ratio.grad is not None
    assert float(step.log_ratio.grad) == pytest.approx(lsq / 0.1, rel=1e-4)
    # So a small step of plain gradient descent changes the step size as the paper's would.
    rate = 1e-5
    with torch.no_grad():
        step.log_ratio -= rate * step.log_ratio.grad
    assert float(step().detach()) - 0.1 == pytest.approx(-rate * lsq, rel=1e-2)


def test_the_first_learned_step_is_lsq_s_and_never_beyond_the_largest_value() -> None:
    step = LearnedStep(torch.Size([2]))
    step.start(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.1]), torch.tensor(7))
    assert step().tolist() == pytest.approx([2 * 0.5 / np.sqrt(7), 0.1])


def learning(grid: str, x: torch.Tensor, ceiling: float | None = None) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(GRIDS[grid], learned=True, ceiling=ceiling)
    calibrate(quantizer, [x])
    return quantizer


@pytest.mark.parametrize("name", NAMES)
def test_the_zero_point_stays_as_calibrated_while_the_step_learns(name: str) -> None:
    x = torch.linspace(-1.3, 2.7, 1001).reshape(7, 143)
    quantizer = learning(name, x)
    _, before = quantizer.scale_and_zero()
    assert int(before) == int(observed(name, x).scale_and_zero()[1])
    quantizer.train()
    (quantizer(3 * x) - 3 * x).square().sum().backward()
    assert quantizer.step is not None
    with torch.no_grad():
        quantizer.step.log_ratio -= 0.1 * quantizer.step.log_ratio.grad.sign()
    scale, zero = quantizer.scale_and_zero()
    # Values beyond the range ask for a wider one, and batches alone change nothing.
    assert float(scale.detach()) > float(quantizer.step.first)
    assert int(zero) == int(before)
    assert float(quantizer.highest) == pytest.approx(2.7)
    y = quantizer(x).detach()
    assert torch.allclose(y / scale, (y / scale).round(), atol=1e-3)
    assert torch.equal(quantizer(torch.zeros(1, 1)), torch.zeros(1, 1))
    quantizer.freeze()
    assert torch.allclose(quantizer(x), y, atol=1e-6)


def test_a_learned_range_stays_within_what_the_activation_lets_through() -> None:
    quantizer = learning("u8s8", torch.linspace(0, 6, 100).reshape(1, 100), ceiling=6.0)
    assert quantizer.step is not None
    with torch.no_grad():
        quantizer.step.log_ratio += 1.0
    scale, zero = quantizer.scale_and_zero()
    assert float(scale.detach()) * (255 - int(zero)) == pytest.approx(6.0)
    # The step is not stuck there.
    quantizer(torch.linspace(0, 6, 100).reshape(1, 100)).sum().backward()
    assert float(quantizer.step.log_ratio.grad) != 0


@pytest.mark.parametrize("learned", [True, False])
def test_autocast_changes_nothing_on_the_grid(learned: bool) -> None:
    x = torch.rand(16, 1, 8, 8)
    module = quantized_graph(network(), GRIDS["u8s8"], Rounding(learned=learned))
    calibrate(module, [x])
    wanted = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        given = module(x)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, wanted)
        module.train()
        module(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_half_precision_rounds_forwards_and_not_backwards() -> None:
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1 + 2**-12, 1e6]]))
    assert half_format(layer) is None
    assert round_to_half(layer, "fp16", activations=True) == 3
    assert half_format(layer) == "fp16"
    # To nearest, and what fp16 cannot hold becomes its largest number.
    assert layer.weight.tolist() == [[1.0, 1.0, 65504.0]]
    layer.eval()
    assert float(layer(torch.tensor([1 + 2**-12, 0.0, 0.0])).detach()) == 1 + 2**-12
    layer.train()
    x = torch.tensor([1 + 2**-12, 2.0, 3e-5], requires_grad=True)
    y = layer(x)
    assert float(y.detach()) == float(y.detach().half())
    y.sum().backward()
    assert layer.parametrizations.weight.original.grad.tolist() == [x.tolist()]
    prepare_for_export(layer.eval())
    assert {p.dtype for p in layer.parameters()} == {torch.float16}
    assert layer.weight.tolist() == [[1.0, 1.0, 65504.0]]
