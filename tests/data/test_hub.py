"""The hub is never reached from here: a stand-in for `datasets` answers as its documentation says.

`load_dataset(repository, split=...)` gives a data set with `features` and `with_format("arrow")`,
whose slices are Arrow tables with the images as structs of bytes and path.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow.parquet as pq
import pytest

from edgebench.data import load
from edgebench.errors import DataError


@pytest.fixture
def fake_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files) -> list[tuple[str, str]]:
    """A fake `datasets` module with two small halves; the list records what was asked of it."""
    asked = []
    names = ["ant", "bee", "cat"]

    class FakeHalf:
        def __init__(self, label: str) -> None:
            path = files.parquet(tmp_path / "fake", [0, 1, 2, 1], columns=("img", label))
            self.table = pq.read_table(path)
            self.features = {label: SimpleNamespace(names=names)}

        def with_format(self, kind: str):
            assert kind == "arrow"
            return self

        def __getitem__(self, rows: slice):
            assert rows == slice(None)
            return self.table

    def load_dataset(repository: str, split: str) -> FakeHalf:
        asked.append((repository, split))
        return FakeHalf("fine_label" if repository.endswith("cifar100") else "label")

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.delenv("EDGEBENCH_DATA", raising=False)
    return asked


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("mnist", "ylecun/mnist"),
        ("fashion-mnist", "zalando-datasets/fashion_mnist"),
        ("cifar10", "uoft-cs/cifar10"),
        ("cifar100", "uoft-cs/cifar100"),
    ],
)
def test_what_the_hub_gives_is_read(fake_datasets, name: str, repository: str) -> None:
    data = load(name)
    assert fake_datasets == [(repository, "train"), (repository, "test")]
    assert data.name == name
    assert data.class_names == ("ant", "bee", "cat")
    assert data.test_y.tolist() == [0, 1, 2, 1]
    assert data.input_shape == (1, 4, 6)
    assert data.source == f"the Hugging Face hub: {repository}"


def test_files_on_disk_come_before_the_hub(fake_datasets, tmp_path, files, monkeypatch) -> None:
    monkeypatch.setenv("EDGEBENCH_DATA", str(tmp_path))
    for half in ("train", "test"):
        files.parquet(
            tmp_path / "cifar100" / f"{half}.parquet",
            [0, 1, 1],
            names=["x", "y"],
            columns=("img", "fine_label"),
        )
    assert load("cifar100").class_names == ("x", "y")
    assert fake_datasets == []
    load("mnist")
    assert len(fake_datasets) == 2


def test_a_hub_out_of_reach_is_one_line(fake_datasets, monkeypatch) -> None:
    def unreachable(repository: str, split: str) -> None:
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub\n(LocalEntryNotFound)")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert str(caught.value) == (
        "mnist cannot be fetched from the Hugging Face hub: Couldn't reach 'ylecun/mnist' on the "
        "Hub (LocalEntryNotFound); set EDGEBENCH_DATA to a folder with mnist/train.parquet and "
        "mnist/test.parquet"
    )


def test_without_the_library_the_error_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delenv("EDGEBENCH_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        load("mnist")
    assert str(caught.value) == (
        "mnist is not on this machine; set EDGEBENCH_DATA to a folder with mnist/train.parquet "
        "and mnist/test.parquet, or pip install 'edgebench[hub]'"
    )


def test_a_folder_of_data_that_is_not_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEBENCH_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"EDGEBENCH_DATA: .*absent is not a folder; name the"):
        load("mnist")


@pytest.mark.parametrize("present", [[], ["train"], ["test"], ["other"]])
def test_a_half_missing_on_disk(tmp_path, files, monkeypatch, present: list[str]) -> None:
    monkeypatch.setenv("EDGEBENCH_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    for half in present:
        files.parquet(tmp_path / "mnist" / f"{half}.parquet", [0, 1])
    with pytest.raises(DataError, match=rf"^{tmp_path}/mnist: there is no t"):
        load("mnist")


def test_cifar100_wants_its_fine_labels(tmp_path, files, monkeypatch) -> None:
    monkeypatch.setenv("EDGEBENCH_DATA", str(tmp_path))
    for half in ("train", "test"):
        files.parquet(tmp_path / "cifar100" / f"{half}.parquet", [0, 1])
    with pytest.raises(DataError, match="no column is called fine_label: it has image, label"):
        load("cifar100")
