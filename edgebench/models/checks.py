"""What a network asks of the arguments its user gives it: image sizes, whole numbers, choices."""

from __future__ import annotations

from typing import Any

from edgebench.errors import ModelError


def check_image(name: str, input_shape: tuple[int, int, int], halvings: int) -> None:
    """Raise ModelError unless each of a network's `halvings` finds two pixels or more to halve.

    `input_shape` is [C, H, W]. Strided layers round an odd size up, so 2^(halvings − 1) + 1 pixels
    are enough; a layer that strides over a single pixel would see nothing but its padding.
    """
    need_pixels(name, input_shape, 2 ** (halvings - 1) + 1 if halvings else 1)


def need_pixels(name: str, input_shape: tuple[int, int, int], smallest: int) -> None:
    """Raise ModelError where an image [C, H, W] has an edge below `smallest` pixels."""
    _, height, breadth = input_shape
    if min(height, breadth) < smallest:
        raise ModelError(
            f"{name} needs images of at least {smallest}×{smallest} pixels, not {height}×{breadth}"
        )


def whole_number(option: str, value: Any, *, least: int = 1) -> int:
    """`value` where it is a whole number of at least `least`; raises ModelError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ModelError(f"{option} must be a whole number of at least {least}, not {value!r}")
    return value


def stride(option: str, value: Any) -> int:
    """`value` where it is a stride of 1 or 2; raises ModelError otherwise."""
    if isinstance(value, bool) or value not in (1, 2):
        raise ModelError(f"{option} must be 1 or 2, not {value!r}")
    return int(value)


def sequence(option: str, value: Any) -> list[Any]:
    """`value` as a list; raises ModelError where it is none."""
    if not isinstance(value, (list, tuple)):
        raise ModelError(f"{option} must be a list, not {value!r}")
    return list(value)
