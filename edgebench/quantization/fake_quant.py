"""Layers that compute as the integer kernels will: fake quantization for training and export.

While training, values are rounded to the integer grid with straight-through gradients. For export
the same arithmetic is written as explicit quantize and dequantize operators on int8 tensors, which
ONNX Runtime and TensorRT turn into integer kernels.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import nn
from torch.nn import functional as F

from edgebench.quantization.half_precision import store_as_half
from edgebench.quantization.learned_steps import SMALLEST_SCALE, LearnedStep, round_to_steps

# How fast a range follows the batches.
MOMENTUM = 0.05
# Four-bit weights lie in [−7, 7], so that zero is in the middle.
INT4_LIMIT = 7


@dataclass(frozen=True)
class Grid:
    """The integers of activations and weights in one quantization format.

    `weight_limit`: weights lie in [−limit, limit].
    """

    low: int
    high: int
    dtype: torch.dtype
    symmetric: bool
    weight_limit: int


GRIDS = {
    # Seven-bit weights: without VNNI, x86 adds pairs of products in 16 bits, which saturate.
    "u8s8-reduced": Grid(0, 255, torch.uint8, False, 63),
    "u8s8": Grid(0, 255, torch.uint8, False, 127),
    "s8s8": Grid(-128, 127, torch.int8, False, 127),
    "s8s8-symmetric": Grid(-128, 127, torch.int8, True, 127),
}


@dataclass(frozen=True)
class Rounding:
    """How a network is rounded, whatever the format.

    `weight_bits`: 8 or 4; `activations`: whether they are rounded too; `learned`: step sizes are
    trained, else they follow the values; `per_channel`: one weight scale an output channel, else
    one a layer.
    """

    weight_bits: int = 8
    activations: bool = True
    learned: bool = False
    per_channel: bool = True

    def weight_limit(self, grid: Grid) -> int:
        """The largest integer of a weight."""
        return INT4_LIMIT if self.weight_bits == 4 else grid.weight_limit


PLAIN = Rounding()


class ActivationQuantizer(nn.Module):
    """Rounds an activation to its grid; the range is a moving average of the batches' extremes.

    With `learned`, only `calibrating` follows the batches; then the zero point stays, and the step
    size is trained as LSQ does. (A trained zero point as in LSQ+ would have to be rounded itself,
    since zero must be exact for padding; behind a ReLU it is the lowest integer whatever is
    learned.) `ceiling` is the largest value there is, where the layer before says so: a range
    beyond it could not take the place of the clipping.
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    seen: torch.Tensor
    magnitude: torch.Tensor
    zero: torch.Tensor

    def __init__(self, grid: Grid, *, learned: bool = False, ceiling: float | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.ceiling = ceiling
        self.calibrating = False
        # (scale, zero point, low, high, dtype) as plain numbers, once the range is final.
        self.frozen: tuple[float, int, int, int, torch.dtype] | None = None
        self.register_buffer("lowest", torch.zeros(()))
        self.register_buffer("highest", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))
        self.step: LearnedStep | None = None
        if learned:
            self.register_buffer("magnitude", torch.zeros(()))
            self.register_buffer("zero", torch.zeros((), dtype=torch.int32))
            self.step = LearnedStep(torch.Size())

    def scale_and_zero(self, features: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int32), both scalars. Zero is always exact.

        `features`: how many values of an example are rounded, for the gradient of a learned step.
        """
        if self.step is None or self.calibrating:
            return self._observed()
        scale = self.step(features)
        if self.ceiling is not None:
            widest = self.ceiling / (self.grid.high - self.zero)
            # The gradient still goes to the step, which would be stuck at the limit otherwise.
            scale = scale + (torch.minimum(scale, widest) - scale).detach()
        return scale, self.zero

    def _observed(self) -> tuple[torch.Tensor, torch.Tensor]:
        grid = self.grid
        low, high = self.lowest.clamp(max=0), self.highest.clamp(min=0)
        if grid.symmetric:
            scale = (torch.maximum(-low, high) / grid.high).clamp(min=SMALLEST_SCALE)
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        scale = ((high - low) / (grid.high - grid.low)).clamp(min=SMALLEST_SCALE)
        zero = (grid.low - low / scale).round().clamp(grid.low, grid.high)
        return scale, zero.to(torch.int32)

    def _follow(self, x: torch.Tensor) -> None:
        with torch.no_grad():
            momentum = torch.where(self.seen, MOMENTUM, 1.0)
            self.lowest.lerp_(x.amin(), momentum)
            self.highest.lerp_(x.amax(), momentum)
            if self.step is not None:
                self.magnitude.lerp_(x.abs().mean(), momentum)
            self.seen.fill_(True)

    def calibrated(self) -> None:
        """Start the learned step from what calibration saw."""
        if self.step is not None:
            scale, zero = self._observed()
            self.zero.copy_(zero)
            # A range that ends at zero has no integer above it, but some below.
            above = torch.maximum(self.grid.high - zero, zero - self.grid.low)
            self.step.start(self.magnitude, scale, above)

    def freeze(self) -> None:
        """Fix the range as plain numbers from now on, for export."""
        scale, zero = self.scale_and_zero()
        self.frozen = (
            float(scale.detach()),
            int(zero),
            self.grid.low,
            self.grid.high,
            self.grid.dtype,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation [N, ...], on the grid, in float32."""
        if self.frozen is not None:
            operators = torch.ops.quantized_decomposed
            stored = operators.quantize_per_tensor(x, *self.frozen)
            return cast("torch.Tensor", operators.dequantize_per_tensor(stored, *self.frozen))
        grid = self.grid
        x = _float32(x)
        if self.calibrating or (self.training and self.step is None):
            self._follow(x)
        scale, zero = self.scale_and_zero(features=x[:1].numel())
        if self.step is None or self.calibrating:
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, grid.low, grid.high)
        return round_to_steps(x, scale, zero, grid.low, grid.high)


