"""Well-known sets that the Hugging Face hub keeps: read from disk, else fetched."""

from __future__ import annotations

import os
from pathlib import Path

from edgebench.data.base import DATASETS, Source
from edgebench.data.parquet import Rows, read_parquet, read_table, source_of, split_files
from edgebench.errors import DataError, one_line

DATA_VARIABLE = "EDGEBENCH_DATA"


@DATASETS.register("mnist")
def mnist() -> Source:
    """60,000 and 10,000 handwritten digits, grey, 28x28.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to
    document recognition", Proceedings of the IEEE 86(11), 1998.
    """
    return _read("mnist", "ylecun/mnist", "label")


@DATASETS.register("fashion-mnist")
def fashion_mnist() -> Source:
    """60,000 and 10,000 pictures of clothes, grey, 28x28, in 10 classes.

    Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017.
    """
    return _read("fashion-mnist", "zalando-datasets/fashion_mnist", "label")


@DATASETS.register("cifar10")
def cifar10() -> Source:
    """50,000 and 10,000 colour pictures, 32x32, in 10 classes.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _read("cifar10", "uoft-cs/cifar10", "label")


@DATASETS.register("cifar100")
def cifar100() -> Source:
    """50,000 and 10,000 colour pictures, 32x32, in the 100 fine classes.

    Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _read("cifar100", "uoft-cs/cifar100", "fine_label")


def _read(name: str, repository: str, label: str) -> Source:
    """The set from `$EDGEBENCH_DATA/NAME` where that folder is, else from the hub."""
    root = os.environ.get(DATA_VARIABLE)
    if root:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"{root} is not a folder", where=DATA_VARIABLE, hint="name the folder of data sets"
            )
        files = _files(folder / name)
        if files is not None:
            return read_parquet(*files, label=label)
    return _fetch(name, repository, label)


def _files(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """The files of train and test in `folder`; None where there is no such folder."""
    try:
        there = folder.is_dir()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    if not there:
        return None
    files = split_files(folder)
    if files is None or not files[1]:
        raise DataError(
            "there is no train.parquet and test.parquet", where=str(folder), hint="add them"
        )
    return files


def _fetch(name: str, repository: str, label: str) -> Source:
    """Both halves through the `datasets` library, which keeps a copy of its own.

    Raises DataError where the library is not installed or the hub is out of reach.
    """
    advice = f"set {DATA_VARIABLE} to a folder with {name}/train.parquet and {name}/test.parquet"
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name} is not on this machine",
            hint=f"{advice}, or pip install 'edgebench[hub]'",
        ) from error
    halves: list[Rows] = []
    for split in ("train", "test"):
        # Network, cache and server faults come as exceptions of half a dozen libraries.
        try:
            half = datasets.load_dataset(repository, split=split)
            table = half.with_format("arrow")[:]
            names = tuple(half.features[label].names)
        except Exception as error:
            raise DataError(
                f"{name} cannot be fetched from the Hugging Face hub: {one_line(str(error), 160)}",
                hint=advice,
            ) from error
        rows = read_table(table, f"{repository} {split}", label)
        halves.append(Rows(rows.images, rows.labels, names, rows.where))
    return source_of(halves[0], halves[1], f"the Hugging Face hub: {repository}")
