"""Parquet files in the layout of the Hugging Face hub: a column of images, a column of labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.data.base import Labels, Source, Split
from edgebench.data.folders import TEST_NAMES
from edgebench.data.images import Encoded, decode, survey
from edgebench.errors import DataError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")

_SHARD = re.compile(r"(?P<split>[\w.]+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.parquet")


@dataclass(frozen=True, eq=False)
class ImageColumn:
    """The encoded images of one table: a binary column, and what to call its rows."""

    column: pa.ChunkedArray
    name: str

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.column)

    def payload(self, index: int) -> bytes:
        """The bytes of one row."""
        content: bytes | None = self.column[index].as_py()
        if content is None:
            raise DataError(
                "holds no image bytes",
                where=self.where(index),
                hint="write the images into the file, not their paths",
            )
        return content

    def where(self, index: int) -> str:
        """The table and the row, counted from 0."""
        return f"{self.name} row {index}"


@dataclass(frozen=True, eq=False)
class Rows:
    """What one table holds: encoded images, labels, and class names where it names them."""

    images: Encoded
    labels: Labels
    class_names: tuple[str, ...] | None
    where: str


@dataclass(frozen=True, eq=False)
class Shards:
    """The encoded images of several tables, one after the other."""

    parts: tuple[Encoded, ...]

    def __len__(self) -> int:
        """How many images all the tables hold."""
        return sum(len(part) for part in self.parts)

    def payload(self, index: int) -> bytes:
        """The bytes of one image."""
        part, row = self._find(index)
        return part.payload(row)

    def where(self, index: int) -> str:
        """The table and the row in it."""
        part, row = self._find(index)
        return part.where(row)

    def _find(self, index: int) -> tuple[Encoded, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


def split_files(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """The Parquet files of train and of test in `folder`, shards in order.

    A single file of another name is all of train, and test is empty. None where there are no
    Parquet files at all. Raises DataError where a half or a shard is missing.
    """
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix == ".parquet" and p.is_file())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(folder)) from error
    if not files:
        return None
    train = _half(folder, files, "train")
    test = next((half for name in TEST_NAMES if (half := _half(folder, files, name))), [])
    if train and test:
        return train, test
    if not train and not test and len(files) == 1:
        return files, []
    missing = "train.parquet" if not train else "test.parquet"
    raise DataError(
        f"there is no {missing} beside {files[0].name}",
        where=str(folder),
        hint="add it, or give the path of one .parquet file to have it split",
    )


def read_parquet(train: list[Path], test: list[Path], *, label: str | None = None) -> Source:
    """The images and labels of the Parquet files of each half; an empty `test` is split off later.

    `label` names the label column where it is not the usual one. Raises DataError that names the
    file, and the row where one is at fault.
    """
    words = f"Parquet files in {train[0].parent}" if test else f"the Parquet file {train[0]}"
    halves = [
        _joined([_read_file(path, label) for path in half])
        for half in ([train, test] if test else [train])
    ]
    return source_of(halves[0], halves[1] if test else None, words)


def source_of(train: Rows, test: Rows | None, words: str) -> Source:
    """The source made of one or two sets of rows, which must agree on the class names."""
    if test is not None and train.class_names != test.class_names:
        raise DataError(
            f"the class names differ from those of {train.where}: "
            f"{_names(test.class_names)} against {_names(train.class_names)}",
            where=test.where,
        )
    halves = [train] if test is None else [train, test]
    form = survey([rows.images for rows in halves])
    splits = [
        Split(
            rows.labels,
            lambda indices, rows=rows: decode(rows.images, indices, form),  # type: ignore[misc]
            rows.where,
        )
        for rows in halves
    ]
    return Source(splits[0], None if test is None else splits[1], train.class_names, words)


def read_table(table: pa.Table, where: str, label: str | None = None) -> Rows:
    """The images and labels of one Arrow table, its images a struct {bytes, path} or binary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    image_name, label_name = _columns(table.schema, where, label)
    images, labels = table.column(image_name), table.column(label_name)
    if pa.types.is_struct(images.type):
        images = pc.struct_field(images, "bytes")
    if labels.null_count:
        row = pc.index(pc.is_null(labels), True).as_py()
        raise DataError(f"the label in '{label_name}' is null", where=f"{where} row {row}")
    if not pa.types.is_integer(labels.type):
        raise DataError(
            f"the labels in '{label_name}' are {labels.type}, not integers",
            where=where,
            hint="number the classes from 0",
        )
    try:
        numbers = labels.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise DataError(f"a label in '{label_name}' is out of range", where=where) from error
    names = _class_names(_features(table.schema).get(label_name), where)
    return Rows(ImageColumn(images, where), numbers, names, where)


