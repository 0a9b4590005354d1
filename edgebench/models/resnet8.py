"""ResNet-8 of MLPerf Tiny (Banbury et al., 2021): the image-classification reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.models.base import MODELS, scaled

if TYPE_CHECKING:
    from torch import nn


@MODELS.register("resnet8")
def resnet8(
    input_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels; `width` scales them.

    On 32×32 RGB and 10 classes it has the 78,666 numbers MLPerf Tiny counts: 78,186 parameters and
    480 running statistics. Its convolutions have biases, as the reference's have; padding of the
    strided ones is symmetric, where the reference (Keras, "same") pads below and right alone.
    """
    import torch
    from torch import nn

    class Residual(nn.Module):
        """Two 3×3 convolutions beside the input, or beside its 1×1 projection."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
            self.first_norm = nn.BatchNorm2d(outputs)
            self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.second_norm = nn.BatchNorm2d(outputs)
            self.shortcut: nn.Module = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
            self.relu = nn.ReLU()
            self.relu_out = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.relu(self.first_norm(self.first(x)))
            inner = self.second_norm(self.second(inner))
            result: torch.Tensor = self.relu_out(inner + self.shortcut(x))
            return result

    a, b, c = (scaled(channels, width) for channels in (16, 32, 64))
    return nn.Sequential(
        nn.Conv2d(input_shape[0], a, 3, 1, 1),
        nn.BatchNorm2d(a),
        nn.ReLU(),
        Residual(a, a, 1),
        Residual(a, b, 2),
        Residual(b, c, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(c, classes),
    )
