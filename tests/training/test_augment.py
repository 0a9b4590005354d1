"""Augmentation, against tiny images worked out by hand."""

from __future__ import annotations

import pytest
import torch

from edgebench.errors import BuildError
from edgebench.training.augment import LUMA, augment, check_images, jitter, turn_hue
from edgebench.training_settings import Augment, Jitter

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(count: int, strength: float, place: int, seed: int = 0) -> list[float]:
    """What `jitter` multiplies by: uniform within 1 ± strength, `place` draws into the stream."""
    generator = draws(seed)
    for _ in range(place + 1):
        drawn = torch.rand((count, 1, 1, 1), generator=generator)
    return [1 + strength * (2 * float(value) - 1) for value in drawn.flatten()]


def pixels(count: int = 8, channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=draws(7))


def test_half_of_the_images_are_mirrored_left_to_right() -> None:
    one = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    mirrored = torch.tensor([[[[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]]]])
    out = augment(one.repeat(400, 1, 1, 1), Augment(flip=True), draws())
    flipped = [bool(torch.equal(image, mirrored[0])) for image in out]
    assert all(
        torch.equal(i, mirrored[0] if f else one[0]) for i, f in zip(out, flipped, strict=True)
    )
    assert 160 < sum(flipped) < 240


def test_a_crop_shifts_by_every_offset_and_leaves_zeros_behind() -> None:
    one = torch.arange(1.0, 19.0).view(1, 2, 3, 3)
    out = augment(one.repeat(300, 1, 1, 1), Augment(crop=1), draws())
    shifted = set()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            wanted = torch.zeros(2, 3, 3)
            for row in range(3):
                for column in range(3):
                    if 0 <= row - down < 3 and 0 <= column - right < 3:
                        wanted[:, row, column] = one[0, :, row - down, column - right]
            shifted.add(tuple(wanted.flatten().tolist()))
    assert {tuple(image.flatten().tolist()) for image in out} == shifted


def test_every_image_and_every_call_has_draws_of_its_own() -> None:
    generator, how = draws(), Augment(flip=True, crop=2, jitter=Jitter(hue=0.1))
    same = pixels(1).repeat(20, 1, 1, 1)
    first, second = augment(same, how, generator), augment(same, how, generator)
    assert not torch.equal(first, second)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 10
    torch.testing.assert_close(augment(same, how, draws()), first, rtol=0, atol=0)


def test_the_images_given_are_not_changed() -> None:
    given = pixels()
    before = given.clone()
    augment(given, Augment(flip=True, crop=1, jitter=Jitter(hue=0.5)), draws())
    assert torch.equal(given, before)


def test_what_is_drawn_depends_neither_on_the_pixels_nor_on_the_strengths() -> None:
    states = []
    for images, how in (
        (pixels(), Jitter()),
        (pixels() * 0, Jitter(hue=0.5)),
        (pixels(channels=1), Jitter(saturation=0.0)),
    ):
        generator = draws()
        jitter(images, how, generator)
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


def test_brightness_is_a_factor() -> None:
    images = pixels() * 0.6
    changed = jitter(images, Jitter(**{**STILL, "brightness": 0.5}), draws())
    for image, before, factor in zip(changed, images, factors(8, 0.5, 0), strict=True):
        torch.testing.assert_close(image, before * factor)


def test_brightness_stays_within_its_strength_and_reaches_it() -> None:
    changed = jitter(
        torch.full((2000, 3, 1, 1), 0.5), Jitter(**{**STILL, "brightness": 0.2}), draws()
    )
    assert 0.4 <= changed.min() < 0.401
    assert 0.599 < changed.max() <= 0.6


def test_contrast_is_about_the_mean_grey_of_the_image() -> None:
    # Two pixels, (.2, .4, .6) and (.4, .4, .4): greys .363 and .4 by the luma's weights.
    image = torch.tensor([[0.2, 0.4], [0.4, 0.4], [0.6, 0.4]]).view(1, 3, 1, 2)
    middle = (0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6 + 0.4) / 2
    changed = jitter(image, Jitter(**{**STILL, "contrast": 0.5}), draws())
    [factor] = factors(1, 0.5, 1)
    torch.testing.assert_close(changed, middle + factor * (image - middle))


def test_saturation_is_about_the_grey_of_each_pixel() -> None:
    image = torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.6, 0.3]]).view(1, 3, 1, 2)
    greys = [0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6, 0.299 * 0.5 + 0.587 * 0.5 + 0.114 * 0.3]
    grey = torch.tensor(greys).view(1, 1, 1, 2)
    changed = jitter(image, Jitter(**{**STILL, "saturation": 0.5}), draws())
    [factor] = factors(1, 0.5, 2)
    torch.testing.assert_close(changed, grey + factor * (image - grey))


