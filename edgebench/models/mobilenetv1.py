"""MobileNetV1 (Howard et al., 2017), with the dense head of the functional-perspective papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.models.base import MODELS, scaled

if TYPE_CHECKING:
    from torch import nn

# Output channels and stride of the 13 depthwise-separable blocks.
BLOCKS = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
]


@MODELS.register("mobilenetv1")
def mobilenetv1(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """MobileNetV1 with a dense layer of 512 before the last; 3,736,906 parameters for 10 classes.

    `width` scales the channels (the paper's α).
    """
    from torch import nn

    def convolution(
        inputs: int, outputs: int, size: int, stride: int, groups: int
    ) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        ]

    current = scaled(32, width)
    layers = convolution(input_shape[0], current, 3, 2, 1)
    for outputs, stride in BLOCKS:
        layers += convolution(current, current, 3, stride, current)
        layers += convolution(current, scaled(outputs, width), 1, 1, 1)
        current = scaled(outputs, width)
    hidden = scaled(512, width)
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(current, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
