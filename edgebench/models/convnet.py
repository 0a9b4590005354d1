"""A small network of plain or residual 3×3 convolutions, made to measure for integer kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import check_image, sequence, stride, whole_number

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (32, 64)
STRIDES = (1, 2)


@MODELS.register("convnet")
def convnet(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    stem: int = 32,
    stem_stride: int = 2,
    widths: Sequence[int] = WIDTHS,
    strides: Sequence[int] = STRIDES,
    residual: bool = True,
) -> nn.Module:
    """Student of 3×3 convolutions to measure: 77,866 parameters, 8.6 million MACs on 32×32 RGB.

    A 3×3 convolution of `stem` channels, then stages of `widths` channels and `strides` (1 or 2),
    the average, one dense layer. A stage is a residual block of two convolutions (He et al., 2016),
    or without `residual` a single convolution. Each has batch normalisation. On a processor with
    integer dot products, wide convolutions over few pixels are the fastest for what they can
    learn: hence the stride in the stem. `width` scales `stem` and `widths`.
    """
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, size: int, step: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, size, step, size // 2, bias=False), nn.BatchNorm2d(outputs)
        )

    class Residual(nn.Module):
        """Two convolutions beside the input, or beside its 1×1 projection."""

        def __init__(self, inputs: int, outputs: int, step: int) -> None:
            super().__init__()
            self.first = convolution(inputs, outputs, 3, step)
            self.relu = nn.ReLU()
            self.second = convolution(outputs, outputs, 3, 1)
            same = step == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, step)
            self.relu_out = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.second(self.relu(self.first(x)))
            result: torch.Tensor = self.relu_out(inner + self.shortcut(x))
            return result

    outputs = [whole_number("each of widths", each) for each in sequence("widths", widths)]
    steps = [stride("each of strides", each) for each in sequence("strides", strides)]
    if len(outputs) != len(steps):
        raise ModelError(
            f"widths names {len(outputs)} stages and strides {len(steps)}",
            hint="give both lists the same length",
        )
    if not isinstance(residual, bool):
        raise ModelError(f"residual must be true or false, not {residual!r}")
    first = stride("stem_stride", stem_stride)
    check_image("convnet", input_shape, int(math.log2(first * math.prod(steps))))
    current = scaled(whole_number("stem", stem), width)
    layers: list[nn.Module] = [convolution(input_shape[0], current, 3, first), nn.ReLU()]
    for channels, step in zip(outputs, steps, strict=True):
        inputs, current = current, scaled(channels, width)
        if residual:
            layers.append(Residual(inputs, current, step))
        else:
            layers += [convolution(inputs, current, 3, step), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(current, classes)
    )
