"""How much of a matrix each rank keeps, and the factors that keep it."""

from __future__ import annotations

import torch

# Below this share of the largest singular value, a direction is rounding.
SMALLEST = 1e-7
# Sums of shares miss one by rounding.
ROUNDING = 1e-12


def spectrum(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The squared singular values of `matrix` [m, n], falling, and its left singular vectors.

    Returns float64 [m] and [m, m], a vector a column. From the eigenvalues of M·Mᵀ: the fast way
    where n is much larger than m. In float64 the square loses nothing that float32 weights hold.
    """
    wide = matrix.detach().to(torch.float64)
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def kept(squares: torch.Tensor) -> list[float]:
    """The share of the squared norm that each rank keeps: entry r of the list is rank r's."""
    total = float(squares.sum())
    if total <= 0:
        return [1.0] * (len(squares) + 1)
    shares = (squares.cumsum(0) / total).clamp(max=1)
    return [0.0, *(float(share) for share in shares)]


def smallest_rank(shares: list[float], energy: float) -> int:
    """The smallest rank from one on that keeps at least `energy`; else the full rank."""
    full = len(shares) - 1
    return next((r for r in range(1, full) if shares[r] >= energy - ROUNDING), full)


def rounded_up(rank: int, step: int, full: int) -> int:
    """`rank` as a multiple of `step`, but not beyond the full rank."""
    return min(-(-rank // step) * step, full)


def rank_factors(
    matrix: torch.Tensor, basis: torch.Tensor, rank: int, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best factors [m, rank] and [rank, n] of `matrix` [m, n], of equal norms.

    `basis`: its left singular vectors [m, m] with `left`, else its right ones [n, n].
    """
    wide = matrix.detach().to(torch.float64)
    chosen = basis[:, :rank]
    first, second = (chosen, chosen.T @ wide) if left else (wide @ chosen, chosen.T)
    size = second.norm(dim=1) if left else first.norm(dim=0)
    # Half of each singular value on either side, so that training on moves both alike.
    root = size.clamp(min=SMALLEST * max(float(size.max()), SMALLEST)).sqrt()
    return (
        (first * root, second / root[:, None]) if left else (first / root, second * root[:, None])
    )
