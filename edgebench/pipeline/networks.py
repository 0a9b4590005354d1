"""Base and its independent controls: trained or read, and stored."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.errors import BuildError
from edgebench.hashing import named_seed
from edgebench.models.source import ModelSource, load_weights
from edgebench.pipeline.keys import Keys
from edgebench.pipeline.progress import Progress
from edgebench.pipeline.task import Task
from edgebench.recipe import Recipe
from edgebench.records import Stage
from edgebench.store import Store

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "weights.safetensors"


@dataclass
class Workbench:
    """Where every step of a run is made: once, with its progress, and with its time on record."""

    store: Store
    progress: Progress
    stages: list[Stage] = field(default_factory=list)

    def step(
        self, name: str, key: str, make: Callable[[Path], None], total: float | None = None
    ) -> Path:
        """The folder of one entry of the store, made by `make(folder)` where it is not there."""
        self.progress.begin(name, total)
        start = time.perf_counter()
        reused = False
        try:
            folder, reused = self.store.obtain(key, make)
        finally:
            self.progress.end(reused=reused)
        self.stages.append(Stage(name=name, seconds=time.perf_counter() - start, reused=reused))
        return folder

    def on_epoch(self, done: int, total: int, loss: float, what: str = "") -> None:
        """Show how far a training is, and of what."""
        detail = f"epoch {done} of {total}, loss {loss:.3f}"
        self.progress.advance(100 * done / total, f"{what}: {detail}" if what else detail)


@dataclass
class Networks:
    """Makes base and the controls of one recipe, from its factory."""

    recipe: Recipe
    source: ModelSource
    task: Task
    keys: Keys
    bench: Workbench

    def fresh(self, name: str) -> nn.Module:
        """The network called `name` ("base", "independent-1", …) with its first weights."""
        from edgebench.training.loop import deterministic

        seed = self.recipe.training.init_seed
        with deterministic(named_seed(self.recipe.seed if seed is None else seed, name, "init")):
            module = self.task.build(self.source)
        self.task.check_module(module, where=f"model '{self.source.spec}'")
        return module

    def trained(self, name: str) -> tuple[nn.Module, list[str]]:
        """The network called `name`, trained (or base with the user's weights), and notes on it.

        Without labels base is as the factory made it. Raises BuildError for a control then.
        """
        from edgebench.training.loop import fit
        from edgebench.training.losses import cross_entropy

        module = self.fresh(name)
        if name == "base" and self.source.weights is not None:
            load_weights(module, self.source.weights)
            return module.eval(), [f"weights from {self.source.weights.name}"]
        if not self.task.trains:
            if name != "base":
                raise BuildError("there are no labels to train it on")
            return module.eval(), ["weights as the factory gave them"]
        training = self.recipe.training
        key = self.keys.network(name)

        def make(folder: Path) -> None:
            import torch

            seed = training.order_seed
            fit(
                module,
                torch.from_numpy(self.task.dataset.train_x),
                cross_entropy(
                    torch.from_numpy(self.task.dataset.train_y),
                    probabilities=self.task.probabilities(module),
                    smoothing=training.label_smoothing,
                ),
                training,
                seed=named_seed(self.recipe.seed if seed is None else seed, name, "order"),
                what=name,
                on_epoch=self.bench.on_epoch,
                checkpoint=self.bench.store.scratch(key) / "training.pt",
            )
            save_weights(module, folder)

        folder = self.bench.step(f"train {name}", key, make, total=100)
        read_weights(module, folder)
        return module.eval(), []


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write a module's tensors into the folder of its entry."""
    from safetensors.torch import save_model

    save_model(module, str(folder / WEIGHTS))


def tensors_digest(module: nn.Module) -> str:
    """The sha256 over the names and content of a module's tensors."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(module: nn.Module, folder: Path) -> None:
    """Put the tensors of an entry into a module of the same shape."""
    from safetensors.torch import load_model

    load_model(module, folder / WEIGHTS)
