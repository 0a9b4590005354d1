"""Inputs of any number, shape and type from .npz files: data for models that are no classifiers.

A file holds one array [N, ...] for each input, named as the model names it. An array `labels` is
read only where it makes the file a labelled image set: whole numbers [N] beside one array of images
[N, C, H, W]. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgebench.data.base import TEST_FRACTION, Labels, Source, Split, fingerprint
from edgebench.data.npz import (
    LABELS,
    SUFFIX,
    Array,
    ArrayFiles,
    array_files,
    is_labelled,
    read_headers,
    read_npz,
)
from edgebench.errors import DataError, nearest


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples without labels, in memory: one array [N, ...] for each input of a model.

    `names` are the inputs', and `train_inputs`, `test_inputs` and `validation_inputs` follow their
    order; `validation_inputs` are held out of training and may hold no example. `fingerprint` is a
    sha256 over names and content. `labels_given`: the file had an array `labels`, which is not
    read.
    """

    name: str
    names: tuple[str, ...]
    train_inputs: tuple[Array, ...]
    test_inputs: tuple[Array, ...]
    validation_inputs: tuple[Array, ...]
    source: str
    fingerprint: str
    labels_given: bool = False

    @property
    def classes(self) -> int:
        """None: nothing is said of the answers."""
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """None: nothing is said of the answers."""
        return ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one example of each input."""
        return {n: a.shape[1:] for n, a in zip(self.names, self.train_inputs, strict=True)}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example of the first input."""
        return self.train_inputs[0].shape[1:]

    @property
    def train_x(self) -> Array:
        """The first input of the training examples."""
        return self.train_inputs[0]

    @property
    def train_y(self) -> Labels:
        """Empty: there are no labels."""
        return np.empty(0, np.int64)

    @property
    def validation_x(self) -> Array:
        """The first input of the examples held out of training."""
        return self.validation_inputs[0]

    @property
    def validation_y(self) -> Labels:
        """Empty: there are no labels."""
        return np.empty(0, np.int64)

    def arranged(self, order: Sequence[str], dtypes: Mapping[str, str]) -> Arrays:
        """The same examples, the inputs in another order and of other types.

        Inputs that `order` leaves out are left out.
        """
        places = [self.names.index(name) for name in order]

        def take(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(
                np.ascontiguousarray(arrays[place], dtype=dtypes[name])
                for name, place in zip(order, places, strict=True)
            )

        return replace(
            self,
            names=tuple(order),
            train_inputs=take(self.train_inputs),
            test_inputs=take(self.test_inputs),
            validation_inputs=take(self.validation_inputs),
        )


def gives_classes(spec: str) -> bool:
    """Whether the data that `spec` names is labelled images: all but the bare inputs of .npz files.

    Raises DataError for .npz files that cannot be read.
    """
    files = array_files(spec)
    return files is None or is_labelled(read_headers(files.train))


def labelled_source(files: ArrayFiles) -> Source:
    """The images and labels of .npz files as a source like any other; raises DataError."""
    if not is_labelled(read_headers(files.train)):
        raise DataError(
            f"holds no array '{LABELS}' [N] of whole numbers beside one of images [N, C, H, W]",
            where=str(files.train),
        )
    halves = [_split(path) for path in files if path is not None]
    return Source(
        halves[0], halves[1] if len(halves) > 1 else None, None, f"arrays in {files.train}"
    )


def load_arrays(
    spec: str,
    *,
    train: int | None = None,
    test: int | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Arrays:
    """The inputs in the .npz files that `spec` names, checked and in memory.

    One file is split 80/20; `train` and `test` are the most examples to take of each half, and
    `validation` of the training examples are held out. What is taken depends on `seed` and on how
    many there are alone. Raises DataError.
    """
    files = array_files(spec)
    if files is None:
        raise DataError("is no .npz file, and no folder with train.npz and test.npz", where=spec)
    found = read_npz(files.train)
    rng = np.random.default_rng(seed)
    if files.test is None:
        first, second = _halves(found, rng, str(files.train))
    else:
        first, second = found, read_npz(files.test)
        _check_alike(first, second, files)
    first, third = _hold_out(first, validation, rng, str(files.train))
    first, second = _part(first, train, rng), _part(second, test, rng)
    names = tuple(found)
    path = Path(spec).expanduser().resolve()
    unread = f" ('{LABELS}' is not read)" if LABELS in found else ""
    digest = fingerprint(
        *(array for name in sorted(names) for array in (_bytes(name), first[name], second[name])),
        *(third[name] for name in sorted(names) if validation is not None),
    )
    return Arrays(
        name=path.name.removesuffix(SUFFIX),
        names=names,
        train_inputs=tuple(first[name] for name in names),
        test_inputs=tuple(second[name] for name in names),
        validation_inputs=tuple(third[name] for name in names),
        source=f"arrays in {spec}{unread}",
        fingerprint=digest,
        labels_given=LABELS in found,
    )


def matched(names: Sequence[str], wanted: Sequence[str], *, where: str) -> None:
    """Raise DataError unless there is an array of each wanted name, and no other but `labels`."""
    for name in wanted:
        if name not in names:
            near = nearest(name, names)
            raise DataError(
                f"there is no array '{name}', which the model takes",
                where=where,
                hint=f"is it '{near}'? Name the arrays as the model's inputs: {', '.join(wanted)}"
                if near
                else f"name the arrays as the model's inputs: {', '.join(wanted)}",
            )
    for name in names:
        if name not in wanted and name != LABELS:
            near = nearest(name, wanted)
            raise DataError(
                f"the model has no input '{name}'",
                where=where,
                hint=f"did you mean '{near}'?" if near else f"it takes {', '.join(wanted)}",
            )


def _split(path: Path) -> Split:
    """One labelled file as one half of a data set."""
    arrays = read_npz(path)
    labels = arrays.pop(LABELS, None)
    if labels is None or len(arrays) != 1:
        raise DataError(
            f"holds no '{LABELS}' beside one array of images, as the other file does",
            where=str(path),
        )
    (images,) = arrays.values()
    return Split.of_arrays(images, labels, str(path))


def _halves(
    arrays: dict[str, Array], rng: np.random.Generator, where: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    count = len(next(iter(arrays.values())))
    if count < 2:
        raise DataError(
            "holds a single example, and a split needs two",
            where=where,
            hint="add examples, or give a folder with train.npz and test.npz",
        )
    order = rng.permutation(count)
    held = max(1, round(count * TEST_FRACTION))
    return _rows(arrays, np.sort(order[held:])), _rows(arrays, np.sort(order[:held]))


def _hold_out(
    arrays: dict[str, Array], count: int | None, rng: np.random.Generator, where: str
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The training half without `count` of its examples, and these."""
    total = len(next(iter(arrays.values())))
    if count is None:
        return arrays, _rows(arrays, np.empty(0, np.int64))
    if count >= total:
        raise DataError(
            f"{count} examples cannot be held out of {total}",
            where=where,
            hint="set data_limits.validation to a tenth of the training examples, say",
        )
    order = rng.permutation(total)
    return _rows(arrays, np.sort(order[count:])), _rows(arrays, np.sort(order[:count]))


def _part(
    arrays: dict[str, Array], limit: int | None, rng: np.random.Generator
) -> dict[str, Array]:
    total = len(next(iter(arrays.values())))
    if limit is None or limit >= total:
        return arrays
    return _rows(arrays, np.sort(rng.permutation(total)[:limit]))


def _rows(arrays: dict[str, Array], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def _check_alike(first: dict[str, Array], second: dict[str, Array], files: ArrayFiles) -> None:
    """Raise DataError unless the two halves hold the same inputs."""
    assert files.test is not None  # noqa: S101 - the caller read it
    where = f"{files.train} and {files.test}"
    different = sorted(set(first) ^ set(second))
    if different:
        raise DataError(f"only one of them holds '{different[0]}'", where=where)
    for name, array in first.items():
        other = second[name]
        if array.shape[1:] != other.shape[1:] or array.dtype != other.dtype:
            raise DataError(
                f"'{name}' is {array.dtype} {list(array.shape)} and "
                f"{other.dtype} {list(other.shape)}",
                where=where,
            )


def _bytes(text: str) -> Array:
    return np.frombuffer(text.encode(), dtype=np.uint8)