class _QuantizedWeight(nn.Module):
    """The part convolutions and dense layers share: a weight on its grid."""

    weight: nn.Parameter
    weight_int8: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero: torch.Tensor

    def _adopt(self, layer: nn.Conv2d | nn.Linear, grid: Grid, rounding: Rounding) -> None:
        self.weight = nn.Parameter(layer.weight)
        self.bias = nn.Parameter(layer.bias) if layer.bias is not None else None
        self.bits = rounding.weight_bits
        self.limit = rounding.weight_limit(grid)
        self.per_channel = rounding.per_channel
        self.exporting = False
        self.layer_scale: float | None = None
        self.step: LearnedStep | None = None
        if rounding.learned:
            self.step = LearnedStep(self._largest().shape)
            self.calibrated()

    def _largest(self) -> torch.Tensor:
        """The largest size of a weight: [channels], or a scalar for the whole layer."""
        sizes = self.weight.detach().abs()
        return sizes.flatten(1).amax(dim=1) if self.per_channel else sizes.amax()

    def scales(self) -> torch.Tensor:
        """The scale: [channels], or a scalar for the whole layer."""
        if self.step is not None:
            features = self.weight.numel() // self.step.first.numel()
            return cast("torch.Tensor", self.step(features))
        return (self._largest() / self.limit).clamp(min=SMALLEST_SCALE)

    def calibrated(self) -> None:
        """Start the learned steps from the weights as they are."""
        if self.step is not None:
            sizes = self.weight.detach().abs()
            mean = sizes.flatten(1).mean(dim=1) if self.per_channel else sizes.mean()
            self.step.start(mean, self._largest() / self.limit, torch.tensor(self.limit))

    def quantized_weight(self) -> torch.Tensor:
        """The weight on its grid, in float32."""
        if self.exporting:
            return self._dequantized()
        scales, limit = self.scales(), self.limit
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        if self.step is not None:
            return round_to_steps(self.weight, scales, zeros, -limit, limit)
        if self.per_channel:
            return torch.fake_quantize_per_channel_affine(
                self.weight, scales, zeros, 0, -limit, limit
            )
        return torch.fake_quantize_per_tensor_affine(self.weight, scales, zeros, -limit, limit)

    def _dequantized(self) -> torch.Tensor:
        operators = torch.ops.quantized_decomposed
        span = (-128, 127, torch.int8)
        if self.layer_scale is not None:
            # A plain number: torch's exporter writes no scalar that is a tensor.
            result = operators.dequantize_per_tensor(self.weight_int8, self.layer_scale, 0, *span)
        else:
            result = operators.dequantize_per_channel(
                self.weight_int8, self.weight_scale, self.weight_zero, 0, *span
            )
        return cast("torch.Tensor", result)

    def freeze(self) -> None:
        """Store the weight as int8 from now on, for export."""
        scales = self.scales().detach()
        shape = (-1,) + (1,) * (self.weight.dim() - 1)
        integers = (self.weight.detach() / scales.view(shape)).round()
        integers = integers.clamp(-self.limit, self.limit).to(torch.int8)
        self.register_buffer("weight_int8", integers)
        if self.per_channel:
            self.register_buffer("weight_scale", scales)
            self.register_buffer("weight_zero", torch.zeros_like(scales, dtype=torch.int64))
        else:
            self.layer_scale = float(scales)
        self.exporting = True


