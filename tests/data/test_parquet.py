from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgebench.data import load
from edgebench.errors import DataError


def refused(path: Path, message: str) -> None:
    """`message` is the whole error; {p} stands for the path."""
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert str(caught.value) == message.format(p=path)


def test_a_folder_of_two_files(tmp_path: Path, files) -> None:
    files.parquet(tmp_path / "train.parquet", [0, 1, 2, 0], names=["ant", "bee", "cat"])
    files.parquet(tmp_path / "test.parquet", [2, 1, 0], names=["ant", "bee", "cat"])
    data = load(str(tmp_path))
    assert data.class_names == ("ant", "bee", "cat")
    assert data.train_y.tolist() == [0, 1, 2, 0]
    assert data.test_y.tolist() == [2, 1, 0]
    grey = np.random.default_rng(1).integers(0, 256, (4, 6), dtype=np.uint8)
    assert np.array_equal(data.test_x[1, 0], grey.astype(np.float32) / np.float32(255))
    assert data.source == f"Parquet files in {tmp_path}"


def test_one_file_is_split(tmp_path: Path, files) -> None:
    path = files.parquet(tmp_path / "flowers.parquet", [0, 1] * 10)
    data = load(str(path))
    assert (data.name, len(data.train_y), len(data.test_y)) == ("flowers", 16, 4)
    assert data.class_names == ("0", "1")
    assert load(str(tmp_path)).fingerprint == data.fingerprint


def test_shards_are_read_in_order(tmp_path: Path, files) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    images = [files.png(value=i) for i in range(9)]
    labels = [0, 1, 1, 0, 0, 0, 1, 1, 0]
    files.parquet(whole / "train.parquet", labels, images)
    files.parquet(whole / "test.parquet", [0, 1])
    for k in range(3):
        rows = slice(3 * k, 3 * k + 3)
        files.parquet(parts / f"train-{k:05d}-of-00003.parquet", labels[rows], images[rows])
    files.parquet(parts / "test-00000-of-00001.parquet", [0, 1])
    assert load(str(parts)).fingerprint == load(str(whole)).fingerprint
    limited = load(str(parts), train=4, seed=3)
    assert limited.fingerprint == load(str(whole), train=4, seed=3).fingerprint


def test_a_fault_in_a_later_shard_names_its_own_file_and_row(tmp_path: Path, files) -> None:
    files.parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1])
    second = tmp_path / "train-00001-of-00002.parquet"
    files.parquet(second, [0, 1], [files.png(), b"broken"])
    files.parquet(tmp_path / "test.parquet", [0, 1])
    with pytest.raises(DataError, match=rf"^{second} row 1: the image cannot be decoded"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "kind"),
    [(("img", "label"), "struct"), (("image", "fine_label"), "struct"), (("x", "label"), "binary")],
)
def test_column_names_vary(tmp_path: Path, files, columns, kind: str) -> None:
    path = files.parquet(tmp_path / "a.parquet", [0, 1] * 5, columns=columns)
    if kind == "binary":
        table = pq.read_table(path)
        plain = table.column("x").combine_chunks().field("bytes")
        pq.write_table(pa.table({"x": plain, "label": table.column("label")}), path)
    data = load(str(path))
    assert np.bincount(data.train_y).tolist() == [4, 4]
    assert data.input_shape == (1, 4, 6)


def test_a_label_column_is_found_by_its_metadata(tmp_path: Path, files) -> None:
    path = files.parquet(
        tmp_path / "a.parquet", [0, 1] * 5, names=["no", "yes"], columns=("picture", "species")
    )
    assert load(str(path)).class_names == ("no", "yes")


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": {"features": 3}}', b"\xff"])
def test_metadata_that_says_nothing_is_no_obstacle(tmp_path: Path, files, metadata) -> None:
    path = files.parquet(tmp_path / "a.parquet", [0, 1] * 5)
    table = pq.read_table(path).replace_schema_metadata({b"huggingface": metadata})
    pq.write_table(table, path)
    assert load(str(path)).class_names == ("0", "1")


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.uint64(), pa.int32()])
def test_any_integer_will_do_for_a_label(tmp_path: Path, files, kind: pa.DataType) -> None:
    path = files.parquet(tmp_path / "a.parquet", pa.array([0, 1] * 5, kind))
    assert load(str(path)).train_y.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, -1, 0], None, "{p}: example 2 has the label -1; number the classes from 0"),
        (
            [0, 1, 2, 0],
            ["a", "b"],
            "{p}: example 2 has the label 2, and there are 2 classes; "
            "labels go from 0 to the number of classes less one",
        ),
        (
            [1, 2, 1, 2],
            None,
            "{p}: label 2 is there, but no example has the label 0; "
            "number the classes from 0 without gaps",
        ),
        (
            pa.array([0, 1, None, 0]),
            None,
            "{p} row 2: the label in 'label' is null",
        ),
        (
            pa.array([0.0, 1.0, 1.0, 0.0]),
            None,
            "{p}: the labels in 'label' are double, not integers; number the classes from 0",
        ),
        (
            pa.array(["a", "b", "a", "b"]),
            None,
            "{p}: the labels in 'label' are string, not integers; number the classes from 0",
        ),
        (
            pa.array([0, 1, 2**64 - 1, 0], pa.uint64()),
            None,
            "{p}: a label in 'label' is out of range",
        ),
        (
            [0, 0, 0, 0],
            ["a", "b"],
            "{p}: all examples are of one class, 'a'; a classifier needs two classes or more",
        ),
        ([0, 1, 0, 1], ["a", "a"], "{p}: two classes are called 'a'"),
    ],
)
def test_labels_that_make_no_sense(tmp_path: Path, files, labels, names, message: str) -> None:
    refused(files.parquet(tmp_path / "a.parquet", labels, names=names), message)


