"""Two layers in place of one: truncated singular value decompositions of dense layers and kernels.

Sources: Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient
Evaluation", NeurIPS 2014 (dense); Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016 (channels); Jaderberg et al., "Speeding up Convolutional
Neural Networks with Low Rank Expansions", BMVC 2014 (spatial).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from edgebench.factorization.base import Factorization, Ranks, Use
from edgebench.factorization.spectrum import (
    kept,
    rank_factors,
    rounded_up,
    smallest_rank,
    spectrum,
)


class _Matrix(Factorization):
    """A weight laid out as one matrix, whose truncated SVD is the best approximation there is."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, use: Use) -> None:
        super().__init__(layer, use)
        self.matrix = self.as_matrix()
        rows, columns = self.matrix.shape
        self.left = rows <= columns
        squares, self.basis = spectrum(self.matrix if self.left else self.matrix.T)
        self.shares = kept(squares)

    @abstractmethod
    def as_matrix(self) -> torch.Tensor:
        """The weight as a matrix [outputs of the second layer, inputs of the first]."""

    def ranks(self, energy: float, round_to: int) -> Ranks | None:
        """One rank."""
        rank = rounded_up(smallest_rank(self.shares, energy), round_to, len(self.shares) - 1)
        return self.if_cheaper((rank,))

    def split(self, ranks: Ranks) -> tuple[torch.Tensor, torch.Tensor]:
        """The second layer's matrix and the first one's."""
        return rank_factors(self.matrix, self.basis, ranks[0], left=self.left)

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """The one spectrum."""
        full = len(self.shares) - 1
        return {"": [(rank / full, share) for rank, share in enumerate(self.shares)]}


class Svd(_Matrix):
    """W [outputs, inputs · kernel] ≈ A·B: a layer like the first with `rank` outputs, then 1×1."""

    kind = "svd"

    def as_matrix(self) -> torch.Tensor:
        """Outputs against all else."""
        return self.weight.flatten(1)

    def macs(self, ranks: Ranks) -> int:
        """Both layers work at the output's positions."""
        return self.use.outputs * ranks[0] * sum(self.matrix.shape)

    def factors(self, ranks: Ranks) -> list[torch.Tensor]:
        """The first layer's kernel, then the 1×1 one (or two matrices of a dense layer)."""
        second, first = self.split(ranks)
        ones = (1,) * (self.weight.dim() - 2)
        return [first.view(-1, *self.weight.shape[1:]), second.view(*second.shape, *ones)]

    def composed(self, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The product of both matrices."""
        first, second = factors
        return (second.flatten(1) @ first.flatten(1)).view(self.weight.shape)


class SpatialSvd(_Matrix):
    """A kernel height×1 with `rank` outputs, then one 1×width, each over all channels."""

    kind = "spatial"

    def as_matrix(self) -> torch.Tensor:
        """Outputs and columns against inputs and rows."""
        outputs, inputs, height, width = self.weight.shape
        return self.weight.permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)

    def macs(self, ranks: Ranks) -> int:
        """The first layer strides over rows alone, the second over columns."""
        outputs, inputs, height, width = self.weight.shape
        first = self.use.between * inputs * height
        return ranks[0] * (first + self.use.outputs * outputs * width)

    def factors(self, ranks: Ranks) -> list[torch.Tensor]:
        """The kernel of columns, then that of rows."""
        outputs, inputs, height, width = self.weight.shape
        second, first = self.split(ranks)
        return [
            first.view(-1, inputs, height, 1),
            second.view(outputs, width, 1, -1).permute(0, 3, 2, 1).contiguous(),
        ]

    def composed(self, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum over ranks of outer products."""
        first, second = factors
        return torch.einsum("rsi,trj->tsij", first[..., 0], second[:, :, 0])
