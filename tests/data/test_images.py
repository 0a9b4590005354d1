from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgebench.data.images import Form, ImageFiles, decode, survey
from edgebench.errors import DataError


class InMemory:
    """Encoded images held in a list."""

    def __init__(self, *payloads: bytes) -> None:
        self.payloads = payloads

    def __len__(self) -> int:
        return len(self.payloads)

    def payload(self, index: int) -> bytes:
        return self.payloads[index]

    def where(self, index: int) -> str:
        return f"row {index}"


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=40)
@given(st.data(), shapes, st.sampled_from(["PNG", "BMP", "TIFF", "PPM"]))
def test_lossless_images_come_back_to_the_last_bit(data, shape, kind: str) -> None:
    colour = data.draw(st.booleans())
    pixels = data.draw(hnp.arrays(np.uint8, (*shape, 3) if colour else shape))
    images = InMemory(encoded(Image.fromarray(pixels), kind))
    form = survey([images])
    assert form == Form(shape[1], shape[0], 3 if colour else 1)
    x = decode(images, np.array([0]), form)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    wanted = pixels.reshape(*shape, -1).transpose(2, 0, 1)[None]
    assert np.array_equal(np.rint(x * 255).astype(np.uint8), wanted)
    assert np.array_equal(x, wanted.astype(np.float32) / np.float32(255))


def test_grey_stays_grey_and_a_mix_becomes_colour(files) -> None:
    grey, colour = InMemory(files.png("L"), files.png("1")), InMemory(files.png("RGB"))
    assert survey([grey]).channels == 1
    form = survey([grey, colour])
    assert form.channels == 3
    x = decode(grey, np.array([0, 1]), form)
    assert x.shape == (2, 3, 4, 6)
    assert np.array_equal(x[:, 0], x[:, 2])


@pytest.mark.parametrize(
    ("mode", "channels"), [("LA", 1), ("P", 3), ("RGBA", 3), ("1", 1), ("CMYK", 3)]
)
def test_other_pixel_modes(mode: str, channels: int) -> None:
    image = Image.new("L", (5, 5), 255).convert(mode)
    images = InMemory(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    form = survey([images])
    x = decode(images, np.array([0]), form)
    assert x.shape == (1, channels, 5, 5)
    assert (x == 1).all()


def test_a_jpeg_is_near_what_was_saved() -> None:
    grey = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    images = InMemory(encoded(Image.fromarray(grey), "JPEG", quality=95))
    x = decode(images, np.array([0]), survey([images]))
    assert np.abs(x[0, 0] * 255 - grey).max() < 8


def test_two_sizes_are_an_error_that_names_both(tmp_path: Path, files) -> None:
    (tmp_path / "a.png").write_bytes(files.png(size=(6, 4)))
    (tmp_path / "b.png").write_bytes(files.png(size=(4, 6)))
    with pytest.raises(DataError) as caught:
        survey([ImageFiles((tmp_path / "a.png",)), ImageFiles((tmp_path / "b.png",))])
    assert str(caught.value) == (
        f"{tmp_path}/b.png: is 4x6 pixels, but {tmp_path}/a.png is 6x4; "
        "resize the images to one size"
    )


def test_sixteen_bits_are_refused_rather_than_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 40000, np.uint16))
    with pytest.raises(DataError, match="row 1: pixels of more than 8 bits"):
        survey([InMemory(encoded(Image.new("L", (4, 4))), encoded(deep))])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_a_truncated_image_is_one_line_that_names_it(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    cut = InMemory(whole, whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"row 1: the image cannot be decoded: .*") as caught:
        decode(cut, np.array([0, 1]), survey([cut]))
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_damaged_bytes_are_an_image_or_a_data_error(data) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), data.draw(st.sampled_from(["PNG", "GIF"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    images = InMemory(bytes(content))
    try:
        form = survey([images])
        x = decode(images, np.array([0]), form)
    except DataError as error:
        line = str(error)
    else:
        line = f"row 0: {x.shape[2:] == (form.height, form.width)}"
    assert line.startswith("row 0: ")
    assert "False" not in line


@pytest.mark.parametrize("payload", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(payload: bytes) -> None:
    with pytest.raises(DataError, match="row 0: the image cannot be decoded: it is none of PNG"):
        survey([InMemory(payload)])


@pytest.mark.parametrize("factor", [1, 2])
def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    # Pillow warns above its limit and raises above twice that: both must end here.
    limit = 99
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match="row 0: the image is too large to be decoded safely"):
        survey([InMemory(encoded(Image.new("L", (limit * factor + 1, 1))))])


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="there are no images"):
        survey([InMemory()])
