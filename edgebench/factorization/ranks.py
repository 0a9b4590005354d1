"""Choose the ranks of many layers: by the energy each keeps, or for a number of operations."""

from __future__ import annotations

from collections.abc import Mapping

from edgebench.factorization.base import Factorization, Ranks

# Bisections of the energy: past this, thresholds differ by rounding alone.
STEPS = 40

Chosen = dict[str, Ranks]


def ranks_for_energy(layers: Mapping[str, Factorization], energy: float, round_to: int) -> Chosen:
    """The ranks of those layers that are cheaper in factors that keep `energy`."""
    found = {name: layer.ranks(energy, round_to) for name, layer in layers.items()}
    return {name: ranks for name, ranks in found.items() if ranks is not None}


def saved(layers: Mapping[str, Factorization], chosen: Chosen) -> int:
    """How many multiply-accumulates go with these ranks."""
    return sum(layers[name].layer_macs - layers[name].macs(r) for name, r in chosen.items())


def ranks_for_saving(
    layers: Mapping[str, Factorization], goal: int, round_to: int
) -> tuple[Chosen, float]:
    """The ranks of the largest common energy that saves `goal` multiply-accumulates, and that.

    Where even the lowest energy saves less, its ranks are returned: compare `saved` with the goal.
    """
    low, high = 0.0, 1.0
    best = ranks_for_energy(layers, low, round_to)
    if saved(layers, best) < goal:
        return best, low
    for _ in range(STEPS):
        middle = (low + high) / 2
        chosen = ranks_for_energy(layers, middle, round_to)
        if saved(layers, chosen) >= goal:
            low, best = middle, chosen
        else:
            high = middle
    return best, low
