"""What a module costs: its parameters, and the multiply-accumulates of an example."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgebench.models.calling import Inputs, as_inputs

if TYPE_CHECKING:
    from torch import nn


def parameters(module: nn.Module) -> int:
    """How many numbers a module has learned."""
    return sum(p.numel() for p in module.parameters())


def multiply_accumulates(module: nn.Module, example: Inputs) -> int:
    """The multiply-accumulates of convolutions, dense layers and attention for `example` [1, ...].

    Biases, normalisation, pooling and activations are not counted. By torch's own counter:
    torch-pruning's counts those, and leaves out the products inside of attention.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Fused attention would be one operation that the counter does not know.
    with (
        called_part_by_part(),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as seen,
    ):
        module.eval()(*as_inputs(example))
    return int(seen.get_total_flops()) // 2


def costs(module: nn.Module, example: Inputs) -> dict[str, int]:
    """A module's `parameters`, and its `macs` for the first of the examples."""
    first = [one[:1] for one in as_inputs(example)]
    return {"parameters": parameters(module), "macs": multiply_accumulates(module, first)}


@contextmanager
def called_part_by_part() -> Iterator[None]:
    """Without the fast path of torch's own transformer layers, which reads their parts' weights."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
