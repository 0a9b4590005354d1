"""One training loop for base, controls, fine-tuning, distillation and QAT."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.errors import BuildError, one_line
from edgebench.training.augment import augment, check_images
from edgebench.training.averaging import Average
from edgebench.training.checkpoint import Progress, identity
from edgebench.training.losses import Batch, Loss
from edgebench.training.optimizers import make_optimizer, rate_factor
from edgebench.training.precision import exact_float32, products
from edgebench.training_settings import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

# Called after each epoch with (epochs done, epochs in all, mean loss); see `naming`.
OnEpoch = Callable[[int, int, float], None]
# Called after each update with (updates done, updates in all).
OnUpdate = Callable[[int, int], None]

# How many updates a GPU makes before its loss is looked at: waiting at each would leave it idle.
UPDATES_UNSEEN = 50
# An epoch whose mean loss is so many times that of the first update is no training any more.
DIVERGED = 10.0
# The least loss a rise is counted from. A trained network, or a copy of its teacher, starts near 0
# and may lose all it knew without diverging, as where it is pruned step by step: to guess among a
# thousand classes costs 7 nats, and 28 under the usual T² of fine-tuning with distillation.
LEAST_START = 5.0


def naming(on_epoch: OnEpoch, what: str) -> OnEpoch:
    """`on_epoch`, told also what is trained where it has a parameter `what`.

    So that whoever watches a technique can tell its teachers, its student and its control apart.
    """
    takes = inspect.signature(on_epoch).parameters
    if "what" not in takes:
        return on_epoch
    return partial(on_epoch, what=what)  # type: ignore[call-arg] # it was just looked up


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Torch's random draws start from `seed` inside, and go on as they were outside.

    The same bits come out on the same kind of processor with as many threads: torch adds up in
    another order with another number of them.
    """
    import torch

    # torch's type stubs know nothing of its properties.
    memory: Any = torch.utils.deterministic
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    if devices:
        # Without a workspace of fixed size cuBLAS does not repeat its bits.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A tenth of a training's time, for what only code that reads unset memory would notice.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = filled
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)


