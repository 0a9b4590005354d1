"""Attention heads: where they are, and how whole heads or part of each are taken out.

An attention module is one with `qkv`, a dense layer whose outputs are [3, num_heads, head_dim],
and with the numbers `num_heads` and `head_dim`, which its `forward` reads. The layer that reads its
answer, [num_heads, head_dim], is found by torch-pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from edgebench.models.calling import Inputs
from edgebench.pruning.exchange import answers_of, same_answers


@dataclass(frozen=True)
class Attention:
    """One attention: the names of its module, its `qkv` layer and the layer that reads it."""

    name: str
    qkv: str
    projection: str
    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """How many channels all heads have."""
        return self.heads * self.head_dim


def attention_modules(module: nn.Module) -> dict[str, tuple[nn.Linear, int, int]]:
    """The `qkv` layer, head count and head size of each attention module, by its name."""
    found = {}
    for name, part in module.named_modules():
        qkv = getattr(part, "qkv", None)
        heads, size = getattr(part, "num_heads", None), getattr(part, "head_dim", None)
        if (
            isinstance(qkv, nn.Linear)
            and isinstance(heads, int)
            and isinstance(size, int)
            and qkv.out_features == 3 * heads * size
        ):
            found[name] = (qkv, heads, size)
    return found


def take_out(module: nn.Module, attention: Attention, channels: Sequence[int], heads: int) -> None:
    """Remove channels of [0, width) from queries, keys, values and what reads them, in place.

    `heads` is how many heads are left. The module's `num_heads` and `head_dim` follow.
    """
    parts = dict(module.named_modules())
    width = attention.width
    tp.prune_linear_out_channels(
        parts[attention.qkv], [part * width + c for part in range(3) for c in channels]
    )
    tp.prune_linear_in_channels(parts[attention.projection], list(channels))
    owner: Any = parts[attention.name]
    owner.num_heads = heads
    owner.head_dim = (width - len(channels)) // heads


def is_laid_out_so(module: nn.Module, attention: Attention, example: Inputs) -> bool:
    """Whether the first head's channels are where `take_out` looks for them.

    A head that is removed must leave the answer of one that nobody listens to.
    """
    first = list(range(attention.head_dim))
    if attention.heads == 1:
        return True
    unheard, without = deepcopy(module).eval(), deepcopy(module).eval()
    listener = dict(unheard.named_modules())[attention.projection]
    with torch.no_grad():
        listener.weight[:, first] = 0.0
        take_out(without, attention, first, attention.heads - 1)
        try:
            wanted, given = (answers_of(one, example) for one in (unheard, without))
        except (RuntimeError, ValueError, TypeError):
            return False
    return same_answers(given, wanted)


def heads_to_channels(attention: Attention, heads: Sequence[int]) -> list[int]:
    """The channels of whole heads."""
    size = attention.head_dim
    return [h * size + c for h in sorted(heads) for c in range(size)]


def built_in_attentions(module: nn.Module) -> list[str]:
    """The names of torch's own attention modules, whose heads are tied to the embedding."""
    return [name for name, part in module.named_modules() if _is_built_in(part)]


def _is_built_in(part: nn.Module) -> bool:
    return isinstance(part, nn.MultiheadAttention)
