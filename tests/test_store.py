"""Entries appear whole or not at all, whatever is killed, damaged, full or read-only."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgebench import store as store_module
from edgebench.errors import BuildError, StorageError
from edgebench.store import Store, read_json, write_atomically

KEY = "ab" + "0" * 62


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


class Maker:
    """Writes a file, and counts how often it was asked to."""

    def __init__(self, text: str = "content") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "model.onnx").write_text(self.text)
        (folder / "step.json").write_text("{}")


def left(store: Store) -> list[str]:
    """All that lies beside the entry and its lock."""
    beside = (store.root / KEY[:2]).iterdir()
    return sorted(p.name for p in beside if p.name not in {KEY, f"{KEY}.lock"})


def test_an_entry_is_made_once_and_then_found(store: Store) -> None:
    make = Maker()
    assert store.find(KEY) is None
    folder, reused = store.obtain(KEY, make)
    assert not reused
    assert folder == store.find(KEY) == store.root / "ab" / KEY
    assert store.obtain(KEY, make) == (folder, True)
    assert make.calls == 1
    assert (folder / "model.onnx").read_text() == "content"
    assert left(store) == []


def test_keys_are_apart(store: Store) -> None:
    other = "cd" + KEY[2:]
    first, _ = store.obtain(KEY, Maker("one"))
    second, _ = store.obtain(other, Maker("two"))
    assert first != second
    assert (first / "model.onnx").read_text() == "one"


def change(folder: Path) -> None:
    (folder / "model.onnx").write_text("CONTENT")


def truncate(folder: Path) -> None:
    (folder / "model.onnx").write_text("")


def remove(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def cut_the_list(folder: Path) -> None:
    (folder / "entry.json").write_text((folder / "entry.json").read_text()[:20])


def drop_the_list(folder: Path) -> None:
    (folder / "entry.json").unlink()


def another_list(folder: Path) -> None:
    (folder / "entry.json").write_text("[1, 2]")


def another_schema(folder: Path) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**entry, "schema": "edgebench.entry/0"}))


def another_key(folder: Path) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**entry, "key": "cd"}))


@pytest.mark.parametrize(
    "damage",
    [
        change,
        truncate,
        remove,
        cut_the_list,
        drop_the_list,
        another_list,
        another_schema,
        another_key,
    ],
)
def test_a_damaged_entry_is_made_again(store: Store, damage: Callable[[Path], None]) -> None:
    make = Maker()
    folder, _ = store.obtain(KEY, make)
    damage(folder)
    assert store.find(KEY) is None
    assert store.obtain(KEY, make) == (folder, False)
    assert make.calls == 2
    assert store.find(KEY) == folder
    assert left(store) == []


@pytest.mark.parametrize("error", [BuildError("no"), KeyboardInterrupt(), ValueError("no")])
def test_what_fails_leaves_nothing(store: Store, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("made")
        raise error

    with pytest.raises(type(error)):
        store.obtain(KEY, fail)
    assert store.find(KEY) is None
    assert not (store.root / "ab" / KEY).exists()
    assert left(store) == []
    assert store.obtain(KEY, Maker())[1] is False


def test_a_failure_does_not_lose_what_was_there(store: Store) -> None:
    folder, _ = store.obtain(KEY, Maker())
    change(folder)

    def fail(new: Path) -> None:
        raise BuildError("no")

    with pytest.raises(BuildError):
        store.obtain(KEY, fail)
    assert (folder / "model.onnx").read_text() == "CONTENT"


PROCESS = """
import sys, time
from pathlib import Path
from edgebench.store import Store
root, key, name, mode = sys.argv[1:]
shared = Path(root).parent

def make(folder):
    with (shared / "made").open("a") as stream:
        stream.write(name + "\\n")
    (folder / "file").write_text(name)
    (shared / f"making-{name}").touch()
    time.sleep(60 if mode == "hang" else 0.3)

(shared / f"ready-{name}").touch()
while mode == "wait" and not (shared / "go").exists():
    time.sleep(0.001)
folder, reused = Store(Path(root)).obtain(key, make)
print((folder / "file").read_text(), reused)
"""


def start(store: Store, name: str, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(store.root), KEY, name, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*files: Path) -> None:
    give_up = time.monotonic() + 60
    while not all(f.exists() for f in files):
        assert time.monotonic() < give_up, files
        time.sleep(0.005)


def test_two_processes_make_an_entry_once(store: Store) -> None:
    shared = store.root.parent
    processes = [start(store, name, "wait") for name in ("one", "two", "three")]
    try:
        wait_for(*(shared / f"ready-{name}" for name in ("one", "two", "three")))
        (shared / "go").touch()
        answers = []
        for process in processes:
            out, problem = process.communicate(timeout=60)
            assert process.returncode == 0, problem
            answers.append(out.split())
    finally:
        for process in processes:
            process.kill()
    (maker,) = (shared / "made").read_text().split()
    assert {name for name, _ in answers} == {maker}
    assert sorted(reused for _, reused in answers) == ["False", "True", "True"]


def test_what_a_killed_process_left_is_cleared_away(store: Store) -> None:
    process = start(store, "killed", "hang")
    try:
        wait_for(store.root.parent / "making-killed")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    assert len(left(store)) == 1
    assert store.find(KEY) is None
    folder, reused = store.obtain(KEY, Maker())
    assert not reused
    assert left(store) == []
    assert not (folder / "file").exists()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "the disk is full; make room"),
        (errno.EDQUOT, "the disk is full; make room"),
        (errno.EROFS, "no permission to write here; name another folder in the environment"),
        (errno.EACCES, "no permission to write here; name another folder in the environment"),
        (errno.EIO, "cannot be written: "),
    ],
)
def test_what_the_disk_refuses_is_one_line(store: Store, number: int, text: str) -> None:
    def fail(folder: Path) -> None:
        raise OSError(number, f"{os.strerror(number)} (a fake)", str(folder / "model.onnx"))

    with pytest.raises(StorageError) as caught:
        store.obtain(KEY, fail)
    assert text in str(caught.value)
    assert str(store.root) in str(caught.value)
    assert "--out" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left(store) == []


def test_a_file_where_the_store_should_be(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StorageError, match="cannot be written: "):
        Store(tmp_path / "store").obtain(KEY, Maker())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = Store(small_disk)

    def fill(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"x" * 100_000)

    with pytest.raises(StorageError, match="the disk is full; make room; what is done is kept"):
        store.obtain(KEY, fill)
    assert left(store) == []
    assert store.obtain(KEY, Maker())[1] is False


def test_a_disk_that_is_really_read_only(small_disk: Path) -> None:
    store = Store(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="name another folder in the environment variable EDGE"):
        store.obtain(KEY, Maker())
    with pytest.raises(StorageError, match="no permission to write here"):
        write_atomically(small_disk / "run.json", "{}")


def test_the_users_store_is_where_they_say(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "mine"))
    assert Store.default().root == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGEBENCH_CACHE", "~/mine")
    assert Store.default().root == tmp_path / "mine"
    monkeypatch.setenv("EDGEBENCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Store.default().root == tmp_path / "xdg" / "edgebench" / "store"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write_atomically(path, "one")
    write_atomically(path, "zwölf")
    assert path.read_text(encoding="utf-8") == "zwölf"
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device (a fake)")

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_atomically(path, "two")
    assert path.read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "out" / "run.json", "{}")


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "cannot be read: No such file"), (b"{", "is no JSON"), (b"\xff\xfe", "is no JSON")],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, text: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "run.json") == {"a": [1]}
