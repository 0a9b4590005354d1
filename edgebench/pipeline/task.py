"""What a run is about: sorting into classes, or answers of any kind.

Everything that differs between the two while models are built lies here: how a network is made,
checked and fed, and what is known of its answers. `answers.py` is the other half: how those that
came back are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgebench.data import Arrays, Dataset, load_any
from edgebench.errors import ModelError
from edgebench.metrics.base import Kind
from edgebench.recipe import Recipe

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgebench.models.source import ModelSource

Array = NDArray[Any]
# Real examples for tracing and for comparing files: one array, or one for each input by name.
Examples = NDArray[np.float32] | Mapping[str, Array]

# Two, since a batch of one would be taken for a constant.
CHECKED = 2


class Task(ABC):
    """One data set, and what is asked of models on it.

    `answers`: the kind of their answers, as the agent knows it. `trains`: there are labels, so that
    networks can be trained.
    """

    answers: ClassVar[Kind]
    trains: ClassVar[bool]
    dataset: Dataset | Arrays

    @abstractmethod
    def build(self, source: ModelSource, **options: Any) -> nn.Module:
        """A new network of the user's architecture with the first weights of torch's seed."""

    @abstractmethod
    def check_module(self, module: nn.Module, *, where: str) -> None:
        """Raise ModelError where a module's answers are not of this kind."""

    @abstractmethod
    def check_file(self, model: onnx.ModelProto, path: Path) -> None:
        """Raise ModelError or DataError where an ONNX file does not fit the data."""

    @abstractmethod
    def examples(self, count: int) -> Examples:
        """The first test examples."""

    @abstractmethod
    def inputs(self) -> list[tuple[str | None, Array]]:
        """The test examples as the agent is to feed them: by name, in the models' order."""

    @abstractmethod
    def labels(self) -> NDArray[np.int64] | None:
        """The labels of the test examples, where there are any."""

    @abstractmethod
    def probabilities(self, module: nn.Module) -> bool:
        """Whether a network's answers are the probabilities of classes."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The data as it stands in `build.json` and `run.json`."""

    def notes(self) -> list[str]:
        """What is to be said of base."""
        return []

    @abstractmethod
    def warnings(self, recipe: Recipe, source: ModelSource) -> list[str]:
        """What a reader of the report has to know beforehand."""


@dataclass
class Classification(Task):
    """Labelled images, sorted into classes by models of one input and one output [N, classes]."""

    dataset: Dataset
    answers: ClassVar[Kind] = "classes"
    trains: ClassVar[bool] = True

    def build(self, source: ModelSource, **options: Any) -> nn.Module:
        """A new network for the images' shape and so many classes."""
        return source.build(self.dataset.input_shape, self.dataset.classes, **options)

    def check_module(self, module: nn.Module, *, where: str) -> None:
        """Raise ModelError unless it turns images into finite [N, classes]."""
        from edgebench.models.source import check_classifier

        check_classifier(module, self.dataset.input_shape, self.dataset.classes, where=where)

    def check_file(self, model: onnx.ModelProto, path: Path) -> None:
        """Raise ModelError unless it takes the images and gives [N, classes]."""
        from edgebench.exporters.onnx_file import check_fits, classifier_of

        classifier = classifier_of(model, where=str(path))
        check_fits(classifier, self.dataset.input_shape, self.dataset.classes, where=str(path))

    def examples(self, count: int) -> NDArray[np.float32]:
        """The first test images, [count, C, H, W]."""
        return self.dataset.test_x[:count]

    def inputs(self) -> list[tuple[str | None, Array]]:
        """The test images; whatever a model calls its one input."""
        return [(None, self.dataset.test_x)]

    def labels(self) -> NDArray[np.int64]:
        """The class of each test image."""
        return self.dataset.test_y

    def probabilities(self, module: nn.Module) -> bool:
        """Whether the network ends in a softmax."""
        import torch

        from edgebench.metrics.base import looks_like_probabilities
        from edgebench.training.loop import predict

        return looks_like_probabilities(
            predict(module, torch.from_numpy(self.examples(32))).numpy()
        )

    def record(self) -> dict[str, Any]:
        """Name, classes, shape and sizes."""
        data = self.dataset
        return {
            "name": data.name,
            "classes": data.classes,
            "class_names": list(data.class_names),
            "input_shape": list(data.input_shape),
            "train": len(data.train_y),
            "test": len(data.test_y),
            "fingerprint": data.fingerprint,
            "source": data.source,
        }

    def warnings(self, recipe: Recipe, source: ModelSource) -> list[str]:
        """None."""
        return []


