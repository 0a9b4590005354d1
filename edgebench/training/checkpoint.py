"""Where a training stands after an epoch, on disk, so that a killed one goes on bit by bit alike.

The file holds tensors and plain numbers alone and is read with torch's `weights_only`: a damaged
or foreign one executes nothing, and is started over.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

SCHEMA = "edgebench.checkpoint/1"


@dataclass
class Progress:
    """All that changes while a network is trained.

    `order`: draws the examples' order and the augmentation; torch's own generators (dropout) are
    kept beside it. `beside`: what is trained along with the module, if anything. `identity` says
    which training this is; a checkpoint of another one is not taken up.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    order: torch.Generator
    average: torch.optim.swa_utils.AveragedModel | None
    beside: nn.Module | None
    identity: str

    def save(self, path: Path, epochs: int) -> None:
        """Write where the training stands after `epochs` epochs, as a whole or not at all."""
        import torch

        state: dict[str, Any] = {
            "schema": SCHEMA,
            "identity": self.identity,
            "epochs": epochs,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": _numbers(self.schedule.state_dict()),
            "order": self.order.get_state(),
            "torch": torch.random.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        for name, part in (("average", self.average), ("beside", self.beside)):
            if part is not None:
                state[name] = part.state_dict()
        content = io.BytesIO()
        torch.save(state, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            # Written as bytes: torch's own writer hides what the system said of a full disk.
            new.write_bytes(content.getbuffer())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def load(self, path: Path) -> int:
        """Put everything as it was; returns the epochs done, 0 where nothing can be taken up."""
        import torch

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state["schema"] != SCHEMA or state["identity"] != self.identity:
                return 0
            epochs = int(state["epochs"])
        except FileNotFoundError:
            return 0
        except Exception:
            # Whatever is wrong with it, the training can be started over.
            return 0
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for name, part in (("average", self.average), ("beside", self.beside)):
            if part is not None:
                part.load_state_dict(state[name])
        self.order.set_state(state["order"])
        torch.random.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
        return epochs


def _numbers(state: dict[str, Any]) -> dict[str, Any]:
    """A schedule's state without its function, which stays with the program."""
    return {name: value for name, value in state.items() if name != "lr_lambdas"} | {
        "lr_lambdas": [None]
    }