def training_device(settings: Training) -> torch.device:
    """Where to train; raises BuildError where a GPU is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise BuildError(
            "torch finds no CUDA device to train on", hint="set training.device to auto or cpu"
        )
    return torch.device("cuda" if there and settings.device != "cpu" else "cpu")


def updates_an_epoch(examples: int, batch_size: int) -> int:
    """How many updates `fit` makes with so many examples in an epoch.

    Batch normalisation cannot learn from one example, so where one is left over after full batches
    it is left out: another one in each epoch.
    """
    left_out = 1 if batch_size > 1 and examples > batch_size and examples % batch_size == 1 else 0
    return math.ceil((examples - left_out) / batch_size)


def fit(
    module: nn.Module,
    inputs: torch.Tensor | Sequence[torch.Tensor],
    loss: Loss,
    settings: Training,
    *,
    seed: int,
    what: str,
    on_epoch: OnEpoch | None = None,
    on_update: OnUpdate | None = None,
    beside: nn.Module | None = None,
    rises: float = 1.0,
    checkpoint: Path | None = None,
) -> None:
    """Train `module` in place on `inputs`, and leave it on the processor in evaluation mode.

    `inputs`: one tensor [N, ...], or one for each input of the module; the first is augmented.
    `seed` decides the order of the examples, augmentation and dropout. `on_epoch` is told `what` as
    well where it has a parameter of that name. `on_update` runs after each update (to keep pruned
    weights at zero), and once more where averaged weights take the module's place. `beside` is
    trained along (a loss's own layers). `rises`: by what factor the loss grows of itself where a
    part of it is faded in. With `checkpoint`, a file, each epoch leaves all that it takes to go on
    after a kill with the same bits: the states of `module` and `beside`, torch's random draws, the
    order's. Products are made in `settings.precision`; weights, their gradients and updates stay in
    float32.

    Raises
    ------
    BuildError
        The loss, a weight or a running statistic is not finite, the mean loss of an epoch is far
        above the first update's, the inputs cannot be augmented, or the module fails while it
        trains; `what` names what was trained. The module is then of no use.
    OSError
        The checkpoint cannot be written.
    """
    import torch

    if not any(p.requires_grad for p in module.parameters()):
        raise BuildError(f"training {what} failed: the model has no parameter to train")
    told = naming(on_epoch, what) if on_epoch is not None else None
    try:
        with deterministic(seed):
            session = _Session.start(
                module,
                inputs,
                loss,
                settings,
                seed=seed,
                what=what,
                on_update=on_update,
                beside=beside,
                rises=rises,
                checkpoint=checkpoint,
            )
            done = session.progress.load(checkpoint) if checkpoint is not None else 0
            for part in session.parts:
                part.train()
            for epoch in range(done, settings.epochs):
                mean = session.epoch(epoch)
                if told is not None:
                    told(epoch + 1, settings.epochs, mean)
                if checkpoint is not None:
                    session.progress.save(checkpoint, epoch + 1)
            session.finish()
    except torch.OutOfMemoryError as error:
        raise BuildError(
            f"training {what} failed: the GPU's memory is full",
            hint="lower training.batch_size, or set training.device to cpu",
        ) from error


@dataclass
class _Session:
    """One training under way: everything is on its device, and `progress` is what changes.

    `unbounded`: tensors of the network that were not finite before it was trained.
    """

    progress: Progress
    inputs: tuple[torch.Tensor, ...]
    loss: Loss
    settings: Training
    what: str
    device: torch.device
    layout: torch.memory_format
    on_update: OnUpdate | None
    unbounded: frozenset[str]
    rises: float

    @classmethod
    def start(
        cls,
        module: nn.Module,
        inputs: torch.Tensor | Sequence[torch.Tensor],
        loss: Loss,
        settings: Training,
        *,
        seed: int,
        what: str,
        on_update: OnUpdate | None,
        beside: nn.Module | None,
        rises: float,
        checkpoint: Path | None,
    ) -> _Session:
        """Move everything to its device and set up what changes."""
        import torch

        tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
        if not settings.augment.nothing:
            check_images(tuple(tensors[0].shape), settings.augment)
        device = training_device(settings)
        parts = [module] if beside is None else [module, beside]
        name = ""
        if checkpoint is not None:
            shapes = [list(t.shape) for t in tensors]
            name = identity(
                parts, what, str(seed), device.type, f"{shapes}", settings.model_dump_json()
            )
        layout = _layout(module, tensors)
        _place(module, device, layout)
        if beside is not None:
            beside.to(device)
        # A loss's own layers may hold some of the module's weights: each is updated once.
        trained = {id(p): p for part in parts for p in part.parameters() if p.requires_grad}
        optimizer = make_optimizer(trained.values(), settings)
        batches = updates_an_epoch(len(tensors[0]), settings.batch_size)
        factor = rate_factor(settings, batches)
        progress = Progress(
            module,
            optimizer,
            torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            torch.Generator().manual_seed(seed),
            Average(module, settings.ema) if settings.ema is not None else None,
            beside,
            identity=name,
        )
        on_device = tuple(t.to(device) for t in tensors)
        unbounded = frozenset(_not_finite(module))
        return cls(
            progress, on_device, loss, settings, what, device, layout, on_update, unbounded, rises
        )

    @property
    def parts(self) -> list[nn.Module]:
        """The module, and what is trained beside it."""
        module, beside = self.progress.module, self.progress.beside
        return [module] if beside is None else [module, beside]

    def epoch(self, number: int) -> float:
        """Train on every example once; returns the mean loss."""
        import torch

        n, size = len(self.inputs[0]), self.settings.batch_size
        batches = updates_an_epoch(n, size)
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        seen = 0
        order = torch.randperm(n, generator=self.progress.order)
        for index, chosen in enumerate(torch.split(order, size)[:batches]):
            value = self._update(chosen, number)
            if self.progress.first_loss is None:
                self.progress.first_loss = float(value)
            total += value * len(chosen)
            seen += len(chosen)
            if index % UPDATES_UNSEEN == UPDATES_UNSEEN - 1:
                self._check_finite(total, number)
            if self.on_update is not None:
                self.on_update(number * batches + index + 1, batches * self.settings.epochs)
            if self.progress.average is not None:
                self.progress.average.update(self.progress.module)
        self._check_finite(total, number)
        # A finite loss says nothing of the last update, nor of running statistics.
        lost = next((n for n in _not_finite(self.progress.module) if n not in self.unbounded), None)
        if lost is not None:
            raise self._diverged(number, f"'{lost}' is not finite")
        mean = float(total) / seen
        first = self.progress.first_loss
        assert first is not None  # noqa: S101 - an epoch has an update
        if mean > DIVERGED * self.rises * max(first, LEAST_START):
            raise self._diverged(number, f"the loss rose from {first:.3g} to {mean:.3g}")
        return mean

    def _update(self, chosen: torch.Tensor, epoch: int) -> torch.Tensor:
        """One update of the weights; returns its loss."""
        import torch

        batch = self._batch(chosen)
        progress = self.progress
        progress.optimizer.zero_grad(set_to_none=True)
        wanted = self.settings.precision
        try:
            with exact_float32(self.device, wanted):
                with products(self.device, wanted):
                    value = self.loss(progress.module(*batch.inputs), batch)
                if self.device.type == "cpu":
                    self._check_finite(value, epoch)
                value.backward()  # type: ignore[no-untyped-call]
        except (BuildError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise BuildError(
                f"training {self.what} failed: {type(error).__name__}: {one_line(str(error), 200)}",
                hint="the model must train on batches of the recipe's batch_size and give one "
                "tensor",
            ) from error
        progress.optimizer.step()
        progress.schedule.step()
        return value.detach()

    def _batch(self, chosen: torch.Tensor) -> Batch:
        chosen = chosen.to(self.device)
        parts = [t[chosen] for t in self.inputs]
        how = self.settings.augment
        if not how.nothing:
            parts[0] = augment(parts[0], how, self.progress.order)
        parts = [p.contiguous(memory_format=self.layout) if p.dim() == 4 else p for p in parts]
        return Batch(tuple(parts), chosen, augmented=not how.nothing)

    def _check_finite(self, loss: torch.Tensor, epoch: int) -> None:
        if not math.isfinite(float(loss.detach())):
            raise self._diverged(epoch, "the loss is not finite")

    def _diverged(self, epoch: int, what: str) -> BuildError:
        return BuildError(
            f"training {self.what} diverged in epoch {epoch + 1}: {what}",
            hint="lower the learning rate",
        )

    def finish(self) -> None:
        """Put averaged weights in place, and everything back on the processor."""
        import torch

        progress = self.progress
        progress.optimizer.zero_grad(set_to_none=True)
        if progress.average is not None:
            progress.average.put_into(progress.module)
            updates = updates_an_epoch(len(self.inputs[0]), self.settings.batch_size)
            updates *= self.settings.epochs
            if self.on_update is not None:
                self.on_update(updates, updates)
        for part in self.parts:
            _place(part.eval(), torch.device("cpu"), torch.contiguous_format)


def predict(
    module: nn.Module, inputs: torch.Tensor | Sequence[torch.Tensor], batch: int = 256
) -> torch.Tensor:
    """The module's answers [N, ...] in evaluation mode, without gradients."""
    import torch

    tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    module.eval()
    with torch.no_grad():
        return torch.cat(
            [
                module(*parts)
                for parts in zip(*(torch.split(t, batch) for t in tensors), strict=True)
            ]
        )


def _place(module: nn.Module, device: torch.device, layout: torch.memory_format) -> None:
    """Move a module in place; torch's type stubs know no memory format of modules."""
    module.to(device)
    module.to(memory_format=layout)  # type: ignore[call-overload]


def _layout(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.memory_format:
    """Channels last for convolutions over images: a third faster on a processor."""
    import torch
    from torch import nn

    images = any(t.dim() == 4 for t in inputs)
    convolves = any(isinstance(part, nn.Conv2d) for part in module.modules())
    # torch refuses the layout where a module also has weights or buffers of volumes.
    volumes = any(t.dim() == 5 for t in (*module.parameters(), *module.buffers()))
    suits = images and convolves and not volumes
    return torch.channels_last if suits else torch.contiguous_format


def _not_finite(module: nn.Module) -> list[str]:
    """The names of a network's tensors that hold an infinity or no number."""
    import torch

    floats = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
    if not floats:
        return []
    # One answer for all: asked one by one, a GPU would be waited for each time.
    sound = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    return [name for name, fine in zip(floats, sound, strict=True) if not fine]
