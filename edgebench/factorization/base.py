"""What a factorization is: how a layer's weight is written as a chain of cheaper layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

Ranks = tuple[int, ...]


@dataclass
class Use:
    """At how many positions of one example a layer works, over all its calls.

    `inputs`, `outputs`: height × width before and after a convolution, or the vectors of a dense
    layer; `between`: output height × input width, where a spatial factorization has its middle.
    """

    inputs: int = 0
    outputs: int = 0
    between: int = 0


class Factorization(ABC):
    """One layer's weight and the ways to approximate it; `energy` is the kept squared norm's share.

    `curves` maps a name for each spectrum ("" where there is one) to [(rank / full rank, energy)].
    """

    kind: ClassVar[str]

    def __init__(self, layer: nn.Conv2d | nn.Linear, use: Use) -> None:
        self.layer = layer
        self.use = use
        self.weight = layer.weight.detach().to("cpu", torch.float64)

    @property
    def layer_macs(self) -> int:
        """Multiply-accumulates of the layer as it is."""
        return self.use.outputs * self.weight.numel()

    @abstractmethod
    def ranks(self, energy: float, round_to: int) -> Ranks | None:
        """The cheapest ranks that keep `energy`, in steps of `round_to`; None: none saves work."""

    @abstractmethod
    def macs(self, ranks: Ranks) -> int:
        """Multiply-accumulates of the factors."""

    @abstractmethod
    def factors(self, ranks: Ranks) -> list[torch.Tensor]:
        """The weights of the layers that `empty_layers` makes, in their order."""

    @abstractmethod
    def composed(self, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weight that the factors make together, of the layer's shape."""

    @abstractmethod
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """How much each rank keeps, for the report."""

    def if_cheaper(self, ranks: Ranks) -> Ranks | None:
        """`ranks`, or None where the factors cost no less than the layer."""
        return ranks if self.macs(ranks) < self.layer_macs else None
