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
from edgebench.models.source import find_model
from edgebench.pipeline.task import load_task
from edgebench.recipe import load_recipe


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


def rows(x: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in x]


@settings(max_examples=15, deadline=None)
@given(st.integers(10, 888), st.integers(0, 3))
def test_what_is_held_out_is_a_stratified_part_of_the_training_half(count: int, seed: int) -> None:
    whole = load("digits")
    data = load("digits", validation=count, seed=seed)
    assert len(data.validation_y) == count
    assert len(data.train_y) == len(whole.train_y) - count
    assert sorted(rows(data.train_x) + rows(data.validation_x)) == sorted(rows(whole.train_x))
    for y in (data.train_y, data.validation_y):
        exact = len(y) * np.bincount(whole.train_y) / len(whole.train_y)
        shares = np.bincount(y, minlength=10)
        assert (np.abs(shares - exact) <= 1).all()
        assert shares.min() >= 1
    assert data.validation_x.dtype == np.float32
    assert data.validation_x.flags.c_contiguous
    assert data.validation_y.dtype == np.int64


def test_what_is_held_out_goes_with_its_labels() -> None:
    whole, data = load("digits"), load("digits", validation=100)
    label = dict(zip(rows(whole.train_x), whole.train_y, strict=True))
    for x, y in ((data.train_x, data.train_y), (data.validation_x, data.validation_y)):
        assert [label[row] for row in rows(x)] == y.tolist()


def test_the_test_half_is_the_same_whatever_is_held_out() -> None:
    whole, data = load("digits", test=100), load("digits", test=100, validation=100)
    assert np.array_equal(whole.test_x, data.test_x)
    assert not whole.validation_y.size
    assert set(rows(data.test_x)).isdisjoint(rows(data.train_x) + rows(data.validation_x))


def test_a_set_that_is_split_has_the_same_test_half_whatever_is_held_out(
    tmp_path: Path, files
) -> None:
    files.folder(tmp_path / "pets", {"cat": 10, "dog": 20})
    whole, data = (load(str(tmp_path / "pets"), validation=count) for count in (None, 6))
    assert rows(whole.test_x) == rows(data.test_x)
    assert [len(y) for y in (data.train_y, data.validation_y, data.test_y)] == [18, 6, 6]
    assert np.bincount(data.validation_y).tolist() == [2, 4]
    assert sorted(rows(data.train_x) + rows(data.validation_x)) == sorted(rows(whole.train_x))


def test_a_limit_on_training_counts_what_is_left() -> None:
    data = load("digits", train=50, validation=100)
    assert (len(data.train_y), len(data.validation_y)) == (50, 100)
    more = load("digits", train=850, validation=100)
    assert len(more.train_y) == 798
    assert set(rows(data.train_x)).isdisjoint(rows(data.validation_x))
    # What is held out does not depend on how much is trained on.
    assert rows(more.validation_x) == rows(data.validation_x)


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    first, again, other = (load("digits", validation=60, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert rows(first.validation_x) != rows(other.validation_x)
    assert first.fingerprint != load("digits").fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "train must be 1 or more examples, not 0"),
        ({"test": -3}, "test must be 1 or more examples, not -3"),
        ({"test": 9}, "digits: 9 examples cannot show 10 classes; take 10 or more"),
        ({"validation": 0}, "validation must be 1 or more examples, not 0"),
        (
            {"validation": 9},
            "digits: 9 examples held out cannot show 10 classes; set data_limits.validation to 10 "
            "or more",
        ),
        (
            {"validation": 889},
            "digits: 889 examples cannot be held out of 898, since 10 classes must be left to "
            "train on; set data_limits.validation to a tenth of the training examples, say",
        ),
        (
            {"validation": 890, "train": 20},
            "digits: 890 examples cannot be held out of 898, since 10 classes must be left to "
            "train on; set data_limits.validation to a tenth of the training examples, say",
        ),
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


def test_a_class_of_one_example_cannot_be_held_out_of(plugged) -> None:
    plugged(np.random.default_rng(0).random((5, 1, 2, 2)), [0, 0, 0, 0, 1])
    with pytest.raises(DataError) as caught:
        load("plugged", validation=2)
    assert str(caught.value) == (
        "plugged: class '1' has a single example, and a split needs two; add examples, or leave "
        "the class out"
    )


def test_pixels_that_are_held_out_are_checked_as_well(plugged) -> None:
    x = np.zeros((40, 1, 2, 2))
    x[:, 0, 0, 0] = np.linspace(0, 1, 40)
    labels = [0, 1] * 20
    plugged(x, labels)
    held = load("plugged", validation=2).validation_x[:, 0, 0, 0]
    places = [int(np.argmin(np.abs(x[:, 0, 0, 0] - value))) for value in held]
    x[places[0], 0, 1, 1] = 7.0
    plugged(x, labels, np.zeros((40, 1, 2, 2)))
    with pytest.raises(DataError, match=r"^plugged: pixels range from .*scale the images"):
        load("plugged", validation=2)


def test_a_recipe_holds_out_what_it_says() -> None:
    recipe = load_recipe(None, settings=["data_limits={train: 200, test: 50, validation: 70}"])
    source = find_model(recipe.model, weights=None, options=recipe.model_options)
    data = load_task(recipe, source).dataset
    assert [len(y) for y in (data.train_y, data.test_y, data.validation_y)] == [200, 50, 70]
    assert rows(data.validation_x) == rows(load("digits", validation=70).validation_x)


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
