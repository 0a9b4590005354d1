"""Each criterion ranks channels as its paper says: against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgebench.pruning.channels import find_groups
from edgebench.pruning.importance import importance_of, prepared
from edgebench.training.loop import deterministic

ROWS = [[1.0, 0.0, 0.0], [1.0, 1.0, -1.0], [-2.0, 0.0, 0.0], [0.0, 0.0, 0.5]]
# Only the last channel is heard.
COLUMNS = [[0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
EXAMPLES = (
    torch.tensor([[0.5, 1.0, 0.2], [0.1, 0.2, 3.0], [1.0, 0.0, 0.3]]),
    torch.tensor([0, 1, 1]),
)


def network(columns: list[list[float]] = COLUMNS) -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        module[0].weight[:] = torch.tensor(ROWS)
        module[2].weight[:] = torch.tensor(columns)
    return module


def worth(name: str, module: nn.Module, *, probabilities: bool = False) -> list[float]:
    """What the only group's channels are worth, their mean being 1 (but for lamp and random)."""
    copy = prepared(name, module, EXAMPLES, probabilities=probabilities)
    (group,) = find_groups(copy, EXAMPLES[0], importance_of(name), lambda _: True)
    assert group.worth is not None
    return group.worth.tolist()


def over_mean(values: list[float]) -> list[float]:
    return [v / (sum(values) / len(values)) for v in values]


# With the squares of each row, 1, 3, 4 and 1/4, and those of the columns, 0, 0, 0 and 9.
GROUP = [1.0, 3.0, 4.0, 9.25]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("l1", over_mean([1.0, 3.0, 2.0, 0.5])),
        ("l2", over_mean([1.0, 3.0, 4.0, 0.25])),
        ("group-norm", over_mean(GROUP)),
        ("lamp", [1 / 17.25, 3 / 16.25, 4 / 13.25, 1.0]),
    ],
)
def test_norms(name: str, wanted: list[float]) -> None:
    assert worth(name, network()) == pytest.approx(wanted, rel=1e-6)


def test_fpgm_is_the_distance_to_the_other_filters() -> None:
    columns = list(zip(*COLUMNS, strict=True))
    sums = [
        sum(math.dist(ROWS[i], other) for other in ROWS)
        + sum(math.dist(columns[i], other) for other in columns)
        for i in range(4)
    ]
    assert worth("fpgm", network()) == pytest.approx(over_mean(sums), rel=1e-4)


def test_opposite_filters_are_far_apart() -> None:
    """torch-pruning's own takes magnitudes first, and so sees no difference between them."""
    module = network([[0.0] * 4] * 2)
    with torch.no_grad():
        module[0].weight[:] = torch.tensor([[4.0, 0, 0], [-4.0, 0, 0], [3.0, 0, 0], [3.5, 0, 0]])
    # Distances to the others: 9.5, 22.5, 8.5, 8.5 + ... : the third and fourth lie in the middle.
    assert worth("fpgm", module) == pytest.approx(over_mean([9.5, 23 - 0.5, 8.5, 8.5]), rel=1e-4)


def gradients(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of the loss of each example, over the rows and the columns."""
    found = []
    for x, y in zip(*EXAMPLES, strict=True):
        module.zero_grad()
        F.cross_entropy(module(x[None]), y[None]).backward()
        found.append((module[0].weight.grad.clone(), module[2].weight.grad.clone()))
    return found


HEARD = [[0.1, -0.4, 0.2, 3.0], [0.3, 0.2, -0.1, 0.0]]


def test_taylor_is_weight_times_gradient() -> None:
    module = network(HEARD)
    rows, columns = (torch.stack(g).mean(0) for g in zip(*gradients(module), strict=True))
    first = (module[0].weight * rows).abs().sum(1)
    second = (module[2].weight * columns).abs().sum(0)
    wanted = over_mean((first + second).tolist())
    assert worth("taylor", module) == pytest.approx(wanted, rel=1e-5)


def test_hessian_is_the_squared_weight_times_the_mean_squared_gradient_of_all_examples() -> None:
    module = network(HEARD)
    rows, columns = (torch.stack(g).square().mean(0) for g in zip(*gradients(module), strict=True))
    first = (module[0].weight ** 2 * rows).sum(1)
    second = (module[2].weight ** 2 * columns).sum(0)
    wanted = over_mean((first + second).tolist())
    assert worth("hessian", module) == pytest.approx(wanted, rel=1e-5)
    # Of the last example alone, as torch-pruning's own sum would have it, it is another order.
    rows, columns = (g.square() for g in gradients(module)[-1])
    last = (module[0].weight ** 2 * rows).sum(1) + (module[2].weight ** 2 * columns).sum(0)
    assert over_mean(last.tolist()) != pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("name", ["taylor", "hessian"])
def test_what_nobody_listens_to_is_worth_nothing(name: str) -> None:
    found = worth(name, network())
    assert found[:3] == [0.0, 0.0, 0.0]
    assert found[3] > 0


def test_gradients_are_those_of_a_model_that_answers_with_probabilities() -> None:
    plain = network(HEARD)
    with_softmax = nn.Sequential(*network(HEARD), nn.Softmax(1))
    given = worth("taylor", with_softmax, probabilities=True)
    assert given == pytest.approx(worth("taylor", plain), rel=1e-3)


def test_bn_scale_is_gamma() -> None:
    module = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        module[1].weight[:] = torch.tensor([0.5, -4.0, 2.0, 1.5])
    importance = importance_of("bn-scale")
    copy = prepared("bn-scale", module, EXAMPLES)
    first, second = find_groups(copy, EXAMPLES[0], importance, lambda _: True)
    assert first.worth is not None
    assert first.worth.tolist() == pytest.approx(over_mean([0.5, 4.0, 2.0, 1.5]))
    assert second.worth is None


def test_random_follows_the_seed() -> None:
    def drawn(seed: int) -> list[float]:
        with deterministic(seed):
            return worth("random", network())

    assert drawn(1) == drawn(1) != drawn(2)


def test_weights_of_zero_are_worth_nothing() -> None:
    module = network([[0.0] * 4] * 2)
    nn.init.zeros_(module[0].weight)
    for name in ("l1", "group-norm", "lamp", "fpgm"):
        assert worth(name, module) == [0.0] * 4, name


def test_the_network_that_is_ranked_is_left_as_it_is() -> None:
    module = network(HEARD)
    before = {key: t.clone() for key, t in module.state_dict().items()}
    for name in ("fpgm", "taylor", "hessian"):
        worth(name, module)
    assert all(torch.equal(before[key], t) for key, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
