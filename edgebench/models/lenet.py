"""LeNet of "Neural Network Compression: the Functional Perspective" (two convolutions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.models.base import MODELS, scaled

if TYPE_CHECKING:
    from torch import nn

# Two unpadded 3×3 convolutions with pooling leave nothing of an image smaller than this.
SMALLEST_UNPADDED = 10


@MODELS.register("lenet")
def lenet(
    input_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: float = 1.0
) -> nn.Module:
    """Convolution 32, pool, convolution 64, pool, dense 128, dense: 225,034 parameters on MNIST.

    `width` scales the channels. Images smaller than 10 pixels (scikit-learn's digits are 8×8) are
    padded in the convolutions; all others are not, as in the paper.
    """
    from torch import nn

    channels, height, breadth = input_shape
    small = min(height, breadth) < SMALLEST_UNPADDED
    if min(height, breadth) < 4:
        raise ModelError(f"lenet needs images of at least 4×4 pixels, not {height}×{breadth}")

    def after(size: int) -> int:
        """What is left of an edge after convolution and pooling."""
        return (size if small else size - 2) // 2

    first, second, hidden = (scaled(c, width) for c in (32, 64, 128))
    padding = 1 if small else 0
    left = after(after(height)) * after(after(breadth))
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * left, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
