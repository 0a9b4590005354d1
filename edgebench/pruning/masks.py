"""Masks of the weights that stay zero while a network is trained on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class ZeroMasks(nn.Module):
    """A mask for each weight, true where it is kept zero; trained beside the network.

    Buffers, so that a training's checkpoint holds them. At first they hold the zeros that are
    there, which an earlier pruning may have left.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        # In a mapping, where torch does not take them for parameters of this module.
        self._weights = dict(weights)
        # A buffer's name may hold no dot, a layer's does.
        self._names = {name: f"mask_{index}" for index, name in enumerate(weights)}
        for name, weight in weights.items():
            self.register_buffer(self._names[name], weight.detach() == 0)

    def masks(self) -> dict[str, torch.Tensor]:
        """The masks by the names of the weights, not to be changed."""
        return {name: self.get_buffer(buffer) for name, buffer in self._names.items()}

    def hold(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Take these masks for the weights they name."""
        for name, mask in masks.items():
            self.get_buffer(self._names[name]).copy_(mask)

    def apply_to_weights(self) -> None:
        """Set the masked weights to zero."""
        with torch.no_grad():
            for name, mask in self.masks().items():
                # Not a product with the mask: −0.0 has a bit set, and costs when compressed.
                self._weights[name].masked_fill_(mask, 0.0)