def _half(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files of one half: SPLIT.parquet, or every shard of it."""
    whole = [path for path in files if path.name == f"{split}.parquet"]
    if whole:
        return whole
    found = [m for path in files if (m := _SHARD.fullmatch(path.name)) and m["split"] == split]
    counts = sorted({int(m["count"]) for m in found})
    if len(counts) > 1:
        raise DataError(
            f"{split} has shards of {counts[0]} and of {counts[1]} files",
            where=str(folder),
            hint="remove those of the other set",
        )
    if found:
        missing = sorted(set(range(counts[0])) - {int(m["index"]) for m in found})
        if missing:
            raise DataError(
                f"{split}-{missing[0]:05d}-of-{counts[0]:05d}.parquet is missing",
                where=str(folder),
                hint="add it",
            )
    return [folder / m.string for m in found]


def _read_file(path: Path, label: str | None) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow, str(path), label)
            table = file.read(columns=list(columns))
    except PermissionError as error:
        raise DataError("cannot be read: Permission denied", where=str(path)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"is not a whole Parquet file: {one_line(str(error), 160)}",
            where=str(path),
            hint="fetch it again",
        ) from error
    return read_table(table, str(path), label)


def _joined(parts: list[Rows]) -> Rows:
    for part in parts[1:]:
        if part.class_names != parts[0].class_names:
            raise DataError(
                f"the class names differ from those of {parts[0].where}", where=part.where
            )
    if len(parts) == 1:
        return parts[0]
    return Rows(
        Shards(tuple(part.images for part in parts)),
        np.concatenate([part.labels for part in parts]),
        parts[0].class_names,
        parts[0].where,
    )


def _holds_images(kind: pa.DataType) -> bool:
    import pyarrow as pa

    def binary(inner: pa.DataType) -> bool:
        return bool(pa.types.is_binary(inner) or pa.types.is_large_binary(inner))

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and binary(field.type) for field in kind)
    return binary(kind)


def _columns(schema: pa.Schema, where: str, label: str | None) -> tuple[str, str]:
    """The names of the column of images and of the column of labels."""
    features = _features(schema)
    has = f"it has {', '.join(schema.names[:20]) or 'no columns'}"
    able = [field.name for field in schema if _holds_images(field.type)]
    declared = [name for name in able if _type(features.get(name)) == "Image"]
    usual = [name for name in IMAGE_COLUMNS if name in able]
    image_name = next(iter(usual + declared + able), None)
    if image_name is None:
        raise DataError(f"no column holds images: {has}", where=where)
    wanted = LABEL_COLUMNS if label is None else (label,)
    labels = [name for name in wanted if name in schema.names]
    if label is None:
        labels += [n for n in schema.names if _type(features.get(n)) == "ClassLabel"]
    if not labels:
        raise DataError(
            f"no column is called {wanted[0]}: {has}",
            where=where,
            hint="rename the column of labels",
        )
    for name in (image_name, labels[0]):
        if schema.names.count(name) > 1:
            raise DataError(f"two columns are called {name}", where=where, hint="rename one")
    return image_name, labels[0]


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the Hugging Face metadata of a schema says of its columns; empty where it says nothing.

    The metadata is a convenience: a file without it, or with something else there, is still read.
    """
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _type(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(feature: object, where: str) -> tuple[str, ...] | None:
    if not isinstance(feature, dict) or _type(feature) != "ClassLabel":
        return None
    names = feature.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("the class names in its metadata are not a list of names", where=where)
    return tuple(names)


def _names(names: tuple[str, ...] | None) -> str:
    if names is None:
        return "none"
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
