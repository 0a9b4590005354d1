"""Magnitude pruning: masks of the smallest weights, by one threshold for all layers or for each.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015; the comparison of thresholds: Blalock et al., "What Is the State of Neural Network Pruning?",
MLSys 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import nn

from edgebench.pruning.selection import prunable_weights

Norm = Literal["l1", "l2"]
Tensors = Mapping[str, torch.Tensor]
Masks = dict[str, torch.Tensor]

# Below every magnitude: what is zero stays so before anything else is chosen.
HELD = -1.0


def smallest(scores: Sequence[torch.Tensor], count: int) -> list[torch.Tensor]:
    """Masks of exactly `count` elements, the smallest of all `scores` together.

    Of equal ones those that come first. On the processor, whatever device the scores lie on: what
    is chosen does not depend on it.
    """
    # kthvalue and not quantile: that one refuses more than 16 million values.
    pool = torch.cat([score.detach().flatten().float().cpu() for score in scores])
    if count < 1:
        chosen = torch.zeros_like(pool, dtype=torch.bool)
    else:
        limit = pool.kthvalue(min(count, pool.numel())).values
        chosen = pool < limit
        ties = (pool == limit).nonzero().flatten()
        chosen[ties[: count - int(chosen.sum())]] = True
    parts = torch.split(chosen, [score.numel() for score in scores])
    return [
        part.view(score.shape).to(score.device) for part, score in zip(parts, scores, strict=True)
    ]


def scores_of(weight: torch.Tensor, held: torch.Tensor, norm: Norm | None = None) -> torch.Tensor:
    """The magnitudes of a weight, with `HELD` where the mask `held` keeps a zero already.

    With a `norm` they are relative to the layer's: its mean magnitude (l1) or its root mean square
    (l2), i.e. the norm of a layer of any size, taken as an average. Without one, |w| and w² put
    single weights into the same order, and there is nothing to choose.
    """
    magnitude = weight.detach().float().abs()
    if norm is not None:
        mean = magnitude.mean() if norm == "l1" else magnitude.square().mean().sqrt()
        # A layer of zeros alone has no norm; its weights are the smallest anyway.
        magnitude = magnitude / mean.clamp_min(torch.finfo(torch.float32).tiny)
    return magnitude.masked_fill(held, HELD)


def global_masks(weights: Tensors, held: Tensors, ratio: float, norm: Norm | None) -> Masks:
    """One threshold for all layers, so that `ratio` of all their weights lies below it."""
    scores = [scores_of(weight, held[name], norm) for name, weight in weights.items()]
    count = round(ratio * sum(score.numel() for score in scores))
    chosen = smallest(scores, count)
    return {name: mask | held[name] for name, mask in zip(weights, chosen, strict=True)}


def layer_masks(weights: Tensors, held: Tensors, ratios: Mapping[str, float]) -> Masks:
    """One threshold for each layer, so that its own ratio of its weights lies below it."""
    masks = {}
    for name, weight in weights.items():
        score = scores_of(weight, held[name])
        masks[name] = smallest([score], round(ratios[name] * score.numel()))[0] | held[name]
    return masks


def with_one_pruned(module: nn.Module, name: str, ratio: float) -> nn.Module:
    """A copy of `module` in which the layer `name` alone is pruned, as in `prunable_weights`."""
    network = deepcopy(module)
    weights = {name: network.get_parameter(prunable_weights(network)[name].path)}
    held = {name: weights[name] == 0}
    with torch.no_grad():
        weights[name].masked_fill_(layer_masks(weights, held, {name: ratio})[name], 0.0)
    return network


def share_of_zeros(tensors: Sequence[torch.Tensor]) -> float:
    """The share of the elements of all tensors that are zero."""
    return sum(int((t == 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)
