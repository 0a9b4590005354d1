"""One threshold over all arrays, running statistics included, as the paper did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.pruning.all_arrays import arrays_by_kind, prune_all_arrays


def network() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
        )
        module(torch.randn(16, 3, 3, 3))
        for parameter in module[1].parameters():
            nn.init.normal_(parameter)
    return module.eval()


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_smallest_elements_of_all_arrays_are_set_to_zero(ratio: float) -> None:
    module = network()
    before = {key: tensor.numpy().copy() for key, tensor in module.state_dict().items()}
    floats = {key: array for key, array in before.items() if array.dtype == np.float32}
    pool = np.sort(np.abs(np.concatenate([array.ravel() for array in floats.values()])))
    limit = pool[round(ratio * len(pool)) - 1]

    found = prune_all_arrays(module, ratio)

    after = {key: tensor.numpy() for key, tensor in module.state_dict().items()}
    for key, array in floats.items():
        np.testing.assert_array_equal(after[key], np.where(np.abs(array) <= limit, 0, array))
    assert after["1.num_batches_tracked"] == before["1.num_batches_tracked"] == 1
    assert sum(zeros for zeros, _ in found.values()) == round(ratio * len(pool))
    assert sum(count for _, count in found.values()) == len(pool)


def test_a_running_variance_of_zero_is_just_set() -> None:
    module = network()
    norm = module[1]
    norm.running_var[0], norm.running_mean[0], norm.weight.data[0] = 1e-9, 0.0, 1.0
    found = prune_all_arrays(module, 0.05)
    assert norm.running_var[0] == 0
    assert found["running variances"][0] >= 1
    x = torch.zeros(1, 8, 1, 1)
    x[0, 0] = 1.0
    # What is left to divide by is the square root of ε.
    shift = float(norm.bias.detach()[0])
    assert float(norm(x).detach()[0, 0]) == pytest.approx(norm.eps**-0.5 + shift, rel=1e-4)


def test_arrays_are_sorted_by_what_they_are_for() -> None:
    module = network()
    # Made anew by the module, so no stored model holds it; and a shared one counts once.
    module.register_buffer("grid", torch.ones(3), persistent=False)
    module.append(nn.Linear(8, 4, bias=False))
    module[5].weight = module[4].weight
    kinds = {kind: sum(t.numel() for t in found) for kind, found in arrays_by_kind(module).items()}
    assert kinds == {
        "weights": 8 * 3 * 9 + 8 * 4,
        "biases and other vectors": 8 + 4,
        "scales and shifts of normalisation": 16,
        "running means": 8,
        "running variances": 8,
    }


def test_nothing_to_prune() -> None:
    with pytest.raises(BuildError, match="no array to prune"):
        prune_all_arrays(nn.ReLU(), 0.5)
