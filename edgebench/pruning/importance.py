"""How channels are ranked: torch-pruning's criteria, and what each needs before it can rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional as F

from edgebench.errors import BuildError, one_line
from edgebench.training.losses import as_logits

# Given the layers that a set of channels runs through: one value a channel, or None.
Importance = Callable[[Sequence[Any]], "torch.Tensor | None"]

BATCH = 256
# The layers whose outputs are channels.
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
# Criteria that look at gradients.
GRADIENTS = frozenset({"taylor", "hessian"})
OWN_FILTERS = (tp.prune_conv_out_channels, tp.prune_linear_out_channels)


def importance_of(name: str) -> Importance:
    """The criterion of a name; it ranks layers of a network that `prepared` made.

    `l1`, `l2`: the norm of the filters that make a channel, averaged over layers tied by additions
    (Li et al., ICLR 2017). `group-norm`: their L2 norm together with that of every weight that
    reads the channel (Fang et al., CVPR 2023). `taylor`: Σ|w·∂L/∂w| over the same weights
    (Molchanov et al., CVPR 2019). `hessian`: Σ w²·h with h the mean squared gradient of single
    examples (LeCun et al., 1990). `fpgm`: the summed distance to all other filters (He et al., CVPR
    2019). `bn-scale`: |γ| of the batch normalisation (Liu et al., ICCV 2017). `lamp`: the group's
    squared norm over that of all stronger ones (Lee et al., ICLR 2021). `random`: torch's next
    draw.
    """
    kinds: dict[str, Callable[[], Any]] = {
        "group-norm": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance,
        "hessian": tp.importance.GroupHessianImportance,
        "fpgm": _distances,
        "bn-scale": tp.importance.BNScaleImportance,
        "lamp": tp.importance.LAMPImportance,
        "random": tp.importance.RandomImportance,
    }
    if name in kinds:
        rank: Importance = kinds[name]()
        return rank
    norm = tp.importance.MagnitudeImportance(p={"l1": 1, "l2": 2}[name])

    def own_filters(group: Sequence[Any]) -> torch.Tensor | None:
        own = [item for item in group if item.dep.handler in OWN_FILTERS]
        found: torch.Tensor | None = norm(own)
        return found

    return own_filters


def _distances() -> Importance:
    """The distances of filters; torch-pruning takes magnitudes first: opposite ones look alike."""
    between: Any = tp.importance.FPGMImportance(p=1)

    def shifted(group: Sequence[Any]) -> torch.Tensor | None:
        parts = {item.dep.target.module for item in group}
        weights = [part.weight for part in parts if isinstance(part, WEIGHTED)]
        before = [weight.data for weight in weights]
        for weight in weights:
            # Distances do not see a shift: moved until none is negative, weights keep theirs.
            weight.data = weight.data - weight.data.min()
        try:
            found: torch.Tensor | None = between(group)
        finally:
            for weight, data in zip(weights, before, strict=True):
                weight.data = data
        return found

    return shifted


def prepared(
    name: str,
    module: nn.Module,
    examples: tuple[torch.Tensor, torch.Tensor] | None,
    *,
    probabilities: bool = False,
) -> nn.Module:
    """A copy of `module` with all that the criterion `name` looks at, to be ranked and dropped.

    `taylor` and `hessian` look at gradients of the cross-entropy on `examples`: inputs [N, ...] and
    labels, int64 [N]; the others take None. `probabilities`: the module answers with those, and not
    with logits.
    """
    try:
        copy = deepcopy(module).eval()
    except RuntimeError as error:
        raise BuildError(
            f"the model cannot be copied: {one_line(str(error), 120)}",
            hint="remove weight_norm and the like, whose weights are computed from others",
        ) from error
    thaw(copy)
    if name in GRADIENTS:
        assert examples is not None  # noqa: S101 - these alone need some
        _gradients(copy, *examples, probabilities=probabilities, squared=name == "hessian")
    return copy


def thaw(module: nn.Module) -> None:
    """Let every parameter have a gradient that can have one: integers cannot."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _gradients(
    module: nn.Module, x: torch.Tensor, y: torch.Tensor, *, probabilities: bool, squared: bool
) -> None:
    """Leave in each parameter's `grad` the mean gradient, or the mean square of each example's.

    The squares are summed here: torch-pruning's `accumulate_grad` keeps the last example alone.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p) for p in parameters]
    at_once = 1 if squared else BATCH
    for inputs, labels in zip(torch.split(x, at_once), torch.split(y, at_once), strict=True):
        answer = as_logits(module(inputs), probabilities)
        loss = F.cross_entropy(answer, labels, reduction="sum")
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total.add_(gradient**2 if squared else gradient)
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total / len(y)