@dataclass
class AnyAnswers(Task):
    """Bare inputs, and models whose answers are only held against base's.

    `called`: how the inputs go to the model, in words. `outputs`: the shape of one example of each
    answer of base by name, known once base was checked.
    """

    dataset: Arrays
    called: str
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    answers: ClassVar[Kind] = "any"
    trains: ClassVar[bool] = False

    def build(self, source: ModelSource, **options: Any) -> nn.Module:
        """A new network by the factory and the user's options."""
        return source.build_for(self.dataset.shapes, **options)

    def check_module(self, module: nn.Module, *, where: str) -> None:
        """Raise ModelError unless it gives finite tensors whose first axis counts the examples."""
        import torch

        from edgebench.models.calling import check_module

        few = [torch.from_numpy(array) for array in self.examples(CHECKED).values()]
        self._answered(check_module(module, few, where=where), where=where)

    def check_file(self, model: onnx.ModelProto, path: Path) -> None:
        """Raise an error unless it takes the arrays, and counts the examples in every answer."""
        from edgebench.exporters.onnx_answers import answer_shapes
        from edgebench.pipeline.array_inputs import check_arrays
        from edgebench.pipeline.comparison_inputs import read_signature

        del model
        signature, _ = read_signature(path)
        check_arrays(signature, self.dataset)
        count = signature.fixed_batch or CHECKED
        rows = np.arange(count) % len(self.dataset.test_inputs[0])
        names = [tensor.name for tensor in signature.inputs]
        few = {
            name: array[rows] for name, array in zip(names, self.dataset.test_inputs, strict=True)
        }
        self._answered(answer_shapes(path, few), where=str(path))

    def examples(self, count: int) -> dict[str, Array]:
        """The first test examples of each input by name."""
        arrays = zip(self.dataset.names, self.dataset.test_inputs, strict=True)
        return {name: array[:count] for name, array in arrays}

    def inputs(self) -> list[tuple[str | None, Array]]:
        """The test examples of each input."""
        return list(zip(self.dataset.names, self.dataset.test_inputs, strict=True))

    def labels(self) -> None:
        """None: answers are held against base's alone."""
        return

    def probabilities(self, module: nn.Module) -> bool:
        """Never: nothing is said of the answers."""
        return False

    def record(self) -> dict[str, Any]:
        """Name, inputs, answers and sizes; no classes."""
        data = self.dataset
        return {
            "name": data.name,
            "answers": self.answers,
            "inputs": [
                {"name": name, "dtype": str(array.dtype), "shape": list(array.shape[1:])}
                for name, array in zip(data.names, data.test_inputs, strict=True)
            ],
            "called": self.called,
            "outputs": [{"name": n, "shape": list(shape)} for n, shape in self.outputs.items()],
            "train": len(data.train_inputs[0]),
            "test": len(data.test_inputs[0]),
            "fingerprint": data.fingerprint,
            "source": data.source,
        }

    def notes(self) -> list[str]:
        """How the inputs go to the model."""
        return [f"inputs go to the model {self.called}"]

    def warnings(self, recipe: Recipe, source: ModelSource) -> list[str]:
        """That nothing was trained."""
        found = []
        if source.factory is not None and source.weights is None:
            found.append(
                f"base has the weights its factory gave it: {self._why_untrained()}, and no "
                "weights were named (--weights)"
            )
        if recipe.controls.independent and "independent" in recipe.controls.model_fields_set:
            found.append(
                f"no independent control was trained: {self._why_untrained()}; networks trained "
                "alike can be given as controls.files"
            )
        return found

    def _why_untrained(self) -> str:
        if not self.dataset.labels_given:
            return "without labels nothing is trained"
        if len(self.dataset.names) > 1:
            return "labels are not used for models of several inputs"
        return "labels are used with images [N, C, H, W] alone"

    def _answered(self, shapes: Mapping[str, tuple[int, ...]], *, where: str) -> None:
        """Keep base's answers; whatever comes later has to give as many, of the same shapes."""
        if not self.outputs:
            self.outputs.update(shapes)
        elif list(self.outputs.values()) != list(shapes.values()):
            raise ModelError(
                f"its answers are {_shown(shapes)}, and base's are {_shown(self.outputs)}",
                where=where,
            )


def load_task(recipe: Recipe, source: ModelSource) -> Task:
    """The task that a recipe's data sets; raises DataError or ModelError."""
    limits = recipe.data_limits
    dataset = load_any(
        recipe.data,
        train=limits.train,
        test=limits.test,
        validation=limits.validation,
        seed=recipe.seed,
    )
    if isinstance(dataset, Dataset):
        return Classification(dataset)
    from edgebench.pipeline.array_inputs import arranged

    return AnyAnswers(*arranged(dataset, source, recipe))


def _shown(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        f"'{name}' [N{''.join(f', {s}' for s in shape)}]" for name, shape in shapes.items()
    )
