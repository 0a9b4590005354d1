"""What the products of a training are made in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def products(device: torch.device, wanted: str) -> AbstractContextManager[None]:
    """Inside, products are made in bfloat16 where `wanted`, a training's precision, says so."""
    import torch

    if wanted == "auto":
        wanted = "bfloat16" if device.type == "cuda" else "float32"
    return torch.autocast(device.type, torch.bfloat16) if wanted == "bfloat16" else nullcontext()


@contextmanager
def exact_float32(device: torch.device, wanted: str) -> Iterator[None]:
    """Inside, float32 on a GPU is float32, not TF32 (10 bits of mantissa), where it is `wanted`.

    Torch lets cuDNN's convolutions make their products in TF32 unless it is told otherwise.
    """
    import torch

    if device.type != "cuda" or wanted != "float32":
        yield
        return
    # Torch's type stubs know nothing of these settings.
    libraries: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [library.allow_tf32 for library in libraries]
    try:
        for library in libraries:
            library.allow_tf32 = False
        yield
    finally:
        for library, allowed in zip(libraries, before, strict=True):
            library.allow_tf32 = allowed
