"""Modules that compute as the integer kernels will: fake quantization for training and export.

While training, values are rounded to the integer grid with straight-through gradients. For export
the same arithmetic is written as explicit quantize and dequantize operators on int8 tensors, which
ONNX Runtime and TensorRT turn into integer kernels.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import nn
from torch.nn import functional as F

# How fast a range follows the batches.
MOMENTUM = 0.05
# A range narrower than this would divide by zero.
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True)
class Grid:
    """The integers of activations and weights in one quantization format.

    `weight_limit`: weights lie in [−limit, limit], one scale an output channel.
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


class ActivationQuantizer(nn.Module):
    """Rounds an activation to its grid; the range is a moving average of the batches' extremes."""

    lowest: torch.Tensor
    highest: torch.Tensor
    seen: torch.Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        # (scale, zero point, low, high, dtype) as plain numbers, once the range is final.
        self.frozen: tuple[float, int, int, int, torch.dtype] | None = None
        self.register_buffer("lowest", torch.zeros(()))
        self.register_buffer("highest", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def scale_and_zero(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int32), both scalars. Zero is always exact."""
        grid = self.grid
        low, high = self.lowest.clamp(max=0), self.highest.clamp(min=0)
        if grid.symmetric:
            scale = (torch.maximum(-low, high) / grid.high).clamp(min=SMALLEST_SCALE)
            return scale, torch.zeros((), dtype=torch.int32)
        scale = ((high - low) / (grid.high - grid.low)).clamp(min=SMALLEST_SCALE)
        zero = (grid.low - low / scale).round().clamp(grid.low, grid.high)
        return scale, zero.to(torch.int32)

    def freeze(self) -> None:
        """Fix the range as plain numbers from now on, for export."""
        scale, zero = self.scale_and_zero()
        self.frozen = (float(scale), int(zero), self.grid.low, self.grid.high, self.grid.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation [any shape], on the grid."""
        if self.frozen is not None:
            operators = torch.ops.quantized_decomposed
            stored = operators.quantize_per_tensor(x, *self.frozen)
            return cast("torch.Tensor", operators.dequantize_per_tensor(stored, *self.frozen))
        grid = self.grid
        if self.training:
            with torch.no_grad():
                low, high = x.amin(), x.amax()
                momentum = torch.where(self.seen, MOMENTUM, 1.0)
                self.lowest.lerp_(low, momentum)
                self.highest.lerp_(high, momentum)
                self.seen.fill_(True)
        scale, zero = self.scale_and_zero()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, grid.low, grid.high)


class _QuantizedWeight(nn.Module):
    """The part convolutions and dense layers share: a weight on its grid, one scale a channel."""

    weight: nn.Parameter
    weight_int8: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero: torch.Tensor

    def _adopt(self, layer: nn.Conv2d | nn.Linear, grid: Grid) -> None:
        self.weight = nn.Parameter(layer.weight)
        self.bias = nn.Parameter(layer.bias) if layer.bias is not None else None
        self.limit = grid.weight_limit
        self.exporting = False

    def channel_scales(self) -> torch.Tensor:
        """One scale an output channel, [channels]."""
        flat = self.weight.detach().abs().flatten(1)
        return (flat.amax(dim=1) / self.limit).clamp(min=SMALLEST_SCALE)

    def quantized_weight(self) -> torch.Tensor:
        """The weight on its grid, in float32."""
        if self.exporting:
            dequantized = torch.ops.quantized_decomposed.dequantize_per_channel(
                self.weight_int8,
                self.weight_scale,
                self.weight_zero,
                0,
                -128,
                127,
                torch.int8,
            )
            return cast("torch.Tensor", dequantized)
        scales = self.channel_scales()
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            self.weight, scales, zeros, 0, -self.limit, self.limit
        )

    def freeze(self) -> None:
        """Store the weight as int8 from now on, for export."""
        scales = self.channel_scales()
        shape = (-1,) + (1,) * (self.weight.dim() - 1)
        integers = (self.weight.detach() / scales.view(shape)).round()
        integers = integers.clamp(-self.limit, self.limit).to(torch.int8)
        self.register_buffer("weight_int8", integers)
        self.register_buffer("weight_scale", scales)
        self.register_buffer("weight_zero", torch.zeros_like(scales, dtype=torch.int64))
        self.exporting = True


class QuantizedConv2d(_QuantizedWeight):
    """A 2-D convolution whose weight is on its grid."""

    def __init__(self, layer: nn.Conv2d, grid: Grid) -> None:
        super().__init__()
        self._adopt(layer, grid)
        self.stride, self.padding = layer.stride, layer.padding
        self.dilation, self.groups = layer.dilation, layer.groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.Conv2d`."""
        return F.conv2d(
            x,
            self.quantized_weight(),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class QuantizedLinear(_QuantizedWeight):
    """A dense layer whose weight is on its grid."""

    def __init__(self, layer: nn.Linear, grid: Grid) -> None:
        super().__init__()
        self._adopt(layer, grid)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `torch.nn.Linear`."""
        return F.linear(x, self.quantized_weight(), self.bias)


def prepare_for_export(module: nn.Module) -> None:
    """Switch every fake-quantized part of `module` to explicit integer operators, in place."""
    for part in module.modules():
        if isinstance(part, (_QuantizedWeight, ActivationQuantizer)):
            part.freeze()


def is_quantized(module: nn.Module) -> bool:
    """Whether `module` has fake-quantized parts."""
    return any(
        isinstance(part, (_QuantizedWeight, ActivationQuantizer)) for part in module.modules()
    )
