"""A small network of depthwise-separable convolutions, made to measure for edge processors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import check_image, sequence, stride, whole_number

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (48, 48, 96, 96, 192, 192)
STRIDES = (1, 1, 2, 1, 2, 1)


@MODELS.register("dscnn")
def dscnn(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    stem: int = 24,
    stem_stride: int = 2,
    widths: Sequence[int] = WIDTHS,
    strides: Sequence[int] = STRIDES,
    residual: bool = False,
) -> nn.Module:
    """Depthwise-separable student to measure: 82,090 parameters, 3.1 million MACs on 32×32 RGB.

    The blocks are MobileNetV1's (Howard et al., 2017) and the shape is DS-CNN's (Zhang et al.,
    2017): a 3×3 convolution of `stem` channels, blocks of `widths` channels and `strides` (1 or
    2), the average, one dense layer. Each convolution has batch normalisation and ReLU. `residual`
    adds the input of a block before its last ReLU, where it has the output's shape. `width` scales
    `stem` and `widths`.
    """
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, size: int, step: int, groups: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, size, step, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        )

    class Separable(nn.Module):
        """A 3×3 convolution of each channel, then a 1×1 convolution of all of them."""

        def __init__(self, inputs: int, outputs: int, step: int) -> None:
            super().__init__()
            self.depthwise = convolution(inputs, inputs, 3, step, inputs)
            self.relu = nn.ReLU()
            self.pointwise = convolution(inputs, outputs, 1, 1, 1)
            self.relu_out = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.relu_out(self.pointwise(self.relu(self.depthwise(x))))
            return result

    class Residual(Separable):
        """The same, beside its input."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.pointwise(self.relu(self.depthwise(x)))
            result: torch.Tensor = self.relu_out(inner + x)
            return result

    outputs = [whole_number("each of widths", each) for each in sequence("widths", widths)]
    steps = [stride("each of strides", each) for each in sequence("strides", strides)]
    if len(outputs) != len(steps):
        raise ModelError(
            f"widths names {len(outputs)} blocks and strides {len(steps)}",
            hint="give both lists the same length",
        )
    if not isinstance(residual, bool):
        raise ModelError(f"residual must be true or false, not {residual!r}")
    first = stride("stem_stride", stem_stride)
    check_image("dscnn", input_shape, int(math.log2(first * math.prod(steps))))
    current = scaled(whole_number("stem", stem), width)
    layers = [convolution(input_shape[0], current, 3, first, 1), nn.ReLU()]
    for channels, step in zip(outputs, steps, strict=True):
        inputs, current = current, scaled(channels, width)
        beside = residual and step == 1 and inputs == current
        layers.append((Residual if beside else Separable)(inputs, current, step))
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(current, classes)
    )
