"""ResNet-18 (He et al., 2016) with the stem for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import check_image

if TYPE_CHECKING:
    from torch import nn

# Output channels and stride of the first of two blocks, stage by stage.
STAGES = [(64, 1), (128, 2), (256, 2), (512, 2)]


@MODELS.register("resnet18")
def resnet18(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """ResNet-18 with a 3×3 stem and no first pooling: 11,220,132 parameters for 100 classes.

    Of "Knowledge Distillation, the Functional Perspective", and 11,173,962 for 10 classes; 9,600
    running statistics beside them. `width` scales the channels. Images have 5×5 pixels or more.
    """
    import torch
    from torch import nn

    class Residual(nn.Module):
        """Two 3×3 convolutions beside the input, or beside its 1×1 projection."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.first_norm = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.second_norm = nn.BatchNorm2d(outputs)
            self.shortcut: nn.Module = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            self.relu_out = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.relu(self.first_norm(self.first(x)))
            inner = self.second_norm(self.second(inner))
            result: torch.Tensor = self.relu_out(inner + self.shortcut(x))
            return result

    check_image("resnet18", input_shape, 3)
    current = scaled(64, width)
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], current, 3, 1, 1, bias=False),
        nn.BatchNorm2d(current),
        nn.ReLU(),
    ]
    for channels, stride in STAGES:
        outputs = scaled(channels, width)
        layers += [Residual(current, outputs, stride), Residual(outputs, outputs, 1)]
        current = outputs
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(current, classes)
    )
