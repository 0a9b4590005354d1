"""What a data set is, before and after its images are decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebench.errors import DataError
from edgebench.registry import Registry

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

# Of a source without a test half, what is kept from training to judge by.
TEST_FRACTION = 0.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image set, in memory, ready to train on and to judge by.

    Images are float32 [N, C, H, W] in [0, 1], C-contiguous; labels are int64 [N], each an index
    into `class_names`. `validation_x` and `validation_y` are held out of training, for decisions;
    they may be empty. `source` says in words where it came from; `fingerprint` is a sha256 over
    shapes, pixels and labels, so it changes with the content and not with the path.
    """

    name: str
    train_x: Floats
    train_y: Labels
    test_x: Floats
    test_y: Labels
    class_names: tuple[str, ...]
    source: str
    fingerprint: str
    validation_x: Floats = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.float32))
    validation_y: Labels = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.train_x.shape
        return channels, height, width

    @property
    def train_inputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The training examples, one array for each input of a model: the images."""
        return (self.train_x,)

    @property
    def validation_inputs(self) -> tuple[npt.NDArray[Any], ...]:
        """The examples held out of training, one array for each input of a model."""
        return (self.validation_x,)


@dataclass(frozen=True, eq=False)
class Split:
    """One half of a data set whose images are decoded only when asked for.

    `labels` is int64 [N]. `decode` takes int64 indices [n] and returns float32 [n, C, H, W] in
    [0, 1]. `where` is what messages call this half.
    """

    labels: Labels
    decode: Callable[[Indices], Floats]
    where: str

    @classmethod
    def of_arrays(cls, x: npt.NDArray[Any], y: npt.NDArray[Any], where: str) -> Split:
        """A half that is in memory already: `x` [N, C, H, W] in [0, 1], `y` [N] integers."""
        if x.ndim != 4 or y.shape != x.shape[:1]:
            raise DataError(
                f"images of shape {x.shape} with labels of shape {y.shape}",
                where=where,
                hint="give images [N, C, H, W] and labels [N]",
            )
        if not np.issubdtype(y.dtype, np.integer):
            raise DataError(f"labels must be integers, not {y.dtype}", where=where)
        return cls(y.astype(np.int64), lambda indices: x[indices].astype(np.float32), where)

    def part(self, indices: Indices, where: str | None = None) -> Split:
        """Only the examples at `indices`, in that order."""
        return Split(
            self.labels[indices], lambda inner: self.decode(indices[inner]), where or self.where
        )


@dataclass(frozen=True, eq=False)
class Source:
    """Where a data set comes from: two halves, not yet decoded, and the names of the classes.

    `test` is None where the source has one half only; it is split when it is loaded. `class_names`
    is None where the source names none; then the classes are called "0", "1", ...
    """

    train: Split
    test: Split | None
    class_names: tuple[str, ...] | None
    words: str


DATASETS: Registry[Callable[[], Source]] = Registry("data set", "edgebench.data")


def fingerprint(*arrays: npt.NDArray[Any]) -> str:
    """The sha256 over the type, shape and content of each array, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
