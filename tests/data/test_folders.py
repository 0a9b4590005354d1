from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from edgebench.data import load
from edgebench.errors import DataError


def test_train_and_test_folders(tmp_path: Path, files) -> None:
    files.folder(tmp_path / "train", {"zebra": 3, "ant": 2})
    files.folder(tmp_path / "test", {"ant": 1, "zebra": 2})
    data = load(str(tmp_path))
    assert data.class_names == ("ant", "zebra")
    assert data.train_y.tolist() == [0, 0, 1, 1, 1]
    assert data.test_y.tolist() == [0, 1, 1]
    assert data.input_shape == (1, 4, 6)
    assert data.classes == 2
    assert data.name == tmp_path.name
    assert data.source == f"images in the folder {tmp_path}"


@pytest.mark.parametrize("name", ["val", "validation"])
def test_validation_stands_in_for_test(tmp_path: Path, files, name: str) -> None:
    files.folder(tmp_path / "train", {"a": 3, "b": 3})
    files.folder(tmp_path / name, {"a": 1, "b": 2})
    assert len(load(str(tmp_path)).test_y) == 3


def test_test_wins_over_validation(tmp_path: Path, files) -> None:
    files.folder(tmp_path / "train", {"a": 3, "b": 3})
    files.folder(tmp_path / "val", {"a": 1, "b": 1})
    files.folder(tmp_path / "test", {"a": 2, "b": 2})
    assert len(load(str(tmp_path)).test_y) == 4


def test_class_folders_alone_are_split_by_the_seed(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 20, "b": 10})
    one, again, other = (load(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert np.bincount(one.train_y).tolist() == [16, 8]
    assert np.bincount(one.test_y).tolist() == [4, 2]
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != other.fingerprint
    every = np.concatenate([one.train_x, one.test_x])
    assert len({x.tobytes() for x in every}) == 30


def test_images_are_found_at_any_depth_in_sorted_order(tmp_path: Path, files) -> None:
    names = ["b/c/1.png", "b/2.PNG", "a/9.png", "z.png"]
    for half in ("train", "test"):
        files.folder(tmp_path / half, {"two": 1})
        for value, name in enumerate(names):
            path = tmp_path / half / "one" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files.png(value=value))
    (tmp_path / "train" / "one" / ".hidden.png").write_bytes(b"thumbnail")
    (tmp_path / "train" / "one" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    data = load(str(tmp_path))
    order = [2, 1, 0, 3]  # a/9.png, b/2.PNG, b/c/1.png, z.png
    assert data.train_y.tolist() == [0, 0, 0, 0, 1]
    for x, value in zip(data.train_x, order, strict=False):
        grey = np.random.default_rng(value).integers(0, 256, (4, 6), dtype=np.uint8)
        assert np.array_equal(x[0], grey.astype(np.float32) / np.float32(255))


def test_one_colour_image_anywhere_makes_all_of_them_colour(tmp_path: Path, files) -> None:
    files.folder(tmp_path / "train", {"a": 2, "b": 2})
    files.folder(tmp_path / "test", {"a": 1, "b": 1}, mode="RGB")
    assert load(str(tmp_path)).input_shape == (3, 4, 6)


def test_a_class_may_be_called_train(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"train": 3, "tram": 3})
    assert load(str(tmp_path)).class_names == ("train", "tram")


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert str(caught.value) == message.format(p=path)


def test_different_classes_are_named(tmp_path: Path, files) -> None:
    files.folder(tmp_path / "train", {"ant": 2, "bee": 2, "cat": 2})
    files.folder(tmp_path / "val", {"bee": 1, "cat": 1, "dog": 1})
    refused(tmp_path, "{p}: the classes differ: 'ant' only in train/; 'dog' only in val/")


def test_train_without_test(tmp_path: Path, files) -> None:
    files.folder(tmp_path / "train", {"a": 2, "b": 2})
    refused(tmp_path, "{p}: has train/ but no test/; add a folder test/, like train/")


def test_no_images(tmp_path: Path) -> None:
    message = (
        "{p}: there are no images in folders; "
        "put the images of each class into a folder named for the class"
    )
    refused(tmp_path, message)
    (tmp_path / "a").mkdir()
    refused(tmp_path, message)


def test_an_empty_class(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 2, "b": 0})
    refused(tmp_path, "{p}: the class folder 'b' has no images; add images or remove the folder")


def test_one_class(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 4})
    refused(
        tmp_path,
        "{p}: all examples are of one class, 'a'; a classifier needs two classes or more",
    )


def test_a_single_example_cannot_be_split(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 4, "b": 1})
    refused(
        tmp_path,
        "{p}: class 'b' has a single example, and a split needs two; "
        "add examples, or leave the class out",
    )


def test_an_unreadable_image_is_named(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=rf"^{tmp_path}/b/001.png: the image cannot be decoded"):
        load(str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX's")
def test_what_may_not_be_read_is_named(open_folder: Path, files, as_ordinary_user) -> None:
    files.folder(open_folder, {"a": 3, "b": 3})
    load(str(open_folder))
    os.chmod(open_folder / "b" / "001.png", 0)
    with as_ordinary_user():
        refused(open_folder, "{p}/b/001.png: cannot be read: Permission denied")
    os.chmod(open_folder / "b", 0)
    with as_ordinary_user():
        refused(open_folder, "{p}/b: cannot be read: Permission denied")
    os.chmod(open_folder, 0)
    with as_ordinary_user():
        refused(open_folder, "{p}: cannot be read: Permission denied")
        refused(open_folder / "a", "{p}: cannot be read: Permission denied")
    os.chmod(open_folder, 0o755)
    os.chmod(open_folder / "b", 0o755)


def test_a_folder_name_that_is_not_utf8(tmp_path: Path, files) -> None:
    files.folder(tmp_path, {"a": 2})
    files.folder(tmp_path, {os.fsdecode(b"b\xff"): 2})
    with pytest.raises(DataError, match=r"the folder name 'b\\udcff' is not UTF-8; rename it"):
        load(str(tmp_path))
