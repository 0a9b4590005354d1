from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgebench.data import DATASETS, Dataset, load
from edgebench.data.base import Source, Split
from edgebench.errors import DataError, UnknownNameError


def assert_sound(data: Dataset) -> None:
    """What every data set promises."""
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert x.flags.c_contiguous
        assert x.shape == (len(y), *data.input_shape)
        assert 0 <= x.min() < x.max() <= 1
        assert set(y.tolist()) == set(range(data.classes))
    assert len(data.fingerprint) == 64


def test_digits_are_those_of_scikit_learn() -> None:
    data = load("digits")
    assert_sound(data)
    assert data.input_shape == (1, 8, 8)
    assert (len(data.train_y), len(data.test_y)) == (898, 899)
    assert data.class_names == tuple("0123456789")
    every = np.rint(np.concatenate([data.train_x, data.test_x]) * 16).astype(np.uint8)
    from sklearn.datasets import load_digits

    real = load_digits().images.astype(np.uint8)
    assert sorted(x.tobytes() for x in every) == sorted(x.tobytes() for x in real)


def test_digits_are_the_same_every_time_and_under_every_seed() -> None:
    assert load("digits", seed=0).fingerprint == load("digits", seed=7).fingerprint


@settings(max_examples=15, deadline=None)
@given(st.integers(10, 1000), st.integers(10, 1000), st.integers(0, 3))
def test_limits_keep_the_shares_of_the_classes(train: int, test: int, seed: int) -> None:
    whole = load("digits")
    data = load("digits", train=train, test=test, seed=seed)
    for y, every, limit in (
        (data.train_y, whole.train_y, train),
        (data.test_y, whole.test_y, test),
    ):
        assert len(y) == min(limit, len(every))
        exact = len(y) * np.bincount(every) / len(every)
        assert (np.abs(np.bincount(y, minlength=10) - exact) <= 1).all()
    again = load("digits", train=train, test=test, seed=seed)
    assert again.fingerprint == data.fingerprint


def test_limits_choose_by_the_seed() -> None:
    one, other = (load("digits", train=50, test=50, seed=seed) for seed in (0, 1))
    assert one.fingerprint != other.fingerprint
    assert_sound(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "train must be 1 or more examples, not 0"),
        ({"test": -3}, "test must be 1 or more examples, not -3"),
        ({"test": 9}, "digits: 9 examples cannot show 10 classes; take 10 or more"),
    ],
)
def test_limits_that_make_no_sense(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load("digits", **options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "first"),
    [
        ("mnist", (1, 28, 28), (60000, 10000), "0"),
        ("cifar10", (3, 32, 32), (50000, 10000), "airplane"),
    ],
)
def test_real_sets(real_data, name: str, shape, sizes, first: str) -> None:
    real_data(name)
    data = load(name, train=200, test=100)
    assert_sound(data)
    assert data.input_shape == shape
    assert data.class_names[0] == first
    assert (len(data.train_y), len(data.test_y)) == (200, 100)
    source = DATASETS.get(name)()
    assert (len(source.train.labels), len(source.test.labels)) == sizes


def test_real_mnist_is_what_its_file_holds(real_data) -> None:
    real_data("mnist")
    data = load("mnist", train=10)
    table = pq.read_table(Path(os.environ["EDGEBENCH_DATA"]) / "mnist" / "test.parquet")
    assert data.test_y.tolist() == table.column("label").to_pylist()
    assert np.bincount(data.test_y).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    for row in (0, 17, 4999, 9999):
        pixels = np.asarray(Image.open(io.BytesIO(table.column("image")[row].as_py()["bytes"])))
        assert np.array_equal(np.rint(data.test_x[row, 0] * 255).astype(np.uint8), pixels)


@pytest.mark.parametrize(
    ("spec", "near"), [("minst", "mnist"), ("cifar_10", "cifar10"), ("Digits", "digits")]
)
def test_a_mistyped_name_gets_the_nearest(spec: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        load(spec)
    assert str(caught.value) == f"unknown data set '{spec}'; did you mean '{near}'?"


@pytest.mark.parametrize("spec", ["./mnist", "/no/such/folder", "absent.parquet"])
def test_a_path_that_is_not_there(spec: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load(spec)
    assert str(caught.value) == f"{spec}: there is no such file or folder"


def test_a_path_that_cannot_be_one() -> None:
    with pytest.raises(DataError, match="x: cannot be read: File name too long"):
        load("x" * 300)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("label,image\n")
    with pytest.raises(DataError, match=r"data.csv: is neither a folder nor a .parquet file"):
        load(str(path))


def test_a_name_wins_over_a_folder_of_that_name(tmp_path: Path, files, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files.folder(tmp_path / "digits", {"a": 5, "b": 5})
    assert load("digits").classes == 10
    assert load("./digits").class_names == ("a", "b")


def test_a_home_folder_is_expanded(tmp_path: Path, files, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files.folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    assert load("~/pets").class_names == ("cat", "dog")


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch):
    """Registers a data set for one test."""
    DATASETS.names()

    def plug(x: np.ndarray, y: list[int], test_x: np.ndarray | None = None) -> None:
        halves = (
            Split.of_arrays(x, np.array(y), "plugged"),
            Split.of_arrays(x if test_x is None else test_x, np.array(y), "plugged"),
        )
        source = Source(*halves, None, "made in a test")
        monkeypatch.setitem(DATASETS._members, "plugged", lambda: source)

    return plug


def test_a_registered_set_of_arrays_is_checked_like_any_other(plugged) -> None:
    x = np.random.default_rng(0).random((4, 1, 2, 2))
    plugged(x, [0, 1, 0, 1])
    data = load("plugged")
    assert_sound(data)
    assert np.array_equal(data.test_x, x.astype(np.float32))


@pytest.mark.parametrize("bad", [255.0, -0.1, np.nan, np.inf])
def test_pixels_out_of_range(plugged, bad: float) -> None:
    x = np.zeros((4, 1, 2, 2))
    x[1, 0, 0, 0] = bad
    plugged(x, [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"^plugged: pixels range from .*scale the images"):
        load("plugged")


def test_halves_of_different_shapes(plugged) -> None:
    plugged(np.zeros((4, 1, 2, 2)), [0, 1, 0, 1], np.zeros((4, 1, 3, 3)))
    with pytest.raises(DataError, match=r"train images are \(1, 2, 2\) and test images"):
        load("plugged")
