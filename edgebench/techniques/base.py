"""What a technique is: options, and what it does to a module or to an ONNX file.

A chain is a list of techniques. Those of level "torch" turn a module into another and can train;
those of level "onnx" turn an exported file into another, and so also apply to a user's own file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from edgebench.data.splitting import stratified_part
from edgebench.errors import BuildError
from edgebench.hashing import named_seed
from edgebench.records import Figure
from edgebench.registry import Registry
from edgebench.target import Int8Format
from edgebench.training_settings import Training

if TYPE_CHECKING:
    import torch
    from torch import nn


class WeightLayer(Protocol):
    """A convolution or dense layer, as far as pruning is concerned."""

    weight: torch.Tensor

    def register_forward_hook(self, hook: Callable[..., None]) -> torch.utils.hooks.RemovableHandle:
        """As in torch.nn.Module."""


class Options(BaseModel):
    """Base of a technique's options: its command-line options, its validation, its record."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Of the training examples, where none are held out: enough for a hundredth of accuracy.
MOST_BORROWED = 2000


class NoOptions(Options):
    """A technique with nothing to set."""


@dataclass(frozen=True)
class Context:
    """What a technique may draw on. All of it is part of the result's key.

    `train_x`: float32 [N, C, H, W]; `train_y`: int64 [N]; `validation_x` and `validation_y`: on
    what a technique decides, `held_out` of all training or else a part of it; never test examples.
    Of a model that is no classifier there are no labels: `train_y` is empty and `classes` 0, and
    `train_inputs` and `validation_inputs` hold one array [N, ...] for each of its inputs, of any
    shape and type, `train_x` and `validation_x` being the first. None: the images alone.
    `training`: how base was trained; `int8`: the quantization format the target asks for; `opset`:
    the ONNX operator set its runtime reads; `vector_width`: how many float32 channels one vector
    register of its processor holds. `new_module(**options)` makes another network by base's
    factory, `initial_module()` base's own with the first weights base was trained from (None where
    its weights were given); `base` is the trained base model (the teacher), not to be changed;
    `probabilities`: base's answers are probabilities, not logits. `latency_ratios` measures modules
    on the target, each over base; None where the target cannot be reached. `stranger_distance` is
    the mean activation distance of the independent controls from base on the validation examples;
    None where there is no control. `scratch`: a folder where trainings leave their checkpoints.
    `check_export` raises BuildError where the target's format cannot hold a module.
    """

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    classes: int
    training: Training
    int8: Int8Format
    precisions: Sequence[str]
    seed: int
    new_module: Callable[..., nn.Module] | None
    base: nn.Module | None
    initial_module: Callable[[], nn.Module] | None = None
    probabilities: bool = False
    on_epoch: Callable[[int, int, float], None] | None = None
    validation_x: NDArray[np.float32] | None = None
    validation_y: NDArray[np.int64] | None = None
    held_out: bool = False
    opset: int = 18
    vector_width: int = 8
    latency_ratios: Callable[[Sequence[nn.Module]], list[float]] | None = None
    stranger_distance: Callable[[], float] | None = None
    scratch: Path | None = None
    check_export: Callable[[nn.Module], None] | None = None
    train_inputs: tuple[NDArray[Any], ...] | None = None
    validation_inputs: tuple[NDArray[Any], ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether there are labels: to learn from, and to decide by accuracy on."""
        return len(self.train_y) > 0

    def tensors(self, wanted_by: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The training examples and labels as tensors that share the arrays' memory.

        Raises BuildError where there are no labels; `wanted_by` is what can do nothing without.
        """
        import torch

        left_out = f"'{wanted_by}'" if wanted_by else "what trains, such as 'finetune'"
        self._need_labels("learn from", f"leave out {left_out}")
        return torch.from_numpy(self.train_x), torch.from_numpy(self.train_y)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The training examples, a tensor [N, ...] for each input of the model."""
        return _tensors((self.train_x,) if self.train_inputs is None else self.train_inputs)

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples and labels to decide on: held out, or else a part of the training's.

        Raises BuildError where there are no labels.
        """
        import torch

        self._need_labels("decide by", "decide by SQNR, or not by the data at all")
        x, y = self.validation_x, self.validation_y
        if x is None or y is None or not len(y):
            count = min(len(self.train_y), MOST_BORROWED)
            chosen = stratified_part(self.train_y, count, self.seed_for("validation"), "train")
            x, y = self.train_x[chosen], self.train_y[chosen]
        return torch.from_numpy(x), torch.from_numpy(y)

    def validation_examples(self) -> tuple[torch.Tensor, ...]:
        """The examples to decide on without labels, a tensor [N, ...] for each input."""
        if self.labelled:
            return (self.validation()[0],)
        given = self.validation_inputs
        if given is not None and len(given[0]):
            return _tensors(given)
        inputs = self.inputs()
        count = min(len(inputs[0]), MOST_BORROWED)
        rng = np.random.default_rng(self.seed_for("validation"))
        chosen = np.sort(rng.permutation(len(inputs[0]))[:count])
        return tuple(one[chosen] for one in inputs)

    def decided_on(self) -> str:
        """The examples decisions are made on, in words, for a note."""
        count = len(self.validation_examples()[0])
        if self.held_out:
            return f"{count} examples held out of training"
        return (
            f"{count} training examples, since none are held out (data_limits.validation holds "
            "some out)"
        )

    def example(self, count: int = 2) -> torch.Tensor:
        """The first training examples [count, ...] of a model's only input, for tracing.

        Raises BuildError where the model has several: see `examples`.
        """
        found = self.examples(count)
        if len(found) > 1:
            raise BuildError(f"this works on models of one input, and this one has {len(found)}")
        return found[0]

    def examples(self, count: int = 2) -> tuple[torch.Tensor, ...]:
        """The first training examples, a tensor [count, ...] for each input, for tracing."""
        return tuple(one[:count] for one in self.inputs())

    def checkpoint(self, purpose: str) -> Path | None:
        """The file where the training of this purpose keeps where it stands."""
        return None if self.scratch is None else self.scratch / f"{purpose.replace('/', '-')}.pt"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, [C, H, W]."""
        return self.train_x.shape[1:]

    def seed_for(self, purpose: str) -> int:
        """The seed of one named random draw."""
        return named_seed(self.seed, purpose)

    def init_seed(self, purpose: str) -> int:
        """The seed of named first weights: `training`'s own, where it has one, decides it."""
        return self._seed_of(self.training.init_seed, purpose)

    def order_seed(self, purpose: str) -> int:
        """The seed of a named order of examples: `training`'s own, where it has one, decides it."""
        return self._seed_of(self.training.order_seed, purpose)

    def _seed_of(self, own: int | None, purpose: str) -> int:
        return self.seed_for(purpose) if own is None else named_seed(own, purpose)

    def _need_labels(self, what: str, hint: str) -> None:
        if not self.labelled:
            raise BuildError(f"there are no labels to {what}", where="the data", hint=hint)


def _tensors(arrays: Sequence[NDArray[Any]]) -> tuple[torch.Tensor, ...]:
    import torch

    return tuple(torch.from_numpy(array) for array in arrays)


@dataclass
class Outcome:
    """What a technique leaves behind besides the module or file.

    `structure`: JSON-able, whatever `restructure` needs to make the module's shape again; `notes`:
    sentences for the report; `figures`: curves for the report.
    """

    structure: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


class Technique(ABC):
    """One way to compress.

    `last`: nothing may follow it in a chain, and why. `for_target`: its result depends on the
    target's int8 format, precisions and the like, and is stored for them alone. `replaces`: it
    starts a new network, so that whatever stands before it in a chain would be lost.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    level: ClassVar[Literal["torch", "onnx"]]
    Options: ClassVar[type[Options]]
    last: ClassVar[str | None] = None
    for_target: ClassVar[bool] = False
    replaces: ClassVar[bool] = False

    def identity(self, options: Any) -> dict[str, Any]:
        """What the result depends on besides the options: JSON-able, part of its key."""
        return {}

    def closed_by(self, options: Any) -> str | None:
        """Why nothing may follow this step in a chain; None where something may."""
        return self.last

    def undone_by(self, options: Any, later: str, later_options: Any) -> str | None:
        """Why a later step of that technique would undo this one; None where it would not."""
        return None

    def check(self, options: Any) -> None:  # noqa: B027 - most options cannot be wrong alone
        """Raise BuildError for options that cannot work whatever the model; before any work."""

    def measures(self, options: Any) -> bool:
        """Whether the result rests on what the device is or how fast: it is that one's alone."""
        return False


class TorchTechnique(Technique):
    """A technique that changes a module."""

    level = "torch"

    def reference_text(self, options: Any) -> str | None:
        """What `reference` gives, in words; None where there is nothing to hold the result against.

        So that what training on alone would have given is not counted as the technique's.
        """
        return None

    def reference(self, module: nn.Module, options: Any, context: Context) -> nn.Module:
        """A network of `module`'s shape to measure beside the result; `module` may be changed."""
        raise NotImplementedError

    @abstractmethod
    def apply(self, module: nn.Module, options: Any, context: Context) -> tuple[nn.Module, Outcome]:
        """The compressed module, in evaluation mode. `module` may be changed in place."""

    @abstractmethod
    def restructure(
        self, module: nn.Module, options: Any, structure: dict[str, Any], context: Context
    ) -> nn.Module:
        """A module of the shape that `apply` left, its weights still to be loaded.

        Stored results hold tensors and this description, never a pickled module: loading one
        cannot execute code.
        """


class OnnxTechnique(Technique):
    """A technique that changes an exported file."""

    level = "onnx"

    @abstractmethod
    def apply(self, source: Path, destination: Path, options: Any, context: Context) -> Outcome:
        """Write the compressed file to `destination`."""


TECHNIQUES: Registry[type[Technique]] = Registry("technique", "edgebench.techniques")


def weight_layers(module: nn.Module) -> list[tuple[str, WeightLayer]]:
    """The convolutions (transposed ones too) and dense layers of a module, with their names.

    In order of definition.
    """
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return [
        (name, cast("WeightLayer", layer))
        for name, layer in module.named_modules()
        if isinstance(layer, kinds)
    ]
