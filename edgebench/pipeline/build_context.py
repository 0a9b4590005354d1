"""What techniques may draw on while a run's chains are built: data, base, the target itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes import RUNTIMES
from edgebench.errors import BuildError
from edgebench.pipeline.exporting import Exporter
from edgebench.pipeline.networks import Networks
from edgebench.pipeline.target_probe import TargetProbe
from edgebench.pipeline.task import Task
from edgebench.recipe import Recipe
from edgebench.target import Target
from edgebench.techniques.base import Context

if TYPE_CHECKING:
    from torch import nn

# How many float32 channels a vector register holds, by the flags of the processor, widest first.
VECTOR_WIDTHS = {
    "avx512f": 16,
    "avx2": 8,
    "avx": 8,
    "asimd": 4,
    "neon": 4,
}
# Where the processor is not known, or does not run the model: tensor cores want multiples of eight.
USUAL_WIDTH = 8
# The inputs that take turns while candidates are timed.
INPUTS = 64


@dataclass
class BuildContext:
    """Makes the contexts of one run.

    `device` is the agent's `device.json`, `probe` the way to measure on the target; both None
    where the target cannot be reached. `exporter` writes a module as the target's file;
    `base_file` gives base's. `controls` answer examples [N, ...] with [N, classes], one for each
    independent network; they are filled in as controls are built.
    """

    recipe: Recipe
    target: Target
    task: Task
    int8: str
    networks: Networks
    device: dict[str, Any] | None
    probe: TargetProbe | None
    exporter: Exporter
    base_file: Callable[[], Path]
    probabilities: bool = False
    base: nn.Module | None = None
    answer_base: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None
    controls: list[Callable[[NDArray[np.float32]], NDArray[np.float32]]] = field(
        default_factory=list
    )

    def context(self, scratch: Path | None = None) -> Context:
        """The context of one step; `scratch` is where its trainings leave their checkpoints."""
        trainable = self.networks.source.trainable
        own_weights = self.networks.source.weights is not None
        data = self.task.dataset
        held_out = len(data.validation_x) > 0
        # Their distance is one of predicted probabilities.
        strangers = self.controls and self.task.answers == "classes"
        return Context(
            train_x=data.train_x,
            train_y=data.train_y,
            classes=data.classes,
            training=self.recipe.training,
            int8=self.int8,  # type: ignore[arg-type] # checked by the target
            precisions=self.target.precisions,
            seed=self.recipe.seed,
            new_module=self._new_module if trainable else None,
            initial_module=self._initial_module if trainable and not own_weights else None,
            base=self.base,
            probabilities=self.probabilities,
            on_epoch=self.networks.bench.on_epoch,
            validation_x=data.validation_x if held_out else None,
            validation_y=data.validation_y if held_out else None,
            held_out=held_out,
            opset=self.target.opset,
            vector_width=self.vector_width,
            latency_ratios=self._latency_ratios if self.probe is not None else None,
            stranger_distance=self._stranger_distance if strangers else None,
            scratch=scratch,
            check_export=self.exporter.check,
            train_inputs=data.train_inputs,
            validation_inputs=data.validation_inputs if held_out else None,
        )

    @cached_property
    def vector_width(self) -> int:
        """How many float32 channels one vector register of the target's processor holds."""
        if self.device is None:
            return USUAL_WIDTH
        identity, runtime = self.device["identity"], self.target.runtime
        offered = identity["providers"] if runtime.providers == "auto" else runtime.providers
        if set(offered) & set(RUNTIMES[runtime.name].accelerators):
            return USUAL_WIDTH
        flags = set(identity["cpu_flags"])
        return next((width for flag, width in VECTOR_WIDTHS.items() if flag in flags), USUAL_WIDTH)

    def _new_module(self, **options: Any) -> nn.Module:
        return self.task.build(self.networks.source, **options)

    def _initial_module(self) -> nn.Module:
        return self.networks.fresh("base")

    def _latency_ratios(self, modules: Sequence[nn.Module]) -> list[float]:
        """The latency of each module on the target, over base's."""
        assert self.probe is not None  # noqa: S101 - `context` saw to it
        with tempfile.TemporaryDirectory(prefix="edgebench-candidates-") as name:
            files = {}
            for index, module in enumerate(modules):
                file = Path(name) / f"candidate-{index}.{self.exporter.format}"
                self.exporter.write(module, file)
                files[f"candidate-{index}"] = file
            inputs = self.task.dataset.train_x[: max(INPUTS, self.recipe.protocol.batch)]
            _, found = self.probe.measure(self.base_file(), files, inputs)
        return [found[name].ratio for name in files]

    def _stranger_distance(self) -> float:
        return self._measured_distance

    @cached_property
    def _measured_distance(self) -> float:
        """The mean activation distance of the controls from base on the validation examples."""
        from edgebench.metrics.activation_distance import distances
        from edgebench.metrics.base import Outputs

        x, y = (tensor.numpy() for tensor in self.context().validation())
        if self.answer_base is None:
            raise BuildError("there is no base to measure a distance from")
        base = Outputs(self.answer_base(x), y, self.probabilities)
        each = [
            float(distances(Outputs(answers, y, self.probabilities), base).mean())
            for answers in self.control_answers
        ]
        return float(np.mean(each))

    @cached_property
    def control_answers(self) -> list[NDArray[np.float32]]:
        """Each control's answers to the validation examples, [N, classes]."""
        x = self.context().validation()[0].numpy()
        return [answer(x) for answer in self.controls]
