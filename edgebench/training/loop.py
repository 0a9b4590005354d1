"""One training loop for base, controls, fine-tuning, distillation and QAT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgebench.errors import BuildError, one_line
from edgebench.recipe import Training
from edgebench.training.losses import Loss

if TYPE_CHECKING:
    import torch
    from torch import nn

# Called after each epoch with (epochs done, epochs in all, mean loss).
OnEpoch = Callable[[int, int, float], None]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Torch's random draws start from `seed` inside, and go on as they were outside."""
    import torch

    state = torch.random.get_rng_state()
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.random.set_rng_state(state)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)


def fit(
    module: nn.Module,
    inputs: torch.Tensor,
    loss: Loss,
    settings: Training,
    *,
    seed: int,
    what: str,
    on_epoch: OnEpoch | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train `module` in place on `inputs` [N, ...], and leave it in evaluation mode.

    The learning rate falls to zero along a half cosine. `seed` decides the order of the examples
    and dropout. `after_step` runs after each update (to keep pruned weights at zero).

    Raises
    ------
    BuildError
        The loss is not finite, or the module fails while it trains; `what` names what was trained.
    """
    import torch

    n = len(inputs)
    order = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(module, settings, what)
    batches = math.ceil(n / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches * settings.epochs)
    with deterministic(seed):
        module.train()
        for epoch in range(settings.epochs):
            total = 0.0
            for chosen in torch.split(torch.randperm(n, generator=order), settings.batch_size):
                # Batch normalisation cannot learn from a single example that is left over.
                if len(chosen) == 1 < min(n, settings.batch_size):
                    continue
                optimizer.zero_grad(set_to_none=True)
                try:
                    value = loss(module(inputs[chosen]), chosen)
                    value.backward()  # type: ignore[no-untyped-call]
                except Exception as error:
                    raise BuildError(
                        f"training {what} failed: {type(error).__name__}: "
                        f"{one_line(str(error), 200)}",
                        hint="the model must train on batches of the recipe's batch_size and give "
                        "one tensor",
                    ) from error
                optimizer.step()
                schedule.step()
                if after_step is not None:
                    after_step()
                total += float(value.detach()) * len(chosen)
            if not math.isfinite(total):
                raise BuildError(
                    f"training {what} diverged in epoch {epoch + 1}: the loss is not finite",
                    hint="lower the learning rate",
                )
            if on_epoch is not None:
                on_epoch(epoch + 1, settings.epochs, total / n)
    module.eval()


def predict(module: nn.Module, inputs: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """The module's answers [N, C] in evaluation mode, without gradients."""
    import torch

    module.eval()
    with torch.no_grad():
        return torch.cat([module(part) for part in torch.split(inputs, batch)])


def _optimizer(module: nn.Module, settings: Training, what: str) -> torch.optim.Optimizer:
    import torch

    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise BuildError(f"training {what} failed: the model has no parameter to train")
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay)
