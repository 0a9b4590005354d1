"""N:M sparsity: of each M consecutive weights along the input channels, at most N are not zero.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, 2021 (2:4, the
format of NVIDIA's sparse tensor cores).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from edgebench.errors import BuildError
from edgebench.pruning.magnitude import scores_of


def n_of_m_masks(
    weights: Mapping[str, torch.Tensor], held: Mapping[str, torch.Tensor], n: int, m: int
) -> dict[str, torch.Tensor]:
    """The masks of the weights [out, in, ...] whose input channels are a multiple of `m`.

    In a grouped convolution, of the channels of one of its groups. `held` are the masks of what is
    zero already. Raises BuildError where there is no such weight.
    """
    masks = {
        name: n_of_m_mask(weight, held[name], n, m)
        for name, weight in weights.items()
        if weight.shape[1] % m == 0
    }
    if not masks:
        raise BuildError(
            f"no layer's input channels are a multiple of {m}: nothing to prune by {n}:{m}",
            hint="choose a smaller M, or give 'ratio'",
        )
    return masks


def n_of_m_mask(weight: torch.Tensor, held: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """The mask of all but the `n` largest of each group of `m`, and of what `held` keeps zero.

    `weight`: [out, in, ...] with `in` a multiple of `m`. Of equal weights the last ones stay.
    """
    groups = _groups(scores_of(weight, held), m)
    order = groups.argsort(dim=1, stable=True)
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, : m - n], True)
    inputs_last = weight.movedim(1, -1).shape
    return chosen.view(inputs_last).movedim(-1, 1) | held


def check_groups(weights: Mapping[str, torch.Tensor], n: int, m: int) -> None:
    """Raise BuildError where a group of `m` input channels has more than `n` weights."""
    for name, weight in weights.items():
        most = int((_groups(weight.detach(), m) != 0).sum(1).max())
        if most > n:
            raise BuildError(f"'{name}' does not obey {n}:{m}: a group has {most} weights")


def about_groups(
    grouped: Collection[str], layers: Sequence[str], transposed: Collection[str], n: int, m: int
) -> list[str]:
    """What to say of the layers `grouped` of all `layers`, and of those left dense."""
    notes = [
        f"{len(grouped)} of {len(layers)} layers obey {n}:{m}: of every {m} weights along the "
        f"input channels, {m - n} or more are zero"
    ]
    odd = [name for name in layers if name not in grouped and name not in transposed]
    if odd:
        notes.append(f"left dense, their input channels being no multiple of {m}: {', '.join(odd)}")
    if transposed:
        notes.append(f"left dense, being transposed convolutions: {', '.join(transposed)}")
    return notes


def _groups(weight: torch.Tensor, m: int) -> torch.Tensor:
    """[out, in, ...] as [number of groups, m]."""
    return weight.movedim(1, -1).reshape(-1, m)
