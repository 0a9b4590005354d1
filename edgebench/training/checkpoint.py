"""Where a training stands after an epoch, on disk, so that a killed one goes on bit by bit alike.

The file holds a SHA-256 and what it is of: tensors and plain numbers alone, read with torch's
`weights_only`. A damaged or foreign one executes nothing, and the training is started over.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.training.averaging import Average

if TYPE_CHECKING:
    import torch
    from torch import nn

SCHEMA = "edgebench.checkpoint/3"
DIGEST_BYTES = hashlib.sha256().digest_size


def identity(parts: Sequence[nn.Module], *words: str) -> str:
    """Which training this is: a SHA-256 over `words`, torch's version and the first weights.

    `parts`: what is trained, before the first update. The examples and the loss are not in it: the
    folder of a checkpoint stands for them.
    """
    import torch

    digest = hashlib.sha256("\0".join([torch.__version__, *words]).encode())
    for index, part in enumerate(parts):
        for name, tensor in part.state_dict().items():
            if isinstance(tensor, torch.Tensor):
                digest.update(f"\0{index} {name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                flat = tensor.detach().cpu().reshape(-1).contiguous()
                digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass
class Progress:
    """All that changes while a network is trained.

    `order`: draws the examples' order and the augmentation; torch's own generators (dropout) are
    kept beside it. `beside`: what is trained along with the module, if anything. `identity` says
    which training this is; a checkpoint of another one is not taken up. `first_loss`: of the first
    update, once it was made.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    order: torch.Generator
    average: Average | None
    beside: nn.Module | None
    identity: str
    first_loss: float | None = None

    def save(self, path: Path, epochs: int) -> None:
        """Write where the training stands after `epochs` epochs, as a whole or not at all.

        Raises OSError, where the disk is full for one.
        """
        import torch

        state: dict[str, Any] = {
            "schema": SCHEMA,
            "identity": self.identity,
            "epochs": epochs,
            "first_loss": self.first_loss,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "torch": torch.random.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        if self.average is not None:
            state["average"] = self.average.state()
        if self.beside is not None:
            state["beside"] = self.beside.state_dict()
        content = io.BytesIO()
        torch.save(state, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            # Written as bytes: torch's own writer hides what the system said of a full disk.
            with new.open("wb") as stream:
                stream.write(hashlib.sha256(content.getbuffer()).digest())
                stream.write(content.getbuffer())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def load(self, path: Path) -> int:
        """Put everything as it was; returns the epochs done, 0 where nothing can be taken up."""
        import torch

        state = _read(path)
        # Of the same training the state fits: its first weights have the names and shapes of ours.
        if state is None or state["identity"] != self.identity:
            return 0
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.restore(state["average"])
        if self.beside is not None:
            self.beside.load_state_dict(state["beside"])
        self.first_loss = state["first_loss"]
        self.order.set_state(state["order"])
        torch.random.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        return int(state["epochs"])


def _read(path: Path) -> dict[str, Any] | None:
    """What an undamaged checkpoint holds; None for any other file, and where there is none."""
    import torch

    try:
        with path.open("rb") as stream:
            expected = stream.read(DIGEST_BYTES)
            # torch reads a file with a changed bit in its tensors and says nothing.
            found = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                found.update(chunk)
            if found.digest() != expected:
                return None
            stream.seek(DIGEST_BYTES)
            state: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
            return state if state["schema"] == SCHEMA else None
    except Exception:
        # Whatever is wrong with it, the training can be started over.
        return None
