"""Factorizations: exact where the weight is of low rank, and cheaper by the amount they say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.factorization.base import Factorization
from edgebench.factorization.cp import Cp
from edgebench.factorization.layers import (
    empty_layers,
    filled,
    owners,
    replace,
    uses,
    why_not,
)
from edgebench.factorization.ranks import ranks_for_energy, ranks_for_saving, saved
from edgebench.factorization.spectrum import kept, rank_factors, rounded_up, smallest_rank, spectrum
from edgebench.factorization.svd import SpatialSvd, Svd
from edgebench.factorization.tucker import Tucker2
from edgebench.models.costs import costs
from edgebench.training.loop import deterministic

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uneven": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 3), "dilation": (1, 2)},
    "same": {"kernel_size": (2, 4), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": (2, 1), "stride": 2, "padding_mode": "circular"},
    "replicate": {"kernel_size": 3, "padding": 1, "padding_mode": "replicate", "dilation": 2},
    "biasless": {"kernel_size": 3, "padding": 1, "bias": False},
    "double": {"kernel_size": 3, "dtype": torch.float64},
}
INPUTS, OUTPUTS, RANK = 6, 10, 2


def macs(module: nn.Module, x: torch.Tensor) -> int:
    """The multiply-accumulates of one of the examples `x`, as torch counts them."""
    return costs(module, x)["macs"]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def low_rank_weight(kind: str, height: int, width: int) -> torch.Tensor:
    """A random kernel [OUTPUTS, INPUTS, height, width] that RANK terms of this kind make."""
    if kind == "svd":
        return torch.einsum("tr,rsij->tsij", draw(OUTPUTS, RANK), draw(RANK, INPUTS, height, width))
    if kind == "spatial":
        rows, columns = draw(RANK, INPUTS, height), draw(OUTPUTS, RANK, width)
        return torch.einsum("rsi,trj->tsij", rows, columns)
    if kind == "cp":
        core = draw(RANK, height, width)
        return torch.einsum("tr,sr,rij->tsij", draw(OUTPUTS, RANK), draw(INPUTS, RANK), core)
    core = draw(RANK, RANK, height, width)
    return torch.einsum("ta,sb,abij->tsij", draw(OUTPUTS, RANK), draw(INPUTS, RANK), core)


def factorization(layer: nn.Module, kind: str, example: torch.Tensor) -> Factorization:
    use = uses(layer, example)[layer]
    if kind == "cp":
        return Cp(layer, use, seed=3)
    return {"svd": Svd, "spatial": SpatialSvd, "tucker": Tucker2}[kind](layer, use)


@pytest.mark.parametrize("kind", ["tucker", "cp", "svd", "spatial"])
@pytest.mark.parametrize("settings", CONVOLUTIONS)
def test_a_kernel_of_low_rank_is_written_exactly(kind: str, settings: str) -> None:
    with deterministic(1):
        layer = nn.Conv2d(INPUTS, OUTPUTS, **CONVOLUTIONS[settings])
        with torch.no_grad():
            layer.weight.copy_(low_rank_weight(kind, *layer.kernel_size))
        x = torch.randn(2, INPUTS, 11, 12, dtype=layer.weight.dtype)
    before = torch.random.get_rng_state()
    made = factorization(layer, kind, x)
    # Alternating least squares comes close to an exact fit, and no closer.
    ranks = made.ranks(0.99 if kind == "cp" else 1 - 1e-7, 1)
    assert ranks == ((RANK, RANK) if kind == "tucker" else (RANK,))
    factors = made.factors(ranks)
    chain = filled(empty_layers(layer, kind, ranks), factors, layer)
    assert torch.equal(torch.random.get_rng_state(), before)

    tolerance = 1e-2 if kind == "cp" else 1e-4
    torch.testing.assert_close(chain(x), layer(x), rtol=tolerance, atol=tolerance)
    assert all(p.dtype == layer.weight.dtype for p in chain.parameters())
    assert [part.bias is not None for part in chain][:-1] == [False] * (len(chain) - 1)
    assert (chain[-1].bias is not None) == (layer.bias is not None)
    # What is said of the work is what the layers do, counted while they run.
    assert made.layer_macs == macs(layer, x)
    assert made.macs(ranks) == macs(chain, x) < macs(layer, x)
    # The weight the factors make, and the energy it keeps.
    lost = (made.weight - made.composed(factors)).norm() / made.weight.norm()
    assert lost < (1e-3 if kind == "cp" else 1e-6)


@pytest.mark.parametrize("kind", ["tucker", "cp", "svd", "spatial"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_the_energy_asked_for_is_kept_at_the_least_cost(kind: str, round_to: int) -> None:
    with deterministic(2):
        layer = nn.Conv2d(16, 24, 3, padding=1)
        with torch.no_grad():
            # Falling singular values in both modes of the channels.
            layer.weight *= torch.linspace(1, 0.05, 24).view(-1, 1, 1, 1)
            layer.weight *= torch.linspace(1, 0.05, 16).view(1, -1, 1, 1)
    made = factorization(layer, kind, torch.zeros(1, 16, 8, 8))
    for energy in (0.3, 0.6, 0.9):
        ranks = made.ranks(energy, round_to)
        assert ranks is not None
        fulls = (24, 16) if kind == "tucker" else (10**6,)
        assert all(r % round_to == 0 or r == full for r, full in zip(ranks, fulls, strict=True))
        left = made.weight - made.composed(made.factors(ranks))
        share = 1 - float(left.norm() / made.weight.norm()) ** 2
        assert share >= energy - 1e-9
        if kind in {"svd", "spatial"} and ranks[0] > round_to:
            # One step less would not do: the truncated SVD is the best there is (Eckart-Young).
            fewer = made.composed(made.factors((ranks[0] - round_to,)))
            assert 1 - float((made.weight - fewer).norm() / made.weight.norm()) ** 2 < energy
    for points in made.curves().values():
        assert points[0] == (0, 0)
        assert points == sorted(points)
        if kind != "cp":
            assert points[-1][0] == 1
            assert points[-1][1] == pytest.approx(1)
            assert [share for _, share in points] == sorted(share for _, share in points)


def test_tucker_takes_the_cheapest_pair_of_ranks() -> None:
    with deterministic(3):
        layer = nn.Conv2d(5, 7, 3)
    made = factorization(layer, "tucker", torch.zeros(1, 5, 6, 6))
    assert isinstance(made, Tucker2)
    best = min(
        made.macs((a, b))
        for a in range(1, 8)
        for b in range(1, 6)
        if float(made.table[a - 1, b - 1]) >= 0.5
    )
    ranks = made.ranks(0.5, 1)
    assert ranks is not None
    assert made.macs(ranks) == best
    # 16 outputs of 36 inputs: 5·r_in·36 + 9·r_out·r_in·16 + 7·r_out·16.
    assert made.macs((2, 3)) == 5 * 3 * 36 + 9 * 6 * 16 + 7 * 2 * 16
    assert made.macs((2, 5)) == 9 * 10 * 16 + 7 * 2 * 16
    assert made.macs((7, 5)) == made.layer_macs


def test_iterating_improves_the_tucker_approximation() -> None:
    with deterministic(4):
        layer = nn.Conv2d(12, 12, 3)
    made = factorization(layer, "tucker", torch.zeros(1, 12, 6, 6))
    assert isinstance(made, Tucker2)
    left = made.weight - made.composed(made.factors((4, 4)))
    share = 1 - float(left.norm() / made.weight.norm()) ** 2
    assert share > float(made.table[3, 3]) + 0.005


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(12, 30), (30, 12)])
def test_a_dense_layer_of_low_rank(bias: bool, inputs: int, outputs: int) -> None:
    with deterministic(5):
        layer = nn.Linear(inputs, outputs, bias=bias)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, 3) @ torch.randn(3, inputs))
        x = torch.randn(4, 7, inputs)
    made = Svd(layer, uses(layer, x)[layer])
    assert made.ranks(1 - 1e-7, 1) == (3,)
    factors = made.factors((3,))
    chain = filled(empty_layers(layer, "svd", (3,)), factors, layer)
    torch.testing.assert_close(chain(x), layer(x), rtol=1e-4, atol=1e-4)
    assert made.macs((3,)) == macs(chain, x) == 7 * 3 * 42
    # Both factors are of the same norm: training on moves both alike.
    sizes = [float(factor.norm()) for factor in factors]
    assert sizes[0] == pytest.approx(sizes[1])


def test_a_pointwise_convolution_strides_first() -> None:
    with deterministic(6):
        layer = nn.Conv2d(8, 12, 1, stride=2, padding=1)
        with torch.no_grad():
            layer.weight.copy_((torch.randn(12, 2) @ torch.randn(2, 8))[:, :, None, None])
        x = torch.randn(2, 8, 9, 9)
    made = factorization(layer, "svd", x)
    chain = filled(empty_layers(layer, "svd", (2,)), made.factors((2,)), layer)
    torch.testing.assert_close(chain(x), layer(x), rtol=1e-4, atol=1e-4)
    assert macs(chain, x) == made.macs((2,)) == 36 * 2 * 20


def test_known_numbers() -> None:
    squares, vectors = spectrum(torch.tensor([[3.0, 0, 0], [0, 0, 4.0]]))
    assert squares.tolist() == [16, 9]
    assert vectors.abs().tolist() == [[0, 1], [1, 0]]
    shares = kept(squares)
    assert shares == [0, 0.64, 1]
    assert [smallest_rank(shares, e) for e in (0, 0.5, 0.64, 0.65, 1)] == [1, 1, 1, 2, 2]
    assert kept(torch.zeros(2)) == [1, 1, 1]
    assert [rounded_up(r, 8, 20) for r in (1, 8, 9, 17)] == [8, 8, 16, 20]
    matrix = torch.tensor([[3.0, 0, 0], [0, 0, 4.0]])
    one, other = rank_factors(matrix, vectors, 1, left=True)
    torch.testing.assert_close(one @ other, torch.tensor([[0.0, 0, 0], [0, 0, 4]]).double())
    assert float(one.norm()) == pytest.approx(2)


@pytest.mark.parametrize("kind", ["tucker", "cp", "svd", "spatial"])
def test_weights_of_nothing_become_nothing(kind: str) -> None:
    layer = nn.Conv2d(8, 8, 3)
    with torch.no_grad():
        layer.weight.zero_()
    made = factorization(layer, kind, torch.zeros(1, 8, 6, 6))
    ranks = made.ranks(0.99, 1)
    assert ranks is not None
    assert set(ranks) == {1}
    assert all(torch.isfinite(factor).all() for factor in made.factors(ranks))


def test_cp_draws_by_its_seed_alone() -> None:
    with deterministic(7):
        layer = nn.Conv2d(4, 4, 3)
    use = uses(layer, torch.zeros(1, 4, 8, 8))[layer]
    one, twin, other = (Cp(layer, use, seed).factors((10,)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, twin, strict=True))
    assert not torch.equal(one[0], other[0])


def test_a_saving_is_reached_with_the_highest_common_energy() -> None:
    with deterministic(8):
        layers = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3))
    found = uses(layers, torch.zeros(1, 8, 8, 8))
    made = {str(i): Svd(layer, found[layer]) for i, layer in enumerate(layers)}
    work = sum(layer.layer_macs for layer in made.values())
    chosen, energy = ranks_for_saving(made, work // 2, 1)
    assert saved(made, chosen) >= work // 2
    assert chosen == ranks_for_energy(made, energy, 1)
    assert saved(made, ranks_for_energy(made, energy + 1e-6, 1)) < work // 2
    nothing, lowest = ranks_for_saving(made, work, 1)
    assert lowest == 0
    assert nothing == {"0": (1,), "1": (1,)}


def test_what_is_no_layer_to_factorize() -> None:
    shared = nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = shared.weight
    module = nn.ModuleList([shared, tied, nn.Conv2d(4, 4, 3, groups=2), nn.Conv1d(2, 2, 3)])
    count = owners(module)
    reasons = [why_not(layer, count) for layer in module]
    assert reasons[0] == reasons[1] == "shares its weight with another layer"
    assert "grouped" in str(reasons[2])
    assert "no plain 2-D" in str(reasons[3])
    attention = nn.MultiheadAttention(4, 2)
    assert why_not(attention.out_proj, owners(attention)) is not None
    assert why_not(nn.Linear(4, 4), owners(module)) is None


def test_a_layer_of_two_names_is_replaced_under_both() -> None:
    layer, new = nn.Linear(4, 4), nn.Identity()
    module = nn.Sequential(layer, nn.Sequential(layer), layer)
    x = torch.zeros(3, 4)
    assert uses(module, x)[layer].outputs == 3
    assert macs(module, x) == 3 * 16
    replace(module, layer, new)
    assert module[0] is module[1][0] is module[2] is new


def test_counting_leaves_the_mode_of_each_part() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4).eval(), nn.Linear(4, 4)).train()
    module[0].eval()
    uses(module, torch.zeros(1, 4))
    assert [part.training for part in module.modules()] == [True, False, True]
