"""VGG-11, -16 and -19 (Simonyan and Zisserman, 2015), as they are and for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebench.errors import ModelError
from edgebench.models.base import MODELS, scaled
from edgebench.models.checks import need_pixels
from edgebench.models.initial_weights import he_initialise

if TYPE_CHECKING:
    from torch import nn

# Output channels of the five stages, each of which ends in a pooling.
CHANNELS = (64, 128, 256, 512, 512)
HEADS = ("classic", "small")
SMALLEST = 2 ** len(CHANNELS)
# Edge of the map that the classic head reads.
CLASSIC_EDGE = 7


@MODELS.register("vgg11")
def vgg11(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    head: str = "classic",
) -> nn.Module:
    """VGG-11 without batch normalisation: 129,176,036 parameters for 100 classes.

    With the classic head it is the network that "Advanced ML PA3" (Anwar and Khan) compresses and
    distils on CIFAR-100: its 492.77 MiB are this count in float32. `head`: see `vgg16`; "small" has
    9,797,092 parameters for 100 classes. `width` scales the channels and the head. Images have
    32×32 pixels or more.
    """
    return _vgg("vgg11", (1, 1, 2, 2, 2), input_shape, classes, width, head=head, norm=False)


@MODELS.register("vgg16")
def vgg16(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    head: str = "classic",
) -> nn.Module:
    """VGG-16 without batch normalisation: 134,670,244 parameters for 100 classes.

    `head`: "classic" brings the last map to 7×7 and has two dense layers of 4,096, as the original
    for 224×224 pixels (dropout of a half after each); "small" averages the map to one pixel and has
    two dense layers of 512, a usual form for CIFAR (15,291,300; the same dropout). `width` scales
    the channels and the head. Images have 32×32 pixels or more.
    """
    return _vgg("vgg16", (2, 2, 3, 3, 3), input_shape, classes, width, head=head, norm=False)


@MODELS.register("vgg19")
def vgg19(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    head: str = "classic",
) -> nn.Module:
    """VGG-19 without batch normalisation: 139,979,940 parameters for 100 classes.

    `head`: see `vgg16`; "small" has 20,600,996. `width` scales the channels and the head. Images
    have 32×32 pixels or more.
    """
    return _vgg("vgg19", (2, 2, 4, 4, 4), input_shape, classes, width, head=head, norm=False)


@MODELS.register("vgg16-bn")
def vgg16_bn(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    width: float = 1.0,
    *,
    head: str = "small",
) -> nn.Module:
    """VGG-16 with batch normalisation and the small head: 15,299,748 parameters for 100 classes.

    "Knowledge Distillation, the Functional Perspective" trains a VGG-16-BN on CIFAR-100 and says
    neither its head nor its size; the small head is our choice. `head`: see `vgg16`; "classic" has
    134,678,692. 8,448 running statistics beside them. `width` scales the channels and the head.
    Images have 32×32 pixels or more.
    """
    return _vgg("vgg16-bn", (2, 2, 3, 3, 3), input_shape, classes, width, head=head, norm=True)


def _vgg(
    name: str,
    depths: tuple[int, ...],
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    *,
    head: str,
    norm: bool,
) -> nn.Module:
    """A VGG with `depths` convolutions in its five stages."""
    from torch import nn

    need_pixels(name, input_shape, SMALLEST)
    if head not in HEADS:
        raise ModelError(f"head must be 'classic' or 'small', not {head!r}")
    current = input_shape[0]
    layers: list[nn.Module] = []
    for channels, depth in zip(CHANNELS, depths, strict=True):
        for _ in range(depth):
            outputs = scaled(channels, width)
            layers.append(nn.Conv2d(current, outputs, 3, padding=1))
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers.append(nn.ReLU())
            current = outputs
        layers.append(nn.MaxPool2d(2))
    edge, wide = (CLASSIC_EDGE, 4096) if head == "classic" else (1, 512)
    hidden = scaled(wide, width)
    return he_initialise(
        nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(edge),
            nn.Flatten(),
            nn.Linear(current * edge * edge, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )
    )
