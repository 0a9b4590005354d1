"""Initial weights of networks that have no batch normalisation to set the signal's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def he_initialise(module: nn.Module) -> nn.Module:
    """`module` with normal weights of variance 2 / inputs and no biases (He et al., 2015).

    The answering layer, the last one, keeps torch's default, as answers should start small. That
    default shrinks the signal in each layer: many layers deep, every image would be answered alike
    and little would be learnt.
    """
    from torch import nn

    *hidden, _ = (x for x in module.modules() if isinstance(x, (nn.Conv2d, nn.Linear)))
    for layer in hidden:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module
