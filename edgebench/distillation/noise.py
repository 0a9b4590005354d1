"""Teachers that know nothing: fixed random logits, one row for each training example."""

from __future__ import annotations

import torch

from edgebench.training.losses import Batch, Teacher

# The laws the logits are drawn from.
NOISES = {"uniform-noise": "U(0, 1)", "gaussian-noise": "N(0, 1)"}


def noise_logits(kind: str, examples: int, classes: int, seed: int) -> torch.Tensor:
    """Logits [examples, classes] drawn from U(0, 1) or N(0, 1), the same for the same seed.

    Source: the random controls of "Knowledge Distillation: the Functional Perspective".
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if kind == "uniform-noise" else torch.randn
    return draw((examples, classes), generator=generator)


def fixed_teacher(logits: torch.Tensor) -> Teacher:
    """A teacher who gives each training example the same row, however its image is changed."""
    placed = {logits.device: logits}

    def teach(batch: Batch) -> torch.Tensor:
        device = batch.chosen.device
        if device not in placed:
            placed[device] = logits.to(device)
        return placed[device][batch.chosen]

    return teach
