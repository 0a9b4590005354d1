"""Tucker-2 of a convolution: 1×1, a small k×k core, 1×1.

Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications", ICLR 2016. Higher-order SVD, then higher-order orthogonal iteration (De Lathauwer et
al., SIAM J. Matrix Anal. Appl. 2000).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgebench.factorization.base import Factorization, Ranks, Use
from edgebench.factorization.spectrum import ROUNDING, kept, spectrum

ITERATIONS = 50
# The kept share gains less than this in one iteration: done.
TOLERANCE = 1e-7


class Tucker2(Factorization):
    """W ≈ core [r_out, r_in, k, k] × U_out [outputs, r_out] × U_in [inputs, r_in].

    Ranks are (r_out, r_in). A rank that is the number of channels leaves that side of the layer as
    it is: its 1×1 convolution would be a change of basis that the core can take in.
    """

    kind = "tucker"

    def __init__(self, layer: nn.Conv2d, use: Use) -> None:
        super().__init__(layer, use)
        squares_out, basis_out = spectrum(self.weight.flatten(1))
        squares_in, basis_in = spectrum(self.weight.transpose(0, 1).flatten(1))
        self.shares_out, self.shares_in = kept(squares_out), kept(squares_in)
        core = self._projected(basis_out, basis_in).square().sum((2, 3))
        total = float(core.sum())
        # Entry [a, b]: the energy that ranks (a + 1, b + 1) keep before any iteration.
        self.table = core.cumsum(0).cumsum(1) / total if total > 0 else torch.ones_like(core)

    def ranks(self, energy: float, round_to: int) -> Ranks | None:
        """The cheapest pair, a side left as it is included."""
        outs, ins = (_steps(full, round_to) for full in self.weight.shape[:2])
        enough = self.table[outs - 1][:, ins - 1] >= energy - ROUNDING
        enough[-1, -1] = True
        costs = self._cost(outs[:, None], ins[None, :])
        costs = torch.where(enough, costs, torch.iinfo(costs.dtype).max)
        row, column = divmod(int(costs.argmin()), len(ins))
        return self.if_cheaper((int(outs[row]), int(ins[column])))

    def macs(self, ranks: Ranks) -> int:
        """The first 1×1 works at the input's positions, the rest at the output's."""
        return int(self._cost(torch.tensor(ranks[0]), torch.tensor(ranks[1])))

    def _cost(self, r_out: torch.Tensor, r_in: torch.Tensor) -> torch.Tensor:
        outputs, inputs, height, width = self.weight.shape
        first = self.use.inputs * inputs * r_in * (r_in < inputs)
        core = self.use.outputs * height * width * r_out * r_in
        return first + core + self.use.outputs * outputs * r_out * (r_out < outputs)

    def factors(self, ranks: Ranks) -> list[torch.Tensor]:
        """Of 1×1, core and 1×1 those that are there."""
        outputs, inputs = self.weight.shape[:2]
        r_out, r_in = ranks
        # None is the identity: that side stays as it is.
        u_out: torch.Tensor | None = None
        u_in: torch.Tensor | None = None
        before = -1.0
        for _ in range(ITERATIONS):
            if r_in < inputs:
                seen = self._projected(u_out, None)
                u_in = spectrum(seen.transpose(0, 1).flatten(1))[1][:, :r_in]
            if r_out < outputs:
                u_out = spectrum(self._projected(None, u_in).flatten(1))[1][:, :r_out]
            now = float(self._projected(u_out, u_in).norm()) ** 2
            if now - before <= TOLERANCE * now:
                break
            before = now
        found = [self._projected(u_out, u_in)]
        if u_in is not None:
            found.insert(0, u_in.T[:, :, None, None])
        if u_out is not None:
            found.append(u_out[:, :, None, None])
        return [factor.contiguous() for factor in found]

    def _projected(self, u_out: torch.Tensor | None, u_in: torch.Tensor | None) -> torch.Tensor:
        """The weight in the bases of its outputs and its inputs."""
        result = self.weight
        if u_out is not None:
            result = torch.einsum("tsij,tr->rsij", result, u_out)
        return result if u_in is None else torch.einsum("tsij,sr->trij", result, u_in)

    def composed(self, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The core in the bases of the channels."""
        rest = list(factors)
        inputs = self.weight.shape[1]
        # Kernels of one position are no core: such layers are matrices, and not factorized here.
        result = rest.pop(1) if rest[0].shape[2:] != self.weight.shape[2:] else rest.pop(0)
        if result.shape[1] < inputs:
            result = torch.einsum("trij,rs->tsij", result, rest.pop(0)[:, :, 0, 0])
        if rest:
            result = torch.einsum("rsij,tr->tsij", result, rest[0][:, :, 0, 0])
        return result

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """The spectra of both unfoldings."""
        return {
            name: [(rank / (len(shares) - 1), share) for rank, share in enumerate(shares)]
            for name, shares in (("outputs", self.shares_out), ("inputs", self.shares_in))
        }


def _steps(full: int, step: int) -> torch.Tensor:
    """The multiples of `step` below the full rank, and the full rank."""
    return torch.tensor([*range(step, full, step), full])
