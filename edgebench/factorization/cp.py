"""CP of a convolution: 1×1, depthwise k×k, 1×1, all of one rank.

The kernel [outputs, inputs, height · width] is a sum of `rank` outer products: both spatial modes
stay together, so that three layers do. Lebedev et al. part them and need four ("Speeding-up
Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015). Found by alternating
least squares (Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 2009).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgebench.factorization.base import Factorization, Ranks, Use
from edgebench.factorization.spectrum import ROUNDING, spectrum

# Iterations at most, and the gain of the kept share in one of them that is too small to go on: to
# compare ranks, and for the one that was chosen.
ROUGH = (50, 1e-4)
FINE = (300, 1e-6)
# Of the mean square of the components: keeps two of them from growing against each other.
RIDGE = 1e-9
# Against division by zero.
TINY = 1e-30

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Cp(Factorization):
    """W[t, s, i, j] ≈ Σ_r A[t, r] · B[s, r] · C[i, j, r]; the one rank is the number of terms.

    No spectrum says what a rank keeps: each is tried, and remembered.
    """

    kind = "cp"

    def __init__(self, layer: nn.Conv2d, use: Use, seed: int) -> None:
        super().__init__(layer, use)
        self.seed = seed
        self.tensor = self.weight.flatten(2)
        self.tried: dict[int, tuple[Factors, float]] = {}

    def fitted(self, rank: int) -> tuple[Factors, float]:
        """Rough factors of this rank and the energy they keep."""
        if rank not in self.tried:
            start = starting_factors(self.tensor, rank, self.seed)
            self.tried[rank] = alternating_least_squares(self.tensor, start, *ROUGH)
        return self.tried[rank]

    def ranks(self, energy: float, round_to: int) -> Ranks | None:
        """The smallest cheaper rank that keeps `energy`, to within a thirty-second of it.

        Doubling, then bisection: a fit takes time with the cube of its rank.
        """
        most = min((self.layer_macs - 1) // self.macs((1,)), self.full) // round_to
        # In steps of `round_to`: `low` does not keep enough, `high` does.
        low, high = 0, 1
        while high <= most and not self._keeps(high * round_to, energy):
            low, high = high, 2 * high
        if high > most:
            if low == most or not self._keeps(most * round_to, energy):
                return None
            high = most
        while high - low > max(1, low // 32):
            middle = (low + high) // 2
            if self._keeps(middle * round_to, energy):
                high = middle
            else:
                low = middle
        return (high * round_to,)

    def _keeps(self, rank: int, energy: float) -> bool:
        return self.fitted(rank)[1] >= energy - ROUNDING

    @property
    def full(self) -> int:
        """The rank that is always enough: the product of the two smallest modes."""
        small, middle, _ = sorted(self.tensor.shape)
        return small * middle

    def macs(self, ranks: Ranks) -> int:
        """The first 1×1 works at the input's positions, the rest at the output's."""
        outputs, inputs, places = self.tensor.shape
        return ranks[0] * (self.use.inputs * inputs + self.use.outputs * (places + outputs))

    def factors(self, ranks: Ranks) -> list[torch.Tensor]:
        """The kernels of 1×1, depthwise k×k and 1×1."""
        rough, _ = self.fitted(ranks[0])
        (outputs, inputs, places), _ = alternating_least_squares(self.tensor, rough, *FINE)
        kernel = self.weight.shape[2:]
        return [
            inputs.T[:, :, None, None].contiguous(),
            places.T.reshape(-1, 1, *kernel).contiguous(),
            outputs[:, :, None, None].contiguous(),
        ]

    def composed(self, factors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum of the outer products."""
        first, middle, last = factors
        return torch.einsum("rs,rij,tr->tsij", first[:, :, 0, 0], middle[:, 0], last[:, :, 0, 0])

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """What the ranks that were tried kept."""
        points = [(rank / self.full, share) for rank, (_, share) in sorted(self.tried.items())]
        return {"": [(0.0, 0.0), *points]}


def starting_factors(tensor: torch.Tensor, rank: int, seed: int) -> Factors:
    """The leading singular vectors of each unfolding, and beyond them random vectors by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (_start(tensor.movedim(mode, 0).flatten(1), rank, generator) for mode in range(3))
    return a, b, c


def alternating_least_squares(
    tensor: torch.Tensor, start: Factors, iterations: int, tolerance: float
) -> tuple[Factors, float]:
    """Three factors [size of the mode, rank] of `tensor`, and the share of its squared norm kept.

    Each term's size is spread over its factors evenly.
    """
    total = float(tensor.norm()) ** 2
    if total <= 0:
        a, b, c = (torch.zeros_like(factor) for factor in start)
        return (a, b, c), 1.0
    a, b, c = start
    slices = list(tensor.unbind(2))
    share = 0.0
    for _ in range(iterations):
        # One slice at a time: the Khatri-Rao product of two modes would not fit into memory.
        a = _unit(_solved(_sum([x @ (b * row) for x, row in zip(slices, c, strict=True)]), b, c))
        b = _unit(_solved(_sum([x.T @ (a * row) for x, row in zip(slices, c, strict=True)]), a, c))
        places = torch.stack([((x @ b) * a).sum(0) for x in slices])
        c = _solved(places, a, b)
        norm = float(((a.T @ a) * (b.T @ b) * (c.T @ c)).sum())
        lost = max(total - 2 * float((places * c).sum()) + norm, 0.0)
        before, share = share, 1 - lost / total
        if abs(share - before) < tolerance:
            break
    size = c.norm(dim=0)
    root = size.pow(1 / 3)
    return (a * root, b * root, c * (root / size.clamp(min=TINY))), share


def _start(unfolding: torch.Tensor, rank: int, generator: torch.Generator) -> torch.Tensor:
    vectors = spectrum(unfolding)[1][:, :rank]
    missing = rank - vectors.shape[1]
    drawn = torch.randn(len(vectors), missing, generator=generator, dtype=torch.float64)
    return torch.cat([vectors, _unit(drawn)], dim=1)


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(parts).sum(0)


def _unit(factor: torch.Tensor) -> torch.Tensor:
    scaled: torch.Tensor = factor / factor.norm(dim=0).clamp(min=TINY)
    return scaled


def _solved(products: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The factor that fits best beside two fixed ones: its normal equations, slightly damped."""
    gram = (one.T @ one) * (other.T @ other)
    ridge = max(RIDGE * float(gram.diagonal().mean()), TINY)
    gram.diagonal().add_(ridge)
    solved: torch.Tensor = torch.linalg.solve(gram, products, left=False)
    return solved
