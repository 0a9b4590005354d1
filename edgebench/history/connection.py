"""From what the user named to a database connection, and from its faults to one line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from edgebench.errors import StorageError, UsageError, one_line

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

STORE_VARIABLE = "EDGEBENCH_STORE"
SQLITE_WAIT_S = 30
CONNECT_TIMEOUT_S = 10

# Any number will do that other programs in the same database are unlikely to lock.
WRITERS_LOCK = 0x6564_6765


def store_url(text: str | None = None) -> URL:
    """The URL of the store: `text`, else EDGEBENCH_STORE, else the user's own SQLite file.

    What has no "://" is the path of a SQLite file. Raises UsageError.
    """
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    text = text or os.environ.get(STORE_VARIABLE)
    if not text:
        from platformdirs import user_data_path

        text = str(user_data_path("edgebench") / "history.sqlite")
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise _not_a_url(text) from error
    if "@" in (url.host or ""):  # the rest of a password that was not quoted
        raise _not_a_url(text)
    if url.drivername in ("postgres", "postgresql"):
        # Which driver a bare name means has changed between releases of SQLAlchemy.
        return url.set(drivername="postgresql+psycopg")
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise UsageError(
            f"runs cannot be kept in {one_line(backend, 40)}",
            where=masked(url),
            hint="use PostgreSQL, or the path of a SQLite file",
        )
    if backend == "sqlite" and (url.query or url.database in (None, "", ":memory:")):
        raise UsageError(
            "a SQLite store is a file, and takes no options",
            where=masked(url),
            hint=f"set {STORE_VARIABLE} to its path",
        )
    return url


def masked(url: URL) -> str:
    """The store's name as it may be shown: with *** for a password, the plain path for a file."""
    if url.get_backend_name() == "sqlite":
        return url.database or "sqlite://"
    if "password" in url.query:
        url = url.update_query_dict({"password": "***"})
    # The stars of a query come out quoted.
    return url.render_as_string(hide_password=True).replace("=%2A%2A%2A", "=***")


def _not_a_url(text: str) -> UsageError:
    # Where the URL cannot be taken apart, any part of it may be the password.
    scheme = text.partition("://")[0]
    return UsageError(
        "this is not the URL of a database",
        where=f"{one_line(scheme, 40)}://***",
        hint="write postgresql://USER:PASSWORD@HOST:PORT/NAME, with @, : and / in a password as "
        "%40, %3A and %2F, or the path of a SQLite file",
    )


def connect(url: URL) -> Engine:
    """An engine for the store; nothing is connected to yet, but a SQLite file gets its folder.

    Raises UsageError where the driver is missing, and StorageError where no folder can be made.
    """
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {}
    if sqlite:
        options["timeout"] = SQLITE_WAIT_S
        try:
            Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the folder of the store cannot be made: {error.strerror or error}",
                where=masked(url),
                hint=f"set {STORE_VARIABLE} to a file that can be written",
            ) from error
    elif "connect_timeout" not in url.query:
        options["connect_timeout"] = CONNECT_TIMEOUT_S
    try:
        engine = create_engine(url, connect_args=options, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the driver {error.name} is not installed",
            where=masked(url),
            hint="pip install 'edgebench[postgres]'",
        ) from error
    except (NoSuchModuleError, ArgumentError) as error:
        raise UsageError(
            f"no such driver: {_scrubbed(str(error), url)}", where=masked(url)
        ) from error
    if sqlite:
        _begin_explicitly(engine)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that only reads; faults become StorageError."""
    with _faults(engine.url), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that no other writer of the store runs beside.

    Writes are rare and short, so they queue: SQLite is told at the start that this transaction
    writes (one that turns out to, half-way, fails at once instead of waiting), and PostgreSQL
    gives out one lock, which also keeps two processes from making the tables at once.
    """
    from sqlalchemy import func, select

    with (
        _faults(engine.url),
        engine.execution_options(edgebench_writes=True).begin() as connection,
    ):
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(WRITERS_LOCK)))
        yield connection


def _begin_explicitly(engine: Engine) -> None:
    """Have SQLite's transactions begin where they begin, table definitions included."""
    from sqlalchemy import event

    # Python's sqlite3 begins a transaction before some statements and not before others; this
    # is the way round it that SQLAlchemy's documentation of the dialect gives.
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("edgebench_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _faults(url: URL) -> Iterator[None]:
    """Database errors become StorageError, one line, with no password in it."""
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        text = _scrubbed(str(cause), url)
        raise StorageError(
            f"the store failed: {one_line(text, 200)}", where=masked(url), hint=_hint(text, url)
        ) from error


def _hint(text: str, url: URL) -> str:
    if url.get_backend_name() != "sqlite":
        return f"check the server, and the URL in {STORE_VARIABLE}"
    if "locked" in text:
        return "another process is writing to it; try again when that has ended"
    if "not a database" in text or "malformed" in text:
        return f"it is not a store of edgebench; set {STORE_VARIABLE} to another file"
    if "full" in text:
        return "make room on the disk"
    return f"set {STORE_VARIABLE} to a file that can be written"


def _scrubbed(text: str, url: URL) -> str:
    """`text` without the password, in case a driver repeats it."""
    secrets = [url.password, url.query.get("password")]
    for secret in secrets:
        if isinstance(secret, str) and secret:
            for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
                text = text.replace(form, "***")
    return text
