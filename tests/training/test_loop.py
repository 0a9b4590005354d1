"""Training: the same from the same seed, and in words where it cannot work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.errors import BuildError
from edgebench.models.source import find_model
from edgebench.pipeline.networks import Networks, Workbench
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.task import load_task
from edgebench.recipe import load_recipe
from edgebench.store import Store
from edgebench.training import loop, losses, precision
from edgebench.training.loop import deterministic, fit, predict, updates_an_epoch
from edgebench.training.losses import Batch, cross_entropy
from edgebench.training_settings import Training

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


def test_memory_is_filled_again_as_it_was() -> None:
    memory: Any = torch.utils.deterministic
    assert memory.fill_uninitialized_memory
    with deterministic(0):
        assert not memory.fill_uninitialized_memory
    assert memory.fill_uninitialized_memory


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


@pytest.mark.parametrize("optimizer", ["adam", "adamax", "adamw", "sgd"])
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


def test_the_mean_loss_is_over_what_was_trained_on() -> None:
    # The loss of a batch is the mean of its examples' numbers; of seven examples one is left over.
    module, told, seen = nn.Linear(1, 1), [], []

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.extend(batch.chosen.tolist())
        return batch.chosen.float().mean() + 0 * answer.mean()

    for count in (5, 7):
        seen.clear()
        fit(
            module,
            torch.ones(count, 1),
            loss,
            Training(epochs=1, batch_size=3),
            seed=0,
            what="base",
            on_epoch=lambda *values: told.append(values[2]),
        )
        # By example: the last of two batches, of two examples, counts for less.
        assert len(seen) == (5 if count == 5 else 6)
        assert told[-1] == pytest.approx(sum(seen) / len(seen))


def test_a_watcher_that_asks_is_told_what_is_trained(tensors) -> None:
    x, y = tensors
    told: list[tuple[Any, ...]] = []

    def asks(done: int, total: int, loss: float, what: str = "") -> None:
        told.append((done, total, what))

    def does_not(done: int, total: int, loss: float) -> None:
        told.append((done, total))

    settings = SETTINGS.model_copy(update={"epochs": 1})
    for watcher in (asks, does_not):
        fit(small(), x, cross_entropy(y), settings, seed=0, what="the teacher", on_epoch=watcher)
    assert told == [(1, 1, "the teacher"), (1, 1)]


def test_the_network_is_left_as_it_will_be_used(tensors) -> None:
    module = train(tensors, module=small(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)))
    assert not any(part.training for part in module.modules())
    assert all(p.grad is None for p in module.parameters())
    for tensor in module.state_dict().values():
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"


class Layout(nn.Module):
    """Notes in which layout weights and images reach it."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.conv, self.more, self.head = nn.Conv2d(2, 4, 3), nn.Sequential(*more), nn.Linear(4, 3)
        self.seen: set[bool] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for tensor in (x, self.conv.weight):
            self.seen.add(tensor.is_contiguous(memory_format=torch.channels_last))
        return self.head(self.conv(x).mean((2, 3)))


def with_volume() -> nn.Module:
    module = nn.Module()
    module.register_buffer("volume", torch.zeros(1, 1, 2, 2, 2))
    return module


@pytest.mark.parametrize(
    ("more", "channels_last"),
    [
        ([], True),
        # Torch refuses channels last for anything of five dimensions.
        ([nn.Conv3d(1, 1, 2)], False),
        ([with_volume()], False),
    ],
)
def test_images_are_trained_on_with_channels_last_where_torch_can(
    more: list[nn.Module], channels_last: bool
) -> None:
    module = Layout(*more)
    labels = cross_entropy(torch.tensor([0, 1, 2, 0]))
    fit(module, torch.rand(4, 2, 5, 5), labels, Training(epochs=1), seed=0, what="base")
    assert module.seen == {channels_last}
    assert module.conv.weight.is_contiguous()


def test_volumes_are_trained_on() -> None:
    with deterministic(0):
        module = nn.Sequential(
            nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(32, 2)
        )
        x = torch.rand(40, 1, 3, 3, 3)
    y = (x.mean((1, 2, 3, 4)) > 0.5).long()
    settings = Training(epochs=20, batch_size=8, learning_rate=0.02)
    fit(module, x, cross_entropy(y), settings, seed=0, what="base")
    assert (predict(module, x).argmax(1) == y).float().mean() > 0.9
    assert module[0].weight.is_contiguous()


