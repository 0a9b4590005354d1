"""Training: the same from the same seed, and in words where it cannot work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.training_settings import Training
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import cross_entropy

SETTINGS = Training(epochs=2, batch_size=32, learning_rate=5e-3)


@pytest.fixture
def tensors(data) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)


def small(*middle: nn.Module) -> nn.Module:
    with deterministic(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), *middle, nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
        )


def train(
    tensors: tuple[torch.Tensor, torch.Tensor],
    *,
    module: nn.Module | None = None,
    seed: int = 0,
    n: int | None = None,
    **changes: Any,
) -> nn.Module:
    x, y = tensors
    module = module or small(nn.BatchNorm2d(4), nn.ReLU())
    fit(
        module,
        x[:n],
        cross_entropy(y),
        SETTINGS.model_copy(update=changes),
        seed=seed,
        what="base",
    )
    return module


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([t.detach().flatten().double() for t in module.state_dict().values()])


def test_the_same_seed_gives_the_same_bits(tensors) -> None:
    torch.manual_seed(1)
    first = train(tensors)
    torch.manual_seed(2)
    second = train(tensors)
    assert torch.equal(flat(first), flat(second))


def test_another_seed_gives_another_network(tensors) -> None:
    assert not torch.equal(flat(train(tensors, seed=0)), flat(train(tensors, seed=1)))


def test_torchs_own_random_draws_go_on_untouched(tensors) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tensors)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("on", "warn_only"), [(False, False), (True, True), (True, False)])
def test_determinism_is_put_back_as_it_was(on: bool, warn_only: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        with deterministic(0):
            assert torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled() is on
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(before)


def test_random_draws_are_put_back_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(ZeroDivisionError), deterministic(0):
        _ = torch.rand(1) / (1 // 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_learns(tensors, optimizer: str) -> None:
    x, y = tensors
    rate = 0.1 if optimizer == "sgd" else 5e-3
    before = (predict(small(nn.ReLU()), x).argmax(1) == y).float().mean()
    module = train(
        tensors, module=small(nn.ReLU()), optimizer=optimizer, learning_rate=rate, epochs=5
    )
    after = (predict(module, x).argmax(1) == y).float().mean()
    assert before < 0.3
    assert after > 0.7


def test_the_optimizers_are_different_ones(tensors) -> None:
    def trained(optimizer: str) -> torch.Tensor:
        return flat(train(tensors, optimizer=optimizer, weight_decay=0.1))

    adam, adamw, sgd = trained("adam"), trained("adamw"), trained("sgd")
    assert not torch.equal(adam, adamw)
    assert not torch.equal(adam, sgd)


def test_weight_decay_makes_weights_smaller(tensors) -> None:
    free = train(tensors, optimizer="adamw", learning_rate=0.05)
    held = train(tensors, optimizer="adamw", learning_rate=0.05, weight_decay=1.0)
    assert held[-1].weight.norm() < free[-1].weight.norm()


def test_each_epoch_is_told_with_its_mean_loss(tensors) -> None:
    x, y = tensors
    told: list[tuple[int, int, float]] = []
    fit(
        small(nn.ReLU()),
        x,
        cross_entropy(y),
        SETTINGS.model_copy(update={"epochs": 3}),
        seed=0,
        what="base",
        on_epoch=lambda *values: told.append(values),
    )
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert math.log(10) > told[0][2] > told[1][2] > told[2][2] > 0


def test_the_network_is_left_in_evaluation_mode(tensors) -> None:
    assert not any(part.training for part in train(tensors).modules())


def test_the_learning_rate_falls_to_zero(tensors) -> None:
    x, y = tensors
    module = small()
    steps: list[float] = []
    weight = module[-1].weight
    last = weight.detach().clone()

    def measure(*_: int) -> None:
        nonlocal last
        steps.append(float((weight.detach() - last).norm()))
        last = weight.detach().clone()

    fit(
        module,
        x,
        cross_entropy(y),
        SETTINGS.model_copy(update={"epochs": 4}),
        seed=0,
        what="base",
        on_update=measure,
    )
    assert len(steps) == 4 * math.ceil(300 / 32)
    assert steps[-1] < 0.05 * max(steps)


def test_a_loss_that_is_not_finite_says_what_diverged(tensors) -> None:
    with pytest.raises(BuildError, match=r"training base diverged in epoch 1.*lower the learning"):
        train((tensors[0] * 1e30, tensors[1]), module=small(nn.ReLU()), optimizer="sgd")


@pytest.mark.parametrize("n", [33, 65])
def test_a_single_example_left_over_does_not_stop_batch_normalisation(tensors, n: int) -> None:
    module = train(tensors, module=small(nn.AdaptiveAvgPool2d(6), nn.BatchNorm2d(4)), n=n)
    assert torch.isfinite(flat(module)).all()
    # A batch of one would need a spatial extent to have a variance at all.
    with deterministic(0):
        pooled = nn.Sequential(nn.Conv2d(1, 10, 8), nn.BatchNorm2d(10), nn.Flatten())
    train(tensors, module=pooled, n=n)


def test_batches_of_one_are_trained_on(tensors) -> None:
    module = small(nn.ReLU())
    before = flat(module)
    train(tensors, module=module, n=8, batch_size=1)
    assert not torch.equal(flat(module), before)


def test_one_example_alone_is_trained_on(tensors) -> None:
    module = small(nn.ReLU())
    before = flat(module)
    train(tensors, module=module, n=1)
    assert not torch.equal(flat(module), before)


def with_auxiliary_head(x: torch.Tensor) -> Any:
    return x, x


class Calls(nn.Module):
    """A network that does something else once it trains."""

    def __init__(self, training: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.when_training = training

    def forward(self, x: torch.Tensor) -> Any:
        answer = self.head(x.flatten(1))
        return self.when_training(answer) if self.training else answer


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Calls(with_auxiliary_head), "training base failed: "),
        (Calls(lambda x: x[:, :3, None].expand(-1, 3, 5)), "training base failed: "),
        (Calls(lambda x: x.detach()), "RuntimeError: element 0 of tensors does not require grad"),
        (nn.Sequential(nn.Flatten()), "the model has no parameter to train"),
        (Calls(torch.nn.Identity()).requires_grad_(False), "the model has no parameter to train"),
    ],
)
def test_a_network_that_cannot_train_is_named_in_one_line(
    tensors, module: nn.Module, text: str
) -> None:
    with pytest.raises(BuildError) as caught:
        train(tensors, module=module)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_normalisation_cannot_train_on_batches_of_one(tensors) -> None:
    module = nn.Sequential(nn.Conv2d(1, 10, 8), nn.BatchNorm2d(10), nn.Flatten())
    with pytest.raises(BuildError, match=r"Expected more than 1 value per channel.*batch_size"):
        train(tensors, module=module, batch_size=1)


def test_frozen_parameters_stay(tensors) -> None:
    module = small(nn.ReLU())
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    train(tensors, module=module)
    assert torch.equal(module[0].weight, before)


def test_predictions_do_not_depend_on_the_batch(tensors) -> None:
    module = train(tensors).train()
    whole = predict(module, tensors[0], batch=300)
    assert not module.training
    assert not whole.requires_grad
    assert torch.allclose(whole, predict(module, tensors[0], batch=7), atol=1e-5)
