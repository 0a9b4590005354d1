"""One training loop for base, controls, fine-tuning, distillation and QAT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import BuildError, one_line
from edgebench.training.augment import augment
from edgebench.training.checkpoint import Progress
from edgebench.training.losses import Batch, Loss
from edgebench.training.optimizers import make_optimizer, rate_factor
from edgebench.training_settings import Training

if TYPE_CHECKING:
    import torch
    from torch import nn

# Called after each epoch with (epochs done, epochs in all, mean loss).
OnEpoch = Callable[[int, int, float], None]
# Called after each update with (updates done, updates in all).
OnUpdate = Callable[[int, int], None]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Torch's random draws start from `seed` inside, and go on as they were outside."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
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
    checkpoint: Path | None = None,
) -> None:
    """Train `module` in place on `inputs`, and leave it on the processor in evaluation mode.

    `inputs`: one tensor [N, ...], or one for each input of the module. `seed` decides the order of
    the examples, augmentation and dropout. `on_update` runs after each update (to keep pruned
    weights at zero), and once more where averaged weights take the module's place. `beside` is
    trained along (a loss's own layers). With `checkpoint`, a file, each epoch leaves all that it
    takes to go on after a kill with the same bits. On CUDA, products are made in bfloat16.

    Raises
    ------
    BuildError
        The loss is not finite, or the module fails while it trains; `what` names what was trained.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise BuildError(f"training {what} failed: the model has no parameter to train")
    session = _Session.start(
        module,
        inputs,
        loss,
        settings,
        seed=seed,
        what=what,
        on_update=on_update,
        beside=beside,
    )
    with deterministic(seed):
        done = session.progress.load(checkpoint) if checkpoint is not None else 0
        for part in session.parts:
            part.train()
        for epoch in range(done, settings.epochs):
            mean = session.epoch(epoch)
            if on_epoch is not None:
                on_epoch(epoch + 1, settings.epochs, mean)
            if checkpoint is not None:
                session.progress.save(checkpoint, epoch + 1)
    session.finish()


@dataclass
class _Session:
    """One training under way: everything is on its device, and `progress` is what changes."""

    progress: Progress
    inputs: tuple[torch.Tensor, ...]
    loss: Loss
    settings: Training
    what: str
    device: torch.device
    layout: torch.memory_format
    on_update: OnUpdate | None

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
    ) -> _Session:
        """Move everything to its device and set up what changes."""
        import torch

        tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
        device = training_device(settings)
        layout = _layout(module, tensors)
        _place(module, device, layout)
        if beside is not None:
            beside.to(device)
        parts = [module] if beside is None else [module, beside]
        optimizer = make_optimizer(
            [p for part in parts for p in part.parameters() if p.requires_grad], settings
        )
        batches = math.ceil(len(tensors[0]) / settings.batch_size)
        factor = rate_factor(settings, batches)
        progress = Progress(
            module,
            optimizer,
            torch.optim.lr_scheduler.LambdaLR(optimizer, factor),
            torch.Generator().manual_seed(seed),
            _average(module, settings),
            beside,
            identity=f"{what} {seed} {len(tensors[0])} {settings.model_dump_json()}",
        )
        on_device = tuple(t.to(device) for t in tensors)
        return cls(progress, on_device, loss, settings, what, device, layout, on_update)

    @property
    def parts(self) -> list[nn.Module]:
        """The module, and what is trained beside it."""
        module, beside = self.progress.module, self.progress.beside
        return [module] if beside is None else [module, beside]

    def epoch(self, number: int) -> float:
        """Train on every example once; returns the mean loss."""
        import torch

        n, size = len(self.inputs[0]), self.settings.batch_size
        batches = math.ceil(n / size)
        total = torch.zeros((), device=self.device)
        order = torch.randperm(n, generator=self.progress.order)
        for index, chosen in enumerate(torch.split(order, size)):
            # Batch normalisation cannot learn from a single example that is left over.
            if len(chosen) == 1 < min(n, size):
                continue
            total += self._update(chosen) * len(chosen)
            # Waiting for a GPU at every update would leave it idle; there, once an epoch.
            if self.device.type == "cpu" or index == batches - 1:
                _check_finite(float(total), self.what, number)
            if self.on_update is not None:
                self.on_update(number * batches + index + 1, batches * self.settings.epochs)
        return float(total) / n

    def _update(self, chosen: torch.Tensor) -> torch.Tensor:
        """One update of the weights; returns its loss."""
        batch = self._batch(chosen)
        progress = self.progress
        progress.optimizer.zero_grad(set_to_none=True)
        try:
            with _precision(self.device):
                value = self.loss(progress.module(*batch.inputs), batch)
            value.backward()  # type: ignore[no-untyped-call]
        except BuildError:
            raise
        except Exception as error:
            raise BuildError(
                f"training {self.what} failed: {type(error).__name__}: {one_line(str(error), 200)}",
                hint="the model must train on batches of the recipe's batch_size and give one "
                "tensor",
            ) from error
        progress.optimizer.step()
        progress.schedule.step()
        if progress.average is not None:
            progress.average.update_parameters(progress.module)
        return value.detach()

    def _batch(self, chosen: torch.Tensor) -> Batch:
        chosen = chosen.to(self.device)
        parts = [t[chosen] for t in self.inputs]
        how = self.settings.augment
        if not how.nothing:
            parts[0] = augment(parts[0], how, self.progress.order)
        parts = [p.contiguous(memory_format=self.layout) if p.dim() == 4 else p for p in parts]
        return Batch(tuple(parts), chosen, augmented=not how.nothing)

    def finish(self) -> None:
        """Put averaged weights in place, and everything back on the processor."""
        import torch

        progress = self.progress
        if progress.average is not None:
            progress.module.load_state_dict(progress.average.module.state_dict())
            updates = math.ceil(len(self.inputs[0]) / self.settings.batch_size)
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
    # torch refuses the layout where a module also has weights of volumes.
    volumes = any(p.dim() == 5 for p in module.parameters())
    suits = images and convolves and not volumes
    return torch.channels_last if suits else torch.contiguous_format


def _precision(device: torch.device) -> AbstractContextManager[None]:
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _average(module: nn.Module, settings: Training) -> torch.optim.swa_utils.AveragedModel | None:
    import torch

    if settings.ema is None:
        return None
    rule = torch.optim.swa_utils.get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
    return torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=rule, use_buffers=True)


def _check_finite(total: float, what: str, epoch: int) -> None:
    if not math.isfinite(total):
        raise BuildError(
            f"training {what} diverged in epoch {epoch + 1}: the loss is not finite",
            hint="lower the learning rate",
        )
