"""From a name or a path to a checked data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgebench.data.arrays import Arrays, gives_classes, labelled_source, load_arrays
from edgebench.data.base import (
    DATASETS,
    TEST_FRACTION,
    Dataset,
    Floats,
    Labels,
    Source,
    Split,
    fingerprint,
)
from edgebench.data.folders import read_folder
from edgebench.data.npz import array_files
from edgebench.data.parquet import read_parquet, split_files
from edgebench.data.splitting import stratified_halves, stratified_part
from edgebench.errors import DataError


def load_any(
    spec: str,
    *,
    train: int | None = None,
    test: int | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Dataset | Arrays:
    """The labelled images that `spec` names, or the bare inputs of its .npz files.

    The arguments and errors are those of `load`.
    """
    take = load if gives_classes(spec) else load_arrays
    return take(spec, train=train, test=test, validation=validation, seed=seed)


def load(
    spec: str,
    *,
    train: int | None = None,
    test: int | None = None,
    validation: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The data set called `spec`, or the one at the path `spec`, checked and in memory.

    A path is a folder of images (`train/` and `test/` with class folders, or class folders
    alone), a folder of Parquet files, one Parquet file, or .npz files of one array of images and
    one of `labels`; what has no test half is split 80/20.
    A registered name wins over a path: write `./mnist` for a folder of that name. `train` and
    `test` are the most examples to take of each half, and `validation` of the training examples
    are held out first, exactly so many; the test half is the same with and without them. Classes
    keep their shares, and what is taken, like the split, depends on `seed` alone. Examples keep the
    order of their source, which for folders is class after class.

    Raises UnknownNameError for a name nobody registered, and DataError.
    """
    for what, limit in (("train", train), ("test", test), ("validation", validation)):
        if limit is not None and limit < 1:
            raise DataError(f"{what} must be 1 or more examples, not {limit}")
    name, source = _find(spec)
    names = _checked_names(source)
    first, second = _halves(source, names, seed)
    held_out: dict[str, Any] = {}
    if validation is not None:
        first, third = _held_out(first, validation, seed, names)
        held_x, held_y = _take(third, None, seed)
        held_out = {"validation_x": held_x, "validation_y": held_y}
    train_x, train_y = _take(first, train, seed)
    test_x, test_y = _take(second, test, seed)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise DataError(
            f"train images are {train_x.shape[1:]} and test images {test_x.shape[1:]}", where=spec
        )
    return Dataset(
        name=name,
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        class_names=names,
        source=source.words,
        fingerprint=fingerprint(train_x, train_y, test_x, test_y, *held_out.values()),
        **held_out,
    )


def _find(spec: str) -> tuple[str, Source]:
    if spec in DATASETS.names():
        return spec, DATASETS.get(spec)()
    path = Path(spec).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot be read: {reason}", where=spec) from error
    if not exists:
        if path.name == spec and path.suffix != ".parquet":
            DATASETS.get(spec)
        raise DataError("there is no such file or folder", where=spec)
    name = path.resolve().name
    arrays = array_files(spec)
    if arrays is not None:
        return name.removesuffix(".npz"), labelled_source(arrays)
    if path.is_file():
        if path.suffix != ".parquet":
            raise DataError(
                "is neither a folder nor a .parquet file nor an .npz file",
                where=spec,
                hint="give a folder of class folders with images, a Parquet file, or the arrays of "
                "a model's inputs",
            )
        return name.removesuffix(".parquet"), read_parquet([path], [])
    files = split_files(path)
    return name, read_folder(path) if files is None else read_parquet(*files)


def _halves(source: Source, names: tuple[str, ...], seed: int) -> tuple[Split, Split]:
    """Train and test, whose classes must be the same; a source of one half is split."""
    train, test = source.train, source.test
    if test is None:
        first, second = stratified_halves(train.labels, TEST_FRACTION, seed, names, train.where)
        return train.part(first), train.part(second)
    only_train = np.setdiff1d(train.labels, test.labels)
    only_test = np.setdiff1d(test.labels, train.labels)
    if only_train.size or only_test.size:
        label = int((only_train if only_train.size else only_test)[0])
        has, lacks = ("train", "test") if only_train.size else ("test", "train")
        raise DataError(
            f"class '{names[label]}' has examples in {has} and none in {lacks}", where=test.where
        )
    return train, test


def _held_out(half: Split, count: int, seed: int, names: tuple[str, ...]) -> tuple[Split, Split]:
    """The training half without `count` of its examples, and these; each shows every class."""
    total, classes = len(half.labels), len(np.unique(half.labels))
    if count < classes:
        raise DataError(
            f"{count} examples held out cannot show {classes} classes",
            where=half.where,
            hint=f"set data_limits.validation to {classes} or more",
        )
    if count > total - classes:
        raise DataError(
            f"{count} examples cannot be held out of {total}, since {classes} classes must be left "
            "to train on",
            where=half.where,
            hint="set data_limits.validation to a tenth of the training examples, say",
        )
    first, second = stratified_halves(half.labels, count / total, seed, names, half.where)
    return half.part(first), half.part(second)


def _checked_names(source: Source) -> tuple[str, ...]:
    """The class names, once the labels are known to fit them."""
    halves = [source.train] if source.test is None else [source.train, source.test]
    for half in halves:
        if not half.labels.size:
            raise DataError("there are no examples", where=half.where)
        if half.labels.min() < 0:
            row = int(np.argmin(half.labels))
            raise DataError(
                f"example {row} has the label {half.labels[row]}",
                where=half.where,
                hint="number the classes from 0",
            )
    present = np.unique(np.concatenate([half.labels for half in halves]))
    names = source.class_names
    if names is None:
        gap = next((k for k, label in enumerate(present.tolist()) if k != label), None)
        if gap is not None:
            raise DataError(
                f"label {present[-1]} is there, but no example has the label {gap}",
                where=source.train.where,
                hint="number the classes from 0 without gaps",
            )
        names = tuple(str(label) for label in present.tolist())
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two classes are called '{twice}'", where=source.train.where)
    for half in halves:
        if half.labels.max() >= len(names):
            row = int(np.argmax(half.labels))
            raise DataError(
                f"example {row} has the label {half.labels[row]}, and there are {len(names)} "
                "classes",
                where=half.where,
                hint="labels go from 0 to the number of classes less one",
            )
    if len(present) < 2:
        raise DataError(
            f"all examples are of one class, '{names[int(present[0])]}'",
            where=source.train.where,
            hint="a classifier needs two classes or more",
        )
    return names


def _take(half: Split, limit: int | None, seed: int) -> tuple[Floats, Labels]:
    """At most `limit` examples of a half, decoded and checked."""
    size = len(half.labels) if limit is None else limit
    indices = stratified_part(half.labels, size, seed, half.where)
    x = np.ascontiguousarray(half.decode(indices), dtype=np.float32)
    if not (x.min() >= 0.0 and x.max() <= 1.0):  # written so that NaN fails as well
        raise DataError(
            f"pixels range from {x.min()} to {x.max()}",
            where=half.where,
            hint="scale the images to [0, 1]",
        )
    return x, half.labels[indices]
