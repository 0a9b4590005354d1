"""Arrays in .npz files: which files there are, what they hold, and reading them checked.

Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgebench.errors import DataError

Array = npt.NDArray[Any]

# What an input may be made of (docs/bundle.md).
TYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
LABELS = "labels"
SUFFIX = ".npz"
TRAIN, TEST = "train.npz", "test.npz"
IMAGE_RANK = 4
WRITE = "write it with numpy.savez(FILE, image=..., size=...), arrays of numbers alone"


class ArrayFiles(NamedTuple):
    """The .npz files of a data set; `test` is None where one file holds all."""

    train: Path
    test: Path | None


class Header(NamedTuple):
    """What a file says of an array before its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def array_files(spec: str) -> ArrayFiles | None:
    """The .npz files that `spec` names: one, or a folder's train.npz and test.npz; else None.

    Raises DataError where the folder has one of the two alone.
    """
    path = Path(spec).expanduser()
    if path.suffix == SUFFIX:
        return ArrayFiles(path, None)
    there = [_is_there(path / name) for name in (TRAIN, TEST)]
    if not any(there):
        return None
    if not all(there):
        has, lacks = (TRAIN, TEST) if there[0] else (TEST, TRAIN)
        raise DataError(
            f"has {has} and no {lacks}", where=spec, hint="add it, or name the file itself"
        )
    return ArrayFiles(path / TRAIN, path / TEST)


def is_labelled(headers: Mapping[str, Header]) -> bool:
    """Whether a file is a labelled image set."""
    others = [header for name, header in headers.items() if name != LABELS]
    labels = headers.get(LABELS)
    return (
        labels is not None
        and len(labels.shape) == 1
        and labels.dtype.kind in "iu"
        and len(others) == 1
        and len(others[0].shape) == IMAGE_RANK
        and others[0].dtype.kind == "f"
    )


def read_headers(path: Path) -> dict[str, Header]:
    """The name, shape and type of each array in a file, the numbers unread; raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {}
            for entry in archive.namelist():
                with archive.open(entry) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(stream)
                headers[entry.removesuffix(".npy")] = Header(shape, dtype)
    except FileNotFoundError:
        raise DataError("there is no file at this path", where=str(path)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"cannot be read as an .npz file: {error}", where=str(path), hint=WRITE
        ) from None
    return headers


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of a file, checked; raises DataError."""
    headers = read_headers(path)
    where = str(path)
    if not set(headers) - {LABELS}:
        raise DataError("holds no array of inputs", where=where, hint=WRITE)
    for name, header in headers.items():
        if str(header.dtype) not in TYPES:
            raise DataError(
                f"the array '{name}' holds Python objects"
                if header.dtype.hasobject
                else f"the array '{name}' is {header.dtype}; edgebench knows {', '.join(TYPES)}",
                where=where,
                hint=WRITE,
            )
        if not header.shape:
            raise DataError(
                f"the array '{name}' is a single number",
                where=where,
                hint="the first axis of every input has to count the examples",
            )
        if 0 in header.shape:
            raise DataError(f"the array '{name}' is empty: {list(header.shape)}", where=where)
    counts = {name: header.shape[0] for name, header in headers.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise DataError(
            f"its arrays hold different numbers of examples: {told}",
            where=where,
            hint="the first axis of every array has to count the same examples",
        )
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: np.ascontiguousarray(found[name]) for name in headers}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"cannot be read as an .npz file: {error}", where=where, hint=WRITE
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            row = int(np.isnan(array.reshape(len(array), -1)).any(axis=1).argmax())
            raise DataError(f"the array '{name}' holds NaN (example {row})", where=where)
    return arrays


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # What may not be looked at is named by whoever reads the folder.
        return False