class TwoInputs(nn.Module):
    """Compares an image with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([image.mean((1, 2, 3))[:, None], number], 1))


def test_a_network_of_two_inputs_is_trained_on_both() -> None:
    with deterministic(0):
        module, images, numbers = TwoInputs(), torch.rand(60, 1, 3, 3), torch.rand(60, 1)
    y = (images.mean((1, 2, 3)) > numbers[:, 0]).long()
    settings = Training(epochs=40, batch_size=10, learning_rate=0.1, augment={"flip": True})
    fit(module, (images, numbers), cross_entropy(y), settings, seed=0, what="base")
    assert (predict(module, (images, numbers)).argmax(1) == y).float().mean() > 0.9


@pytest.mark.parametrize(
    ("examples", "size", "updates"),
    [(64, 32, 2), (65, 32, 2), (66, 32, 3), (1, 32, 1), (32, 32, 1), (5, 1, 5), (3, 2, 1)],
)
def test_the_updates_of_an_epoch_are_counted_as_they_are_made(
    tensors, examples: int, size: int, updates: int
) -> None:
    assert updates_an_epoch(examples, size) == updates
    x, y = tensors
    made: list[tuple[int, int]] = []
    fit(
        small(nn.ReLU()),
        x[:examples],
        cross_entropy(y),
        SETTINGS.model_copy(update={"batch_size": size}),
        seed=0,
        what="base",
        on_update=lambda *numbers: made.append(numbers),
    )
    assert made == [(done, 2 * updates) for done in range(1, 2 * updates + 1)]


def test_every_example_is_seen_once_an_epoch_in_another_order(tensors) -> None:
    x, y = tensors
    orders: list[int] = []
    labels = cross_entropy(y)

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        orders.extend(batch.chosen.tolist())
        assert torch.equal(batch.inputs[0], x[batch.chosen])
        assert not batch.augmented
        return labels(answer, batch)

    fit(small(), x, loss, SETTINGS, seed=0, what="base")
    first, second = orders[:300], orders[300:]
    assert sorted(first) == sorted(second) == list(range(300))
    assert first != second


def test_what_is_beside_is_trained_and_shared_weights_only_once() -> None:
    module = nn.Linear(1, 1, bias=False)
    beside = nn.Sequential(module, nn.Linear(1, 1, bias=False))
    before = [module.weight.item(), beside[1].weight.item()]
    settings = Training(
        epochs=1, optimizer="sgd", momentum=0.0, learning_rate=0.1, schedule="constant"
    )
    fit(
        module,
        torch.ones(4, 1),
        lambda answer, batch: answer.mean() + 2 * beside[1](torch.ones(1)).sum(),
        settings,
        seed=0,
        what="base",
        beside=beside,
    )
    assert module.weight.item() == pytest.approx(before[0] - 0.1)
    assert beside[1].weight.item() == pytest.approx(before[1] - 0.2)
    assert not beside.training


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


def worsening(epoch: int, updates: int) -> Callable[[torch.Tensor, Batch], torch.Tensor]:
    """A loss that is not a number from the first update of an epoch on."""
    made = []

    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        made.append(1)
        bad = len(made) > (epoch - 1) * updates
        return answer.mean() * (math.nan if bad else 1.0)

    return loss


def test_a_loss_that_is_not_a_number_ends_the_training_before_it_reaches_a_weight(
    tensors, tmp_path: Path
) -> None:
    module, epochs, updates = small(nn.ReLU()), [], []
    with pytest.raises(BuildError) as caught:
        fit(
            module,
            tensors[0],
            worsening(3, 10),
            SETTINGS.model_copy(update={"epochs": 5}),
            seed=0,
            what="the student",
            on_epoch=lambda done, *_: epochs.append(done),
            on_update=lambda done, _: updates.append(done),
            checkpoint=tmp_path / "c.pt",
        )
    assert str(caught.value) == (
        "training the student diverged in epoch 3: the loss is not finite; lower the learning rate"
    )
    assert epochs == [1, 2]
    assert updates == list(range(1, 21))
    assert torch.isfinite(flat(module)).all()


def test_a_loss_that_rises_far_and_stays_finite_is_a_divergence(tensors) -> None:
    with pytest.raises(BuildError) as caught:
        train(tensors, module=small(nn.ReLU()), learning_rate=10.0, epochs=6)
    assert re.fullmatch(
        r"training base diverged in epoch 1: the loss rose from 2\.\d+ to \S+; "
        "lower the learning rate",
        str(caught.value),
    )


class Course:
    """A loss of one value in each epoch, whatever the network answers."""

    def __init__(self, *values: float, done: int = 0) -> None:
        self.values, self.done = values, done

    def __call__(self, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        return 0 * answer.mean() + self.values[self.done]

    def on_epoch(self, done: int, *_: object) -> None:
        self.done = done


@pytest.mark.parametrize(
    ("first", "later", "rises", "diverged"),
    [
        (8.0, 79.0, 1.0, False),
        (8.0, 81.0, 1.0, True),
        # A part of the loss is faded in over four epochs.
        (8.0, 81.0, 4.0, False),
        (8.0, 321.0, 4.0, True),
        # A trained network that is pruned while it is trained on, against its own answers.
        (1e-9, 30.0, 1.0, False),
        (1e-9, 51.0, 1.0, True),
        (-3.0, 49.0, 1.0, False),
    ],
)
def test_a_rise_is_measured_by_the_first_loss_and_by_what_guessing_costs(
    tensors, first: float, later: float, rises: float, diverged: bool
) -> None:
    course = Course(first, later)

    def run() -> None:
        fit(
            small(),
            tensors[0],
            course,
            SETTINGS,
            seed=0,
            what="base",
            rises=rises,
            on_epoch=course.on_epoch,
        )

    if diverged:
        with pytest.raises(
            BuildError, match=rf"diverged in epoch 2: the loss rose from {first:g} to"
        ):
            run()
    else:
        run()


def test_a_training_that_goes_on_knows_its_first_loss(tensors, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def run(course: Course, dies: int | None) -> None:
        def on_epoch(done: int, *more: object) -> None:
            course.on_epoch(done)
            if done == dies:
                raise Killed

        fit(
            small(),
            tensors[0],
            course,
            SETTINGS.model_copy(update={"epochs": 3}),
            seed=0,
            what="base",
            on_epoch=on_epoch,
            checkpoint=tmp_path / "c.pt",
        )

    with pytest.raises(Killed):
        run(Course(8.0, 60.0), dies=2)
    with pytest.raises(BuildError, match=r"diverged in epoch 3: the loss rose from 8 to 100;"):
        run(Course(8.0, 60.0, 100.0, done=1), dies=None)


class SquareRoot(torch.autograd.Function):
    """Zero, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def test_weights_that_the_last_update_ruined_are_noticed(tensors, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    checkpoint = tmp_path / "c.pt"
    # One update: its loss is finite, and no other would come.
    with pytest.raises(BuildError, match=r"base diverged in epoch 1: '1\.weight' is not finite"):
        fit(
            module,
            tensors[0],
            lambda answer, batch: SquareRoot.apply(answer).mean(),
            Training(epochs=1, batch_size=300, optimizer="sgd"),
            seed=0,
            what="base",
            checkpoint=checkpoint,
        )
    assert not checkpoint.exists()


def test_running_statistics_that_overflow_are_noticed(tensors) -> None:
    x, y = tensors
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    with pytest.raises(BuildError, match=r"diverged in epoch 1: '2\.running_var' is not finite"):
        fit(module, x * 1e25, cross_entropy(y), SETTINGS, seed=0, what="base")


def test_an_infinite_mask_of_the_networks_own_is_no_divergence(tensors) -> None:
    x, y = tensors
    module = small(nn.ReLU())
    module.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    settings = SETTINGS.model_copy(update={"ema": 0.9})
    fit(module, x, cross_entropy(y), settings, seed=0, what="base")
    assert module.mask.tolist() == [0.0, -math.inf]


def test_a_full_gpu_says_so(tensors) -> None:
    def loss(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    with pytest.raises(BuildError) as caught:
        fit(small(), tensors[0], loss, SETTINGS, seed=0, what="base")
    assert str(caught.value) == (
        "training base failed: the GPU's memory is full; lower training.batch_size, or set "
        "training.device to cpu"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(tensors) -> None:
    with pytest.raises(BuildError, match=r"no CUDA device to train on; set .* to auto or cpu"):
        train(tensors, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_trains_the_same_twice_and_near_to_the_processor(tensors) -> None:
    x, y = tensors
    first, second = (train(tensors, device="cuda", epochs=4) for _ in range(2))
    assert torch.equal(flat(first), flat(second))
    on_cpu = train(tensors, device="cpu", epochs=4)
    found, wanted = (
        (predict(module, x).argmax(1) == y).float().mean() for module in (first, on_cpu)
    )
    assert abs(found - wanted) < 0.1


def test_bfloat16_on_the_processor_trains_nearly_the_same_and_keeps_float32_weights(
    tensors,
) -> None:
    x, _ = tensors
    plain, same, rounded, again = (
        train(tensors, epochs=3, precision=precision, device="cpu")
        for precision in ("auto", "float32", "bfloat16", "bfloat16")
    )
    assert torch.equal(flat(plain), flat(same))
    assert torch.equal(flat(rounded), flat(again))
    assert not torch.equal(flat(plain), flat(rounded))
    assert all(p.dtype == torch.float32 for p in rounded.parameters())
    assert (predict(plain, x).argmax(1) == predict(rounded, x).argmax(1)).float().mean() > 0.9


def tf32() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "wanted", "exact"),
    [
        ("cuda", "float32", True),
        ("cuda", "auto", False),
        ("cuda", "bfloat16", False),
        ("cpu", "float32", False),
    ],
)
def test_float32_on_a_gpu_is_not_tf32(device: str, wanted: str, exact: bool) -> None:
    before = tf32()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with precision.exact_float32(torch.device(device), wanted):
            assert tf32() == ((False, False) if exact else (True, True))
        assert tf32() == (True, True)
        with (
            pytest.raises(ZeroDivisionError),
            precision.exact_float32(torch.device(device), wanted),
        ):
            _ = 1 // 0
        assert tf32() == (True, True)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_both_passes_of_an_update_are_made_in_the_precision_asked_for(tensors, monkeypatch) -> None:
    seen: dict[str, set[tuple[bool, bool]]] = {"forward": set(), "backward": set()}
    real = precision.exact_float32

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            seen["forward"].add(tf32())
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            seen["backward"].add(tf32())
            return gradient

    # As if the processor were a GPU.
    monkeypatch.setattr(loop, "exact_float32", lambda _, wanted: real(torch.device("cuda"), wanted))
    train(tensors, module=Calls(Watched.apply), precision="float32", epochs=1)
    assert seen == {"forward": {(False, False)}, "backward": {(False, False)}}
    assert tf32() == (True, False)


def test_an_image_that_cannot_be_augmented_is_named(tensors) -> None:
    with pytest.raises(BuildError, match="a crop of 9 shifts images of 8x8 out of sight"):
        train(tensors, augment=Training(augment={"crop": 9}).augment)


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


class Watched:
    """Makes the networks of recipes, and tells first weights and the order of examples."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.orders, self.made = folder, [], 0
        labels = losses.cross_entropy

        def cross_entropy(*values: Any, **more: Any) -> losses.Loss:
            loss = labels(*values, **more)

            def watched(answer: torch.Tensor, batch: Batch) -> torch.Tensor:
                self.orders[-1].extend(batch.chosen.tolist())
                return loss(answer, batch)

            return watched

        monkeypatch.setattr(losses, "cross_entropy", cross_entropy)

    def __call__(
        self, name: str = "base", **seeds: int
    ) -> tuple[torch.Tensor, list[int], torch.Tensor]:
        """The first weights, the order and the last weights of a network."""
        values = {"data_limits.train": 60, "training.epochs": 1, **seeds}
        recipe = load_recipe(None, settings=[f"{key}={value}" for key, value in values.items()])
        source = find_model(recipe.model, weights=None, options=recipe.model_options)
        self.made += 1
        store = Store(self.folder / str(self.made))
        keys: Any = SimpleNamespace(network=lambda name: f"{name}-{self.made}")
        networks = Networks(
            recipe, source, load_task(recipe, source), keys, Workbench(store, Silent())
        )
        self.orders.append([])
        first = flat(networks.fresh(name))
        trained, _ = networks.trained(name)
        return first, self.orders[-1], flat(trained)


def test_first_weights_and_order_have_seeds_of_their_own(tmp_path: Path, monkeypatch) -> None:
    make = Watched(tmp_path, monkeypatch)
    seeds = {"training.init_seed": 3, "training.order_seed": 4}
    weights, order, trained = make(**seeds)
    assert len(set(order)) == 60

    again = make(**seeds)
    assert again[1] == order
    assert torch.equal(again[2], trained)

    other_first = make(**{**seeds, "training.init_seed": 5})
    assert not torch.equal(other_first[0], weights)
    assert other_first[1] == order

    other_order = make(**{**seeds, "training.order_seed": 5})
    assert torch.equal(other_order[0], weights)
    assert other_order[1] != order
    assert not torch.equal(other_order[2], trained)

    # Where both are named, the recipe's seed changes neither (it still chooses the examples); where
    # one is, it changes the other.
    both = make(seed=9, **seeds)
    assert torch.equal(both[0], weights)
    assert both[1] == order
    half = make(seed=9, **{"training.init_seed": 3})
    assert torch.equal(half[0], weights)
    assert half[1] != order

    control = make("independent-1", **seeds)
    assert not torch.equal(control[0], weights)
    assert control[1] != order
