from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from edgebench.errors import StorageError, UsageError
from edgebench.history import History
from edgebench.history.connection import connect, masked, store_url, writing


def test_the_environment_names_the_store(tmp_path: Path, monkeypatch, run) -> None:
    monkeypatch.setenv("EDGEBENCH_STORE", str(tmp_path / "new" / "mine.sqlite"))
    History.open().add(run(), tmp_path)
    assert (tmp_path / "new" / "mine.sqlite").stat().st_size > 0
    assert len(History.open(str(tmp_path / "new" / "mine.sqlite")).list()) == 1


@pytest.mark.parametrize("value", [None, ""])
def test_without_it_the_store_is_the_users_own(tmp_path: Path, monkeypatch, value) -> None:
    monkeypatch.delenv("EDGEBENCH_STORE", raising=False)
    if value is not None:
        monkeypatch.setenv("EDGEBENCH_STORE", value)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    History.open()
    assert (tmp_path / "edgebench" / "history.sqlite").is_file()


def test_paths_and_urls_name_the_same_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_url("~/a.sqlite") == store_url(f"sqlite:///{tmp_path}/a.sqlite")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_postgresql_means_one_driver(scheme: str) -> None:
    url = store_url(f"{scheme}://me:secret@db.example/runs")
    assert url.drivername == "postgresql+psycopg"
    assert masked(url) == "postgresql+psycopg://me:***@db.example/runs"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:s3cret@host:port/runs",
        "postgresql://me:s3@cret@host/runs",
        "postgresql://me:s3cret:5432/runs",
        "://me:s3cret@host",
        "postgresql://me:s3cret@[::1/runs",
    ],
)
def test_a_malformed_url_shows_nothing_of_a_password(text: str) -> None:
    with pytest.raises(UsageError, match=r"^\w*://\*\*\*: this is not the URL") as caught:
        store_url(text)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mysql://me:secret@host/runs",
            "mysql://me:***@host/runs: runs cannot be kept in mysql; "
            "use PostgreSQL, or the path of a SQLite file",
        ),
        (
            "sqlite://",
            "sqlite://: a SQLite store is a file, and takes no options; "
            "set EDGEBENCH_STORE to its path",
        ),
        (
            "sqlite:////srv/a.db?mode=ro",
            "/srv/a.db: a SQLite store is a file, and takes no options; "
            "set EDGEBENCH_STORE to its path",
        ),
        (
            "postgresql+nosuch://me:secret@host/runs",
            "postgresql+nosuch://me:***@host/runs: no such driver: "
            "Can't load plugin: sqlalchemy.dialects:postgresql.nosuch",
        ),
    ],
)
def test_urls_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        History.open(text)
    assert str(caught.value) == message


def test_a_missing_driver_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError) as caught:
        History.open("postgresql://me:secret@host/runs")
    assert str(caught.value) == (
        "postgresql+psycopg://me:***@host/runs: the driver psycopg is not installed; "
        "pip install 'edgebench[postgres]'"
    )


def failure(store: str) -> str:
    """What is said where the store cannot be opened."""
    with pytest.raises(StorageError) as caught:
        History.open(store)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def failure_without(secret: str, store: str) -> str:
    """Likewise, and the secret is not in it."""
    line = failure(store)
    assert secret not in line
    return line


@pytest.mark.parametrize(
    "where", ["me:s3cret@127.0.0.1:{port}/runs", "127.0.0.1:{port}/runs?password=s3cret&user=me"]
)
def test_a_server_out_of_reach(where: str) -> None:
    with socket.socket() as bound:  # bound and not listening: the port answers with a refusal
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        line = failure_without("s3cret", f"postgresql://{where.format(port=port)}")
    assert f"127.0.0.1:{port}/runs" in line
    assert "***" in line
    assert "refused" in line
    assert line.endswith("check the server, and the URL in EDGEBENCH_STORE")


def test_a_wrong_password_and_a_missing_database(postgres) -> None:
    line = failure_without("wr0ng", postgres.url(password="wr0ng"))
    assert "password authentication failed" in line
    line = failure_without("p%40ss", postgres.url("absent"))
    assert 'database "absent" does not exist' in line


def test_a_wrong_option_in_the_url(postgres) -> None:
    line = failure_without("p%40ss", postgres.url() + "?colour=red")
    assert "colour" in line


def test_a_password_in_a_drivers_message_is_hidden() -> None:
    from sqlalchemy.exc import OperationalError

    class Talkative:
        url = store_url("postgresql://me:s3%2Fcret@host/runs")

        class dialect:
            name = "postgresql"

        def execution_options(self, **_: object) -> Talkative:
            return self

        def begin(self) -> None:
            raise OperationalError(None, None, Exception("no entry for me s3/cret s3%2Fcret"))

    with pytest.raises(StorageError) as caught, writing(Talkative()):
        pass
    assert "the store failed: no entry for me *** ***; check the server" in str(caught.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to have a header " * 50)
    before = path.read_bytes()
    assert failure(str(path)) == (
        f"{path}: the store failed: file is not a database; "
        "it is not a store of edgebench; set EDGEBENCH_STORE to another file"
    )
    assert path.read_bytes() == before


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert failure(str(tmp_path)) == (
        f"{tmp_path}: the store failed: unable to open database file; "
        "set EDGEBENCH_STORE to a file that can be written"
    )


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "history.sqlite"
    line = failure(str(path))
    assert line.startswith(f"{path}: the folder of the store cannot be made: ")


def test_a_place_that_may_not_be_written(open_folder: Path, as_ordinary_user, run) -> None:
    path = open_folder / "history.sqlite"
    History.open(str(path)).add(run(), open_folder)
    path.chmod(0o444)
    os.chmod(open_folder, 0o555)
    with as_ordinary_user():
        history = History.open(str(path))
        assert len(history.list()) == 1
        with pytest.raises(StorageError) as caught:
            history.add(run("other"), open_folder)
        assert str(caught.value) == (
            f"{path}: the store failed: attempt to write a readonly database; "
            "set EDGEBENCH_STORE to a file that can be written"
        )
        assert "unable to open" in failure(str(open_folder / "new.sqlite"))
        line = failure(str(open_folder / "sub" / "new.sqlite"))
        assert "the folder of the store cannot be made: Permission denied" in line


def test_a_store_that_stays_locked(tmp_path: Path, monkeypatch, run) -> None:
    path = str(tmp_path / "history.sqlite")
    history = History.open(path)
    monkeypatch.setattr("edgebench.history.connection.SQLITE_WAIT_S", 0.05)
    impatient = History.open(path)
    with writing(connect(store_url(path))), pytest.raises(StorageError, match="is locked; another"):
        impatient.add(run(), tmp_path)
    history.add(run(), tmp_path)
    assert len(impatient.list()) == 1


def test_a_transaction_that_fails_leaves_nothing(store: str, tmp_path: Path, run) -> None:
    from sqlalchemy import text

    engine = connect(store_url(store))
    make = text("CREATE TABLE half_made (x integer)")

    def fail() -> None:
        with writing(engine) as connection:
            connection.execute(make)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with writing(engine) as connection:
        connection.execute(make)
    assert History.open(store).list() == []
