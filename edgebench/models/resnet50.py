"""ResNet-50 v1 (He et al., 2016), with the dense head of the functional-perspective papers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import check_image

if TYPE_CHECKING:
    from torch import nn

# Channels inside the bottlenecks, stride of the first of them, and how many, stage by stage.
STAGES = [(64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3)]
# A bottleneck's output has four times the channels of its inside.
EXPANSION = 4


@MODELS.register("resnet50")
def resnet50(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """ResNet-50 v1 with a dense layer of 512 before the last: 24,634,980 parameters, 100 classes.

    Of "Neural Network Compression: the Functional Perspective" (24,588,810 for 10 classes), after
    Keras: 7×7 stem of stride 2, pooling, 3-4-6-3 bottlenecks whose stride is in the first 1×1
    convolution, biases in all convolutions, 53,120 running statistics. `width` scales the channels
    and the dense layer. Images have 17×17 pixels or more.
    """
    import torch
    from torch import nn

    class Bottleneck(nn.Module):
        """1×1, 3×3 and 1×1 convolutions beside the input, or beside its 1×1 projection."""

        def __init__(self, inputs: int, inside: int, outputs: int, stride: int, project: bool):
            super().__init__()
            self.reduce = nn.Conv2d(inputs, inside, 1, stride)
            self.reduce_norm = nn.BatchNorm2d(inside)
            self.reduce_relu = nn.ReLU()
            self.spatial = nn.Conv2d(inside, inside, 3, 1, 1)
            self.spatial_norm = nn.BatchNorm2d(inside)
            self.spatial_relu = nn.ReLU()
            self.expand = nn.Conv2d(inside, outputs, 1)
            self.expand_norm = nn.BatchNorm2d(outputs)
            self.shortcut: nn.Module = nn.Identity()
            if project:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
                )
            self.relu_out = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.reduce_relu(self.reduce_norm(self.reduce(x)))
            inner = self.spatial_relu(self.spatial_norm(self.spatial(inner)))
            inner = self.expand_norm(self.expand(inner))
            result: torch.Tensor = self.relu_out(inner + self.shortcut(x))
            return result

    check_image("resnet50", input_shape, 5)
    current = scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], current, 7, 2, 3),
        nn.BatchNorm2d(current),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for channels, stride, count in STAGES:
        inside, outputs = scaled(channels, width), scaled(EXPANSION * channels, width)
        for index in range(count):
            first = index == 0
            layers.append(Bottleneck(current, inside, outputs, stride if first else 1, first))
            current = outputs
    hidden = scaled(512, width)
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(current, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
