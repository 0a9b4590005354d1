"""How the answers that came back from the target are read: classes with labels, or numbers alone.

`task.py` is the other half: what a run is about while its models are built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.metrics.base import Kind, Outputs, looks_like_probabilities
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.results import read_outputs

Answers = NDArray[np.float32]


class Reader(ABC):
    """Reads the answers of one run's models."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The test examples."""

    @abstractmethod
    def read(self, path: Path) -> Answers:
        """The answers [N, …] in a file of the agent's; raises NotMeasuredError."""

    @abstractmethod
    def outputs(self, answers: Mapping[str, Answers]) -> dict[str, Outputs]:
        """The answers of all models by name, ready to be compared."""


@dataclass(frozen=True)
class _Classes(Reader):
    """Answers [N, classes], with the labels that stayed on the host."""

    labels: NDArray[np.int64]
    classes: int

    @property
    def count(self) -> int:
        """The test examples."""
        return len(self.labels)

    def read(self, path: Path) -> Answers:
        """Logits or probabilities."""
        return read_outputs(path, (self.count, self.classes))

    def outputs(self, answers: Mapping[str, Answers]) -> dict[str, Outputs]:
        """All are taken for what base's are: logits or probabilities."""
        probabilities = "base" in answers and looks_like_probabilities(answers["base"])
        return {n: Outputs(values, self.labels, probabilities) for n, values in answers.items()}


@dataclass(frozen=True)
class _Any(Reader):
    """Answers of any kind; `widths`: how many numbers each output that came back has."""

    examples: int
    widths: tuple[int, ...]

    @property
    def count(self) -> int:
        """The test examples."""
        return self.examples

    def read(self, path: Path) -> Answers:
        """All numbers of an example in a row."""
        return read_outputs(path, (self.count, sum(self.widths)))

    def outputs(self, answers: Mapping[str, Answers]) -> dict[str, Outputs]:
        """Numbers to be held against base's."""
        return {
            name: Outputs(values, answers="any", widths=self.widths)
            for name, values in answers.items()
        }


def reader_for(data: Mapping[str, Any], folder: RunFolder) -> Reader:
    """How the answers of a run are read, from its record of the data."""
    if kind_of(data) == "classes":
        labels: NDArray[np.int64] = np.load(folder.labels_file, allow_pickle=False)
        return _Classes(labels, len(data["class_names"]))
    widths = tuple(math.prod(output["shape"]) for output in data["outputs"])
    return _Any(int(data["test"]), widths)


def kind_of(data: Mapping[str, Any]) -> Kind:
    """What the answers of a run's models are, from its record of the data."""
    return "any" if data.get("answers") == "any" else "classes"