def test_a_hue_turns_by_as_much_as_was_drawn() -> None:
    images = 0.4 + 0.2 * pixels()
    changed = jitter(images, Jitter(**STILL, hue=0.5), draws())
    turns = torch.tensor(factors(8, 0.5, 3)).view(8, 1, 1, 1) - 1
    torch.testing.assert_close(changed, turn_hue(images, turns))
    assert not torch.allclose(changed, images, atol=0.05)


def test_half_a_turn_reflects_colours_about_their_grey() -> None:
    # Red has the luma .299; opposite it on the circle lies 2 · .299 − (1, 0, 0).
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    turned = turn_hue(red, torch.full((1, 1, 1, 1), 0.5)).flatten()
    torch.testing.assert_close(turned, torch.tensor([-0.402, 0.598, 0.598]))


def test_a_quarter_turn_by_hand() -> None:
    # Of red, I = .5959 and Q = .2115; a quarter turn makes them −.2115 and .5959, and back in red,
    # green and blue (the textbook's inverse) that is .299 + .956 I + .619 Q and so on.
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    first, second = -0.2115, 0.5959
    wanted = torch.tensor(
        [
            0.299 + 0.956 * first + 0.619 * second,
            0.299 - 0.272 * first - 0.647 * second,
            0.299 - 1.106 * first + 1.703 * second,
        ]
    )
    turned = turn_hue(red, torch.full((1, 1, 1, 1), 0.25)).flatten()
    torch.testing.assert_close(turned, wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize("turns", [0.0, 1.0, -1.0])
def test_a_full_circle_changes_nothing(turns: float) -> None:
    images = pixels()
    turned = turn_hue(images, torch.full((8, 1, 1, 1), turns))
    torch.testing.assert_close(turned, images, rtol=0, atol=1e-5)


def test_turns_add_up_and_the_luma_stays() -> None:
    images = pixels()
    part, rest = torch.full((8, 1, 1, 1), 0.3), torch.full((8, 1, 1, 1), -0.3)
    turned = turn_hue(images, part)
    torch.testing.assert_close(turn_hue(turned, rest), images, rtol=0, atol=1e-5)
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    torch.testing.assert_close((turned * luma).sum(1), (images * luma).sum(1), rtol=0, atol=1e-5)


def test_grey_has_neither_saturation_nor_hue() -> None:
    grey = pixels(channels=1).repeat(1, 3, 1, 1)
    how = Jitter(brightness=0.0, contrast=0.0, saturation=1.0, hue=0.5)
    torch.testing.assert_close(jitter(grey, how, draws()), grey, rtol=0, atol=1e-5)


def test_of_one_channel_brightness_and_contrast_change() -> None:
    image = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2)
    changed = jitter(image, Jitter(brightness=0.2, contrast=0.3, saturation=1.0), draws())
    [bright], [contrast] = factors(1, 0.2, 0), factors(1, 0.3, 1)
    torch.testing.assert_close(changed, bright * (0.4 + contrast * (image - 0.4)))


def test_jittered_images_keep_to_the_range() -> None:
    how = Jitter(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.5)
    changed = jitter(pixels(200), how, draws())
    assert changed.min() == 0.0
    assert changed.max() == 1.0


@pytest.mark.parametrize(
    ("shape", "how", "text"),
    [
        ((9, 5), Augment(flip=True), r"needs images \[N, C, H, W\], .* has the shape \(9, 5\)"),
        ((9, 3, 8, 6), Augment(crop=6), "a crop of 6 shifts images of 8x6 out.*crop below 6"),
        (
            (9, 4, 8, 8),
            Augment(jitter=Jitter(brightness=0, contrast=0, hue=0.1)),
            "three channels, and these have 4: the jitter would change nothing; set brightness",
        ),
    ],
)
def test_images_that_cannot_be_augmented_so(
    shape: tuple[int, ...], how: Augment, text: str
) -> None:
    with pytest.raises(BuildError, match=text) as caught:
        check_images(shape, how)
    assert "\n" not in str(caught.value)


def test_images_that_can() -> None:
    check_images((9, 3, 8, 6), Augment(flip=True, crop=5, jitter=Jitter(hue=0.5)))
    check_images((9, 1, 8, 8), Augment(jitter=Jitter(hue=0.1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_augments_with_the_same_draws() -> None:
    how = Augment(flip=True, crop=1, jitter=Jitter(hue=0.2))
    torch.testing.assert_close(
        augment(pixels().cuda(), how, draws()).cpu(), augment(pixels(), how, draws())
    )
