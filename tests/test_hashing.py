"""Hashes change with what they stand for and with nothing else; seeds are the same everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.hashing import file_digest, named_seed, source_digest, value_digest


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_a_files_hash_is_its_sha256(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "f").write_bytes(content)
    assert file_digest(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "none")


def test_a_values_hash_does_not_know_the_order_of_keys() -> None:
    assert value_digest({"a": 1, "b": [1, 2]}) == value_digest({"b": [1, 2], "a": 1})
    # Tuples and lists are the same in JSON.
    assert value_digest({"a": (1, 2)}) == value_digest({"a": [1, 2]})


@pytest.mark.parametrize(
    "other",
    [{"a": 2}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": 1, "b": None}, {"a": [1]}, {"a": True}, [1]],
)
def test_a_values_hash_changes_with_the_value(other: object) -> None:
    assert value_digest(other) != value_digest({"a": 1})


def test_the_hash_is_the_same_in_every_version() -> None:
    # Stored things are found again by these: a change here throws every user's store away.
    assert value_digest({"kind": "network", "seed": 0, "x": None, "lr": 0.001, "name": "é"}) == (
        hashlib.sha256(
            b'{"kind":"network","lr":0.001,"name":"\\u00e9","seed":0,"x":null}'
        ).hexdigest()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x")])
def test_what_has_no_one_json_form_has_no_hash(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        value_digest({"a": value})


def test_sources_are_hashed_by_name_and_content(tmp_path: Path) -> None:
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("x = 1\n")
    other.write_text("y = 2\n")
    first = source_digest([one, other])
    assert source_digest(iter([other, one])) == first
    assert source_digest([one]) != first
    other.write_text("y = 3\n")
    changed = source_digest([one, other])
    assert changed != first
    other.rename(tmp_path / "c.py")
    assert source_digest([one, tmp_path / "c.py"]) != changed


def test_content_does_not_run_over_into_the_next_file(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"12")
    other.write_bytes(b"3")
    first = source_digest([one, other])
    one.write_bytes(b"1")
    other.write_bytes(b"23")
    assert source_digest([one, other]) != first


def test_seeds_have_golden_values() -> None:
    # The same recipe must draw the same everywhere and in every version.
    assert (
        named_seed(0, "base", "init")
        == int.from_bytes(hashlib.sha256(b"0/base/init").digest()[:4], "big") // 2
    )
    assert named_seed(0, "base", "init") == 2_143_946_427


def test_seeds_are_in_range_and_their_own() -> None:
    names = [("base", "init"), ("base", "order"), ("independent-1", "init"), ("base",), ()]
    seeds = [named_seed(seed, *name) for seed in range(200) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_do_not_depend_on_the_process() -> None:
    code = "from edgebench.hashing import named_seed; print(named_seed(7, 'a', 'b'))"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(shown) == named_seed(7, "a", "b")
