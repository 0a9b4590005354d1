"""Augmentation of image batches, drawn from a generator so that a training can be repeated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgebench.errors import BuildError
from edgebench.training_settings import Augment, Jitter

if TYPE_CHECKING:
    import torch

# Luma of ITU-R BT.601: how bright red, green and blue look.
LUMA = (0.299, 0.587, 0.114)
# From red, green and blue to luma and two colour differences, in which a hue is an angle (NTSC).
TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def check_images(shape: tuple[int, ...], how: Augment) -> None:
    """Raise BuildError where inputs of this shape cannot be augmented, or would not change."""
    if len(shape) != 4:
        raise BuildError(
            f"augmentation needs images [N, C, H, W], and the first input has the shape {shape}",
            hint="leave out training.augment",
        )
    _, channels, height, width = shape
    if how.crop >= min(height, width):
        raise BuildError(
            f"a crop of {how.crop} shifts images of {height}x{width} out of sight",
            hint=f"set training.augment.crop below {min(height, width)}",
        )
    strength = how.jitter
    if channels != 3 and strength is not None and not (strength.brightness or strength.contrast):
        raise BuildError(
            f"saturation and hue need images of three channels, and these have {channels}: the "
            "jitter would change nothing",
            hint="set brightness or contrast in training.augment.jitter, or leave it out",
        )


def augment(images: torch.Tensor, how: Augment, generator: torch.Generator) -> torch.Tensor:
    """The images [B, C, H, W] in [0, 1], each changed by draws of its own.

    The draws are made on the processor whatever device the images lie on, so that they do not
    depend on it.
    """
    if how.flip:
        images = _flip(images, generator)
    if how.crop:
        images = _shift(images, how.crop, generator)
    if how.jitter is not None:
        images = jitter(images, how.jitter, generator)
    return images


def _flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    import torch

    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def _shift(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Pad with zeros and cut the original size out at a random place."""
    import torch

    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (most,) * 4)
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height)).view(count, 1, height, 1)
    columns = (offsets[1] + torch.arange(width)).view(count, 1, 1, width)
    example = torch.arange(count).view(count, 1, 1, 1)
    channel = torch.arange(channels).view(1, channels, 1, 1)
    places = (place.to(images.device) for place in (example, channel, rows, columns))
    return padded[tuple(places)]


def jitter(images: torch.Tensor, how: Jitter, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and keep to [0, 1].

    Contrast is about the mean grey of the image, saturation about the grey of each pixel. Images
    of another number of channels than three keep saturation and hue; their grey is the mean of the
    channels.
    """
    import torch

    def factor(strength: float) -> torch.Tensor:
        drawn = torch.rand((len(images), 1, 1, 1), generator=generator)
        return (1 + strength * (2 * drawn - 1)).to(images.device)

    coloured = images.shape[1] == 3
    weights = images.new_tensor(LUMA if coloured else [1 / images.shape[1]] * images.shape[1])

    def grey(pictures: torch.Tensor) -> torch.Tensor:
        return (pictures * weights.view(1, -1, 1, 1)).sum(1, keepdim=True)

    images = (images * factor(how.brightness)).clamp(0, 1)
    middle = grey(images).mean((1, 2, 3), keepdim=True)
    images = torch.lerp(middle, images, factor(how.contrast)).clamp(0, 1)
    strength = factor(how.saturation)
    turns = factor(how.hue) - 1
    if coloured:
        images = torch.lerp(grey(images), images, strength).clamp(0, 1)
        if how.hue:
            images = turn_hue(images, turns).clamp(0, 1)
    return images


def turn_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn the hue of images [B, 3, H, W] by `turns` [B, 1, 1, 1] of the colour circle.

    The luma stays, and no value is cut off.
    """
    import torch

    forward = images.new_tensor(TO_YIQ)
    cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    luma, first, second = torch.einsum("ij,bjhw->ibhw", forward, images).unsqueeze(2)
    turned = torch.cat([luma, cos * first - sin * second, sin * first + cos * second], 1)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(forward), turned)
