"""Pruning of all arrays alike, as "Neural Network Compression, the Functional Perspective" did it.

One threshold of magnitude over weights, biases, scales and shifts of normalisation, and its running
means and variances, once and without training on.
"""

from __future__ import annotations

import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.magnitude import smallest

STATISTICS = {"running_mean": "running means", "running_var": "running variances"}


def prune_all_arrays(module: nn.Module, ratio: float) -> dict[str, tuple[int, int]]:
    """Set the `ratio` smallest elements of all arrays to zero, in place.

    An array is whatever floating-point tensor a stored model holds; counters are none. Returns, by
    kind of array, how many of its elements are zero, and how many there are.
    """
    arrays = arrays_by_kind(module)
    flat = [array for kind in arrays.values() for array in kind]
    if not flat:
        raise BuildError("the model has no array to prune")
    count = round(ratio * sum(array.numel() for array in flat))
    with torch.no_grad():
        masks = smallest([array.abs() for array in flat], count)
        for array, mask in zip(flat, masks, strict=True):
            # Not a product with the mask: −0.0 has a bit set, and costs when compressed.
            array.masked_fill_(mask | (array == 0), 0.0)
    return {
        kind: (sum(int((t == 0).sum()) for t in tensors), sum(t.numel() for t in tensors))
        for kind, tensors in arrays.items()
    }


def arrays_by_kind(module: nn.Module) -> dict[str, list[torch.Tensor]]:
    """The floating-point parameters and stored buffers, each once, by what they are for."""
    stored = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    found: dict[str, list[torch.Tensor]] = {}
    seen: set[int] = set()
    for part in module.modules():
        for name, tensor in [
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ]:
            wanted = tensor.is_floating_point() and id(tensor) in stored
            if wanted and id(tensor) not in seen:
                seen.add(id(tensor))
                found.setdefault(_kind(part, name, tensor), []).append(tensor)
    return found


def _kind(part: nn.Module, name: str, tensor: torch.Tensor) -> str:
    if name in STATISTICS:
        return STATISTICS[name]
    if isinstance(part, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
        return "scales and shifts of normalisation"
    return "weights" if tensor.dim() > 1 else "biases and other vectors"