def test_no_rows(tmp_path: Path, files) -> None:
    refused(files.parquet(tmp_path / "a.parquet", pa.array([], pa.int64())), "there are no images")


def test_a_row_without_bytes_is_named(tmp_path: Path, files) -> None:
    path = files.parquet(tmp_path / "a.parquet", [0, 1] * 3, [files.png()] * 4 + [None] * 2)
    refused(
        path,
        "{p} row 4: holds no image bytes; write the images into the file, not their paths",
    )


def test_two_sizes_name_both_rows(tmp_path: Path, files) -> None:
    images = [files.png()] * 5 + [files.png(size=(7, 7))]
    refused(
        files.parquet(tmp_path / "a.parquet", [0, 1] * 3, images),
        "{p} row 5: is 7x7 pixels, but {p} row 0 is 6x4; resize the images to one size",
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"text": ["a"], "label": [0]},
            "{p}: no column holds images: it has text, label",
        ),
        (
            {"image": [b"x"], "kind": [0]},
            "{p}: no column is called label: it has image, kind; rename the column of labels",
        ),
    ],
)
def test_missing_columns_say_what_is_there(tmp_path: Path, table, message: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    refused(path, message)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.Table.from_arrays(
        [pa.array([b"x"]), pa.array([0]), pa.array([1])], names=["image", "label", "label"]
    )
    pq.write_table(table, path)
    refused(path, "{p}: two columns are called label; rename one")


@pytest.mark.parametrize("keep", [0, 3, 100, -5, -200])
def test_a_truncated_file_is_named(tmp_path: Path, files, keep: int) -> None:
    path = files.parquet(tmp_path / "a.parquet", [0, 1] * 10)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"^{path}: is not a whole Parquet file: .*fetch it again"):
        load(str(path))


def test_a_missing_half_or_shard(tmp_path: Path, files) -> None:
    train = files.parquet(tmp_path / "train.parquet", [0, 1] * 5)
    refused(
        tmp_path,
        "{p}: there is no test.parquet beside train.parquet; add it, "
        "or give the path of one .parquet file to have it split",
    )
    train.rename(tmp_path / "train-00001-of-00002.parquet")
    refused(tmp_path, "{p}: train-00000-of-00002.parquet is missing; add it")
    files.parquet(tmp_path / "train-00000-of-00001.parquet", [0, 1])
    refused(tmp_path, "{p}: train has shards of 1 and of 2 files; remove those of the other set")


def test_halves_that_do_not_belong_together(tmp_path: Path, files) -> None:
    train = files.parquet(tmp_path / "train.parquet", [0, 1, 2], names=["a", "b", "c"])
    test = files.parquet(tmp_path / "test.parquet", [0, 1, 0], names=["a", "b", "c"])
    refused(tmp_path, f"{test}: class 'c' has examples in train and none in test")
    files.parquet(test, [0, 1, 2], names=["a", "b", "d"])
    refused(
        tmp_path, f"{test}: the class names differ from those of {train}: a, b, d against a, b, c"
    )


def test_a_file_that_may_not_be_read(open_folder: Path, files, as_ordinary_user) -> None:
    path = files.parquet(open_folder / "a.parquet", [0, 1] * 5)
    load(str(path))
    os.chmod(path, 0)
    with as_ordinary_user():
        refused(path, "{p}: cannot be read: Permission denied")


def test_a_column_name_that_is_not_utf8(tmp_path: Path, files) -> None:
    path = files.parquet(tmp_path / "a.parquet", [0, 1] * 10)
    path.write_bytes(path.read_bytes().replace(b"label", b"lab\xffl"))
    with pytest.raises(DataError, match=rf"^{path}: is not a whole Parquet file: 'utf-8' codec"):
        load(str(path))
