"""A killed training goes on with the same bits, and from nothing that is damaged or another's."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.data import load
from edgebench.training.loop import deterministic, fit
from edgebench.training.losses import Batch, Loss, cross_entropy
from edgebench.training_settings import Training

EPOCHS = 3
# Of 101 examples one is left over each time: five updates an epoch.
EXAMPLES, BATCH = 101, 20
EVERYTHING: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 1e-3,
    "ema": 0.8,
    "augment": {"flip": True, "crop": 1, "jitter": {"brightness": 0.3}},
    "schedule": "multi-step",
    "milestones": [1, 2],
    "warmup_epochs": 0.6,
    "label_smoothing": 0.1,
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "adam": {"optimizer": "adam"},
    "adamax": {"optimizer": "adamax", "ema": 0.9},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "augment": {"crop": 1}},
}


class Beside(nn.Module):
    """A loss's own layer, and a memory that every update writes to."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss
        self.layer = nn.Linear(10, 4)
        self.register_buffer("memory", torch.zeros(4))

    def answers(self, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        looked = self.layer(answer).mean(0)
        apart = (looked - self.memory).square().mean()
        self.memory.lerp_(looked.detach(), 0.3)
        return self.loss(answer, batch) + apart


class Net(nn.Module):
    """Channels last, batch normalisation and dropout: everything that draws or remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(144, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().flatten(1)))


def train(
    kind: str,
    checkpoint: Path | None = None,
    *,
    seed: int = 0,
    weights: int = 0,
    dies: Callable[[str, int], None] | None = None,
    **changes: Any,
) -> dict[str, torch.Tensor]:
    """What a training leaves: the tensors of the network and of what is trained beside it.

    `dies` is called with ("update", updates done) and ("epoch", epochs done).
    """
    data = load("digits", train=EXAMPLES, test=10)
    with deterministic(weights):
        module = Net()
        beside = Beside(cross_entropy(torch.from_numpy(data.train_y), smoothing=0.1))
    values = {**OPTIMIZERS[kind], "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05}
    fit(
        module,
        torch.from_numpy(data.train_x),
        beside.answers,
        Training.model_validate({**values, **changes}),
        seed=seed,
        what="base",
        on_epoch=lambda done, *_: dies and dies("epoch", done),
        on_update=lambda done, _: dies and dies("update", done),
        beside=beside,
        checkpoint=checkpoint,
    )
    found = {**module.state_dict(), **{f"beside.{k}": v for k, v in beside.state_dict().items()}}
    return {name: tensor.clone() for name, tensor in found.items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_training_killed_by_the_system_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    checkpoint = tmp_path / "scratch" / "training.pt"
    done = subprocess.run(
        [sys.executable, __file__, str(checkpoint)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    # It dies in the middle of the second epoch.
    assert done.stdout.split("\n")[-2] == "update 8"
    told: list[str] = []
    found = train("everything", checkpoint, dies=lambda at, number: told.append(f"{at} {number}"))
    # The second epoch anew and the third; then the average takes the place of the weights.
    assert told[:6] == [*(f"update {number}" for number in range(6, 11)), "epoch 2"]
    assert told[6:] == [*(f"update {number}" for number in range(11, 16)), "epoch 3", "update 15"]
    assert same(found, train("everything"))


class Killed(BaseException):
    """Stands for a SIGKILL where a process of its own would take too long."""


def killed_at(where: str, number: int) -> Callable[[str, int], None]:
    def dies(place: str, done: int) -> None:
        if (place, done) == (where, number):
            raise Killed

    return dies


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@pytest.mark.parametrize(("where", "number"), [("update", 1), ("update", 6), ("epoch", 2)])
def test_wherever_it_is_killed(tmp_path: Path, kind: str, where: str, number: int) -> None:
    checkpoint = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train(kind, checkpoint, dies=killed_at(where, number))
    assert checkpoint.exists() == (number > 1)
    assert same(train(kind, checkpoint), train(kind))


def epochs_of(kind: str, checkpoint: Path, **changes: Any) -> list[int]:
    """The epochs that are trained anew."""
    seen: list[int] = []
    train(kind, checkpoint, dies=lambda at, n: seen.append(n) if at == "epoch" else None, **changes)
    return seen


@pytest.fixture
def half_done(tmp_path: Path) -> Path:
    """The checkpoint of a training that was killed in its third epoch."""
    checkpoint = tmp_path / "training.pt"
    with pytest.raises(Killed):
        train("everything", checkpoint, dies=killed_at("update", 12))
    return checkpoint


def test_a_checkpoint_is_taken_up(half_done: Path) -> None:
    assert epochs_of("everything", half_done) == [3]


def test_what_is_done_is_not_done_again(half_done: Path) -> None:
    whole = train("everything", half_done)
    assert epochs_of("everything", half_done) == []
    assert same(train("everything", half_done), whole)


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"weights": 1}, {"learning_rate": 0.04}, {"epochs": 4, "milestones": [1, 2]}],
)
def test_a_checkpoint_of_another_training_is_not_taken_up(
    half_done: Path, changes: dict[str, Any]
) -> None:
    assert epochs_of("everything", half_done, **changes)[0] == 1


def test_a_network_of_another_shape_starts_over(half_done: Path) -> None:
    data = load("digits", train=EXAMPLES, test=10)
    x, loss = torch.from_numpy(data.train_x), cross_entropy(torch.from_numpy(data.train_y))
    settings, seen = Training(epochs=1, batch_size=BATCH), []
    for width in (3, 4):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))
        fit(
            module,
            x,
            loss,
            settings,
            seed=0,
            what="base",
            checkpoint=half_done,
            on_epoch=lambda *_: seen.append(1),
        )
    assert len(seen) == 2


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """One bit of a tensor, which torch's own reader does not notice."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 64
    return bytes(changed)


@pytest.mark.parametrize(
    "damage", [cut, flip, lambda _: b"", lambda _: b"\x80\x04.", lambda c: c + b"\0"]
)
def test_a_damaged_checkpoint_is_started_over(
    half_done: Path, damage: Callable[[bytes], bytes]
) -> None:
    half_done.write_bytes(damage(half_done.read_bytes()))
    assert epochs_of("everything", half_done) == [1, 2, 3]
    assert epochs_of("everything", half_done) == []


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(half_done: Path) -> None:
    before = half_done.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            train("everything", half_done)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert half_done.read_bytes() == before
    assert list(half_done.parent.iterdir()) == [half_done]
    assert epochs_of("everything", half_done) == [3]


def test_without_a_checkpoint_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    train("adam")
    assert list(tmp_path.iterdir()) == []


def test_each_part_of_the_training_shows_in_its_bits() -> None:
    # So that what is the same after a kill does speak of each of them.
    whole = train("everything")
    for change in (
        {"ema": None},
        {"momentum": 0.8},
        {"augment": {"crop": 1}},
        {"milestones": [1]},
        {"warmup_epochs": 0.2},
    ):
        assert not same(train("everything", **change), whole), change
    assert not torch.equal(whole["beside.memory"], torch.zeros(4))


def main(checkpoint: str) -> None:
    """Train until the eighth update, and get a SIGKILL there."""
    torch.set_num_threads(1)

    def dies(place: str, done: int) -> None:
        print(place, done, flush=True)
        if (place, done) == ("update", 8):
            os.kill(os.getpid(), signal.SIGKILL)

    train("everything", Path(checkpoint), dies=dies)


if __name__ == "__main__":
    main(*sys.argv[1:])