class QuantizedConv2d(_QuantizedWeight):
    """A 2-D convolution whose weight is on its grid."""

    def __init__(self, layer: nn.Conv2d, grid: Grid, rounding: Rounding = PLAIN) -> None:
        super().__init__()
        self._adopt(layer, grid, rounding)
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.Conv2d`."""
        with _full_precision(x):
            return F.conv2d(
                _float32(x),
                self.quantized_weight(),
                self.bias,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
            )


class QuantizedLinear(_QuantizedWeight):
    """A dense layer whose weight is on its grid."""

    def __init__(self, layer: nn.Linear, grid: Grid, rounding: Rounding = PLAIN) -> None:
        super().__init__()
        self._adopt(layer, grid, rounding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.Linear`."""
        with _full_precision(x):
            return F.linear(_float32(x), self.quantized_weight(), self.bias)


def _full_precision(x: torch.Tensor) -> AbstractContextManager[None]:
    """Products of integers in float32: bfloat16 has too few digits for those of eight bits."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    # Nothing for the exporters to trace.
    return nullcontext()


def _float32(x: torch.Tensor) -> torch.Tensor:
    # Under autocast some activations arrive in bfloat16.
    return x if x.dtype == torch.float32 else x.float()


def calibrate(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Let the ranges of `module` see the batches, [N, ...] each; it is left in evaluation mode."""
    # The ranges alone learn here: dropout would draw, and stand in the way.
    module.eval()
    quantizers = activation_quantizers(module)
    for quantizer in quantizers:
        quantizer.calibrating = True
    with torch.no_grad():
        for batch in batches:
            module(batch)
    for quantizer in quantizers:
        quantizer.calibrating = False
        quantizer.calibrated()


def quantized_layers(module: nn.Module) -> list[QuantizedConv2d | QuantizedLinear]:
    """The layers of `module` whose weights are on a grid."""
    kinds = (QuantizedConv2d, QuantizedLinear)
    return [part for part in module.modules() if isinstance(part, kinds)]


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer]:
    """The quantizers of the activations of `module`."""
    return [part for part in module.modules() if isinstance(part, ActivationQuantizer)]


def prepare_for_export(module: nn.Module) -> None:
    """Switch `module` to integer operators and stored weights of its own format, in place."""
    for part in [*quantized_layers(module), *activation_quantizers(module)]:
        part.freeze()
    store_as_half(module)


def is_quantized(module: nn.Module) -> bool:
    """Whether `module` has fake-quantized parts."""
    return bool(quantized_layers(module) or activation_quantizers(module))
