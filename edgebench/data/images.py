"""Encoded images to arrays, with Pillow, one size and one number of channels for all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgebench.data.base import Floats, Indices
from edgebench.errors import DataError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

# Only formats that are plain pixels: Pillow's EPS reader, for one, starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
)

GREY_MODES = frozenset(("1", "L", "LA", "La"))
# Pillow cuts these to 8 bits by clipping, which turns most of the image white.
DEEP_MODES = frozenset(("I", "F", "I;16", "I;16B", "I;16L", "I;16N"))


class Encoded(Protocol):
    """A sequence of encoded images that knows what to call each in a message."""

    def __len__(self) -> int: ...

    def payload(self, index: int) -> bytes:
        """The bytes of one image file; raises DataError where they cannot be had."""
        ...

    def where(self, index: int) -> str:
        """The file, or the file and row, of one image."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images that are files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def payload(self, index: int) -> bytes:
        """The content of the file."""
        try:
            return self.paths[index].read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot be read: {error.strerror or error}", where=self.where(index)
            ) from error

    def where(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])


@dataclass(frozen=True)
class Form:
    """What all images of a data set have in common: size in pixels, and 1 or 3 channels."""

    width: int
    height: int
    channels: int


def survey(parts: Sequence[Encoded]) -> Form:
    """Read every image's header, and decide the form that all are decoded to.

    All images must have one size. They stay grey (one channel) only where all of them are grey.
    Raises DataError that names the image, and both sizes where they differ.
    """
    first: tuple[str, tuple[int, int]] | None = None
    channels = 1
    with _bombs_are_errors():
        for images in parts:
            for index in range(len(images)):
                with _opened(images, index) as image:
                    size, mode = image.size, image.mode
                if mode in DEEP_MODES:
                    raise DataError(
                        f"pixels of more than 8 bits (mode {mode})",
                        where=images.where(index),
                        hint="convert the images to 8 bits a channel",
                    )
                if mode not in GREY_MODES:
                    channels = 3
                if first is None:
                    first = images.where(index), size
                elif size != first[1]:
                    raise DataError(
                        f"is {size[0]}x{size[1]} pixels, but {first[0]} is "
                        f"{first[1][0]}x{first[1][1]}",
                        where=images.where(index),
                        hint="resize the images to one size",
                    )
    if first is None:
        raise DataError("there are no images")
    return Form(*first[1], channels)


def decode(images: Encoded, indices: Indices, form: Form) -> Floats:
    """The images at `indices` as float32 [n, C, H, W] in [0, 1]; transparency is dropped."""
    mode = "L" if form.channels == 1 else "RGB"
    pixels = np.empty((len(indices), form.height, form.width, form.channels), np.uint8)
    with _bombs_are_errors():
        for row, index in enumerate(indices.tolist()):
            with _opened(images, index) as image:
                converted = image if image.mode == mode else image.convert(mode)
                pixels[row] = np.asarray(converted).reshape(pixels.shape[1:])
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
    planes /= 255.0
    return planes


@contextmanager
def _opened(images: Encoded, index: int) -> Iterator[Image]:
    """One image, opened and not yet decoded; whatever goes wrong with it becomes a DataError."""
    from PIL import Image

    payload = images.payload(index)
    try:
        with Image.open(io.BytesIO(payload), formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            "the image is too large to be decoded safely",
            where=images.where(index),
            hint=f"resize it to less than {Image.MAX_IMAGE_PIXELS} pixels",
        ) from error
    # A broken file surfaces from Pillow's plug-ins as almost any exception.
    except Exception as error:
        raise DataError(
            f"the image cannot be decoded: {_plainly(error)}",
            where=images.where(index),
            hint="replace it or leave it out",
        ) from error


def _plainly(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"it is none of {', '.join(FORMATS)}"
    return one_line(str(error) or type(error).__name__, 120)


@contextmanager
def _bombs_are_errors() -> Iterator[None]:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
