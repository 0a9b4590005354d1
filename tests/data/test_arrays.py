"""Inputs from .npz files: what is read, split and refused, and when labels count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebench.data import Arrays, Dataset, gives_classes, load, load_any
from edgebench.data.arrays import load_arrays, matched
from edgebench.errors import DataError


def write(path: Path, count: int = 50, **arrays: np.ndarray) -> str:
    numbers = np.arange(count)
    path.parent.mkdir(parents=True, exist_ok=True)
    given = arrays or {
        "image": numbers[:, None].astype(np.float32) * np.ones(3, np.float32),
        "token": numbers.astype(np.int64),
    }
    np.savez(path, **given)
    return str(path)


def rows(inputs: tuple[np.ndarray, ...]) -> list[int]:
    """Which examples these are; that the inputs of each belong together."""
    image, token = inputs
    assert (image[:, 0] == token).all()
    return token.tolist()


def test_one_file_is_split_by_the_seed(tmp_path: Path) -> None:
    spec = write(tmp_path / "two.npz")
    data = load_arrays(spec, seed=3)
    train, test = rows(data.train_inputs), rows(data.test_inputs)
    assert (len(train), len(test)) == (40, 10)
    assert sorted(train + test) == list(range(50))
    assert train == sorted(train)
    assert test != rows(load_arrays(spec, seed=4).test_inputs)
    assert test == rows(load_arrays(spec, seed=3).test_inputs)


def test_types_names_and_order_stay(tmp_path: Path) -> None:
    data = load_arrays(write(tmp_path / "two.npz"))
    assert data.names == ("image", "token")
    assert [a.dtype for a in data.test_inputs] == [np.float32, np.int64]
    assert data.shapes == {"image": (3,), "token": ()}
    assert (data.classes, data.class_names, len(data.train_y)) == (0, (), 0)
    turned = data.arranged(["token", "image"], {"token": "int32", "image": "float64"})
    assert [a.dtype for a in turned.train_inputs] == [np.int32, np.float64]
    assert rows(turned.train_inputs[::-1]) == rows(data.train_inputs)


def test_two_files_are_the_halves_whatever_the_order_of_their_arrays(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    write(folder / "train.npz", 8)
    a = np.arange(5)
    write(folder / "test.npz", token=a, image=a[:, None].astype(np.float32) * np.ones(3, "f4"))
    data = load_arrays(str(folder))
    assert rows(data.train_inputs) == list(range(8))
    assert rows(data.test_inputs) == list(range(5))


def test_limits_and_examples_held_out(tmp_path: Path) -> None:
    spec = write(tmp_path / "two.npz")
    data = load_arrays(spec, train=12, test=4, validation=7)
    parts = [rows(p) for p in (data.train_inputs, data.test_inputs, data.validation_inputs)]
    assert [len(p) for p in parts] == [12, 4, 7]
    assert len(set().union(*parts)) == 23
    with pytest.raises(DataError, match="40 examples cannot be held out of 40"):
        load_arrays(spec, validation=40)


def test_the_fingerprint_follows_names_and_content(tmp_path: Path) -> None:
    x = np.ones((10, 2), np.float32)
    one = load_arrays(write(tmp_path / "a.npz", a=x)).fingerprint
    assert one == load_arrays(write(tmp_path / "b.npz", a=x)).fingerprint
    assert one != load_arrays(write(tmp_path / "c.npz", b=x)).fingerprint
    assert one != load_arrays(write(tmp_path / "d.npz", a=2 * x)).fingerprint


def test_labels_beside_images_make_a_classifiers_data(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    spec = write(tmp_path / "seen.npz", image=x, labels=np.arange(40) % 4)
    assert gives_classes(spec)
    data = load_any(spec)
    assert isinstance(data, Dataset)
    assert (data.classes, len(data.test_y), data.input_shape) == (4, 8, (1, 8, 8))
    assert isinstance(load(spec), Dataset)


@pytest.mark.parametrize("shape", [(40, 8), (40, 8, 8)])
def test_labels_beside_anything_else_are_not_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    spec = write(tmp_path / "seen.npz", image=np.ones(shape, "f4"), labels=np.arange(40) % 4)
    assert not gives_classes(spec)
    data = load_any(spec)
    assert isinstance(data, Arrays)
    assert "'labels' is not read" in data.source
    with pytest.raises(DataError, match="holds no array 'labels'"):
        load(spec)


class _Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    trap = np.array([_Trap(tmp_path / "sprung")] * 2, dtype=object)
    np.savez(tmp_path / "bad.npz", image=trap)
    assert not gives_classes(str(tmp_path / "bad.npz"))
    with pytest.raises(DataError, match="the array 'image' holds Python objects"):
        load_arrays(str(tmp_path / "bad.npz"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"a": np.ones((4, 2)), "b": np.ones((5, 2))}, "different numbers of examples: 'a' 4, 'b'"),
        ({"a": np.array([[1.0], [np.nan]])}, r"the array 'a' holds NaN \(example 1\)"),
        ({"a": np.ones((0, 2))}, "the array 'a' is empty"),
        ({"a": np.array(3.0)}, "the array 'a' is a single number"),
        ({"a": np.array(["x", "y"])}, "the array 'a' is <U1"),
        ({"a": np.ones((4, 2), complex)}, "the array 'a' is complex128"),
        ({"labels": np.ones(4, int)}, "holds no array of inputs"),
        ({"a": np.ones((1, 2))}, "holds a single example, and a split needs two"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, arrays, text: str) -> None:
    with pytest.raises(DataError, match=text) as caught:
        load_arrays(write(tmp_path / "bad.npz", **arrays))
    assert "\n" not in caught.value.line()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file at this path"):
        gives_classes(str(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        gives_classes(str(tmp_path / "text.npz"))
    write(tmp_path / "half" / "train.npz")
    with pytest.raises(DataError, match=r"has train\.npz and no test\.npz"):
        gives_classes(str(tmp_path / "half"))


def test_halves_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "f" / "train.npz", a=np.ones((4, 2)))
    write(tmp_path / "f" / "test.npz", a=np.ones((4, 3)))
    with pytest.raises(DataError, match=r"'a' is float64 \[4, 2\] and float64 \[4, 3\]"):
        load_arrays(str(tmp_path / "f"))
    write(tmp_path / "f" / "test.npz", b=np.ones((4, 2)))
    with pytest.raises(DataError, match="only one of them holds 'a'"):
        load_arrays(str(tmp_path / "f"))


def test_names_that_do_not_match() -> None:
    with pytest.raises(DataError, match=r"no array 'image'.*is it 'imgae'"):
        matched(["imgae", "size"], ["image", "size"], where="x.npz")
    with pytest.raises(DataError, match=r"no input 'sizes'; did you mean 'size'"):
        matched(["image", "size", "sizes"], ["image", "size"], where="x.npz")
    matched(["image", "labels"], ["image"], where="x.npz")
