"""Magnitude pruning along a schedule: masks raised before and while a network is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from edgebench.errors import BuildError
from edgebench.pruning.magnitude import Norm, global_masks, layer_masks
from edgebench.pruning.masks import ZeroMasks
from edgebench.pruning.sparsity_schedule import Schedule, most_steps, sparsity_after, step_at


@dataclass
class GradualPruning:
    """Prunes `weights` to `ratio` in so many steps; `kept` holds the masks.

    `ratios`: the share of each layer once all steps are made, or None for one threshold for all
    layers, where `norm` makes their magnitudes relative.
    """

    weights: Mapping[str, torch.Tensor]
    kept: ZeroMasks
    ratio: float
    ratios: Mapping[str, float] | None = None
    norm: Norm | None = None
    schedule: Schedule = "one-shot"
    steps: int = 1
    _made: int = field(default=-1, init=False)

    def begin(self) -> None:
        """Prune as far as the schedule says before any training."""
        self.on_update(0, 1)

    def check_room(self, updates: int) -> None:
        """Raise BuildError where the prunings do not fit into so many updates."""
        most = most_steps(self.schedule, updates)
        if self.steps > max(1, most):
            raise BuildError(
                f"{self.steps} prunings do not fit into the {updates} updates of 'finetune': "
                f"'{self.schedule}' has room for {most}",
                hint="lower 'steps' or train longer",
            )

    def on_update(self, done: int, updates: int) -> None:
        """Keep the zeros, and prune further where a step is due; to be called by `fit`."""
        step = step_at(self.schedule, done, updates, self.steps)
        if step > self._made:
            # A training taken up again comes here once more for the step it was in. As many weights
            # are masked already as that step asks for, so the same masks come out.
            self._made = step
            self._prune(sparsity_after(self.schedule, self.ratio, step, self.steps))
        self.kept.apply_to_weights()

    def _prune(self, sparsity: float) -> None:
        held = self.kept.masks()
        if self.ratios is None:
            self.kept.hold(global_masks(self.weights, held, sparsity, self.norm))
        else:
            # Each layer goes the same share of its own way.
            part = sparsity / self.ratio
            ratios = {name: part * ratio for name, ratio in self.ratios.items()}
            self.kept.hold(layer_masks(self.weights, held, ratios))
