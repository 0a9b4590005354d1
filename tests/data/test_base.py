from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgebench.data import load
from edgebench.data.base import Split, fingerprint
from edgebench.errors import DataError


def test_importing_the_package_and_listing_its_names_loads_nothing_heavy() -> None:
    code = (
        "import sys; from edgebench.data import DATASETS; DATASETS.names();"
        "print(sorted({'sklearn', 'pyarrow', 'PIL', 'torch', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fingerprint_changes_with_content_shape_and_order() -> None:
    a = np.arange(6, dtype=np.float32)
    b = np.arange(6, dtype=np.int64)
    prints = {
        fingerprint(a, b),
        fingerprint(b, a),
        fingerprint(a.reshape(2, 3), b),
        fingerprint(a, b + 1),
        fingerprint(a),
    }
    assert len(prints) == 5
    assert fingerprint(a, b) == fingerprint(a.copy(), b.copy())


def test_fingerprint_is_of_the_content_not_of_the_path(tmp_path, files) -> None:
    one = files.parquet(tmp_path / "one.parquet", [0, 1] * 6)
    two = tmp_path / "elsewhere" / "two.parquet"
    two.parent.mkdir()
    two.write_bytes(one.read_bytes())
    other = files.parquet(tmp_path / "other.parquet", [1, 0] * 6)
    assert load(str(one)).fingerprint == load(str(two)).fingerprint
    assert load(str(one)).fingerprint != load(str(other)).fingerprint


def test_split_of_arrays_refuses_what_does_not_fit_together() -> None:
    x = np.zeros((3, 1, 2, 2))
    with pytest.raises(DataError, match="here: images of shape"):
        Split.of_arrays(x, np.zeros(4, int), "here")
    with pytest.raises(DataError, match="integers, not float64"):
        Split.of_arrays(x, np.zeros(3), "here")


def test_a_part_of_a_part_is_still_the_right_examples() -> None:
    x = np.linspace(0, 1, 10).reshape(10, 1, 1, 1)
    split = Split.of_arrays(x, np.arange(10), "here")
    part = split.part(np.array([9, 7, 5])).part(np.array([2, 0]))
    assert part.labels.tolist() == [5, 9]
    assert np.allclose(part.decode(np.array([1])), x[[9]])
