"""Averaged weights, against an average kept by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgebench.training.averaging import Average
from edgebench.training.loop import deterministic, fit
from edgebench.training.losses import cross_entropy
from edgebench.training_settings import Training


class Holder(nn.Module):
    """A weight and buffers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("statistic", torch.zeros(2))
        self.register_buffer("places", torch.arange(2000))
        self.register_buffer("chosen", torch.tensor([True, False]))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def test_an_update_counts_by_its_age() -> None:
    module = Holder()
    average = Average(module, 0.5)
    for value in (8.0, 4.0, 1.0):
        with torch.no_grad():
            module.weight.fill_(value)
            module.statistic.fill_(-value)
        average.update(module)
    average.put_into(module)
    # (8 · ¼ + 4 · ½ + 1) / (¼ + ½ + 1)
    assert module.weight.tolist() == pytest.approx([20 / 7] * 2)
    assert module.statistic.tolist() == pytest.approx([-20 / 7] * 2)


def test_the_first_update_takes_the_place_of_the_first_weights() -> None:
    module = Holder()
    average = Average(module, 0.999)
    with torch.no_grad():
        module.weight.fill_(3.0)
    average.update(module)
    average.put_into(module)
    assert module.weight.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("decay", [0.9, 0.95, 0.9999])
def test_what_has_no_mean_is_the_latest(decay: float) -> None:
    module = Holder()
    average = Average(module, decay)
    for _ in range(3):
        average.update(module)
    module.chosen.logical_not_()
    average.update(module)
    average.put_into(module)
    # Torch's own rule turns hundreds of these integers into the next smaller one.
    assert torch.equal(module.places, torch.arange(2000))
    assert module.chosen.tolist() == [False, True]
    assert module.mask.tolist() == [0.0, -torch.inf]


def test_weights_that_stand_still_keep_their_bits() -> None:
    module = nn.Linear(50, 50)
    before = module.weight.detach().clone()
    average = Average(module, 0.97)
    for _ in range(40):
        average.update(module)
    average.put_into(module)
    assert torch.equal(module.weight, before)


def test_shared_weights_stay_shared() -> None:
    first = nn.Linear(3, 3)
    module = nn.Sequential(first, first)
    average = Average(module, 0.5)
    for value in (1.0, 4.0):
        with torch.no_grad():
            first.weight.fill_(value)
        average.update(module)
    average.put_into(module)
    assert module[0].weight is module[1].weight
    assert first.weight.flatten().tolist() == pytest.approx([3.0] * 9)


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_a_training_keeps_the_average_of_its_updates(data, decay: float) -> None:
    x, y = torch.from_numpy(data.train_x[:101]), torch.from_numpy(data.train_y)
    with deterministic(0):
        module = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )
    states: list[dict[str, torch.Tensor]] = []
    updates: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        updates.append((done, total))
        if len(updates) <= total:
            states.append({k: v.double().clone() for k, v in module.state_dict().items()})

    settings = Training(epochs=2, batch_size=20, learning_rate=0.02, ema=decay)
    fit(module, x, cross_entropy(y), settings, seed=0, what="base", on_update=watch)
    # Five updates an epoch, one example being left over, and one call for the average.
    assert updates == [(done, 10) for done in range(1, 11)] + [(10, 10)]
    counts = [decay**age for age in range(9, -1, -1)]
    for name, found in module.state_dict().items():
        wanted = sum(c * s[name] for c, s in zip(counts, states, strict=True)) / sum(counts)
        if name == "1.num_batches_tracked":
            wanted = torch.tensor(10.0, dtype=torch.float64)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(module[4].weight.double(), states[-1]["4.weight"], atol=1e-4)


def test_zeros_that_are_kept_after_each_update_stay_zero_in_the_average(data) -> None:
    x, y = torch.from_numpy(data.train_x[:100]), torch.from_numpy(data.train_y)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    seen: list[float] = []

    def keep(done: int, total: int) -> None:
        seen.append(module[1].weight[:, 20:30].abs().sum().item())
        with torch.no_grad():
            module[1].weight[:, 20:30] = 0.0

    settings = Training(epochs=1, batch_size=20, learning_rate=0.02, ema=0.9)
    fit(module, x, cross_entropy(y), settings, seed=0, what="base", on_update=keep)
    assert max(seen[:-1]) > 0
    # Zero already when the average took the module's place, so that nothing had to be cut off.
    assert seen[-1] == 0.0
