"""Stores to test against: a SQLite file, and a PostgreSQL server that the tests start."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from edgebench.records import Estimate, RunRecord, Variant

PASSWORD = "p@ss/w:rd%41"
NOBODY = 65534
numbers = itertools.count()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of our own."""

    port: int

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return (
            f"postgresql+psycopg://keeper:{quote(password, safe='')}@127.0.0.1:{self.port}/"
            f"{database}"
        )

    def new_database(self) -> str:
        """The URL of an empty database."""
        import psycopg

        name = f"history{next(numbers)}"
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="keeper",
            password=PASSWORD,
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if found:
        return found[-1].parent
    on_path = shutil.which("pg_ctl")
    return Path(on_path).resolve().parent if on_path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    bin_folder = binaries()
    if bin_folder is None or not (bin_folder / "initdb").exists():
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on this machine")
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None

    def call(*command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            user=user,
            cwd=home,
            text=True,
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, Path(log.name).read_text()

    with (
        tempfile.TemporaryDirectory(prefix="edgebench-postgres-") as home,
        tempfile.NamedTemporaryFile("w", suffix=".log") as log,
    ):
        if user:
            try:
                shutil.chown(home, user)
            except LookupError:
                pytest.skip("the tests run as root, and there is no user called postgres")
        secret = Path(home, "password")
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o644)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = Path(home, "data")
        call(
            bin_folder / "initdb",
            "-D",
            data,
            "-U",
            "keeper",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
        )
        settings = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        call(bin_folder / "pg_ctl", "-D", data, "-w", "-o", settings, "start")
        try:
            yield Server(port)
        finally:
            call(bin_folder / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "history.sqlite")
    return request.getfixturevalue("postgres").new_database()


def make_run(run_id: str = "20260102T030405-abcdef", **changes: object) -> RunRecord:
    """A finished run: base, one variant judged GO, one judged NO-GO, one that failed."""

    def ratio(point: float | None) -> dict[str, Estimate]:
        return {"latency_ratio": Estimate(point=point, low=None, high=1.5, n=12, method="t")}

    p50 = Estimate(point=2.0, low=1.9, high=2.1, n=12, method="order statistics, 96.1 %")
    variants = (
        Variant(
            name="base",
            status="measured",
            metrics={"accuracy": 0.9, "latency_p50_ms": 2.0, "sqnr_db": None},
            intervals={"latency_p50_ms": p50},
        ),
        Variant(name="int8", status="measured", verdict="GO", comparisons=ratio(0.7)),
        Variant(name="tiny", status="measured", verdict="NO-GO", comparisons=ratio(0.2)),
        Variant(name="odd", status="failed", problem="no such layer"),
    )
    fields: dict[str, object] = {
        "run_id": run_id,
        "created": "2026-01-02T03:04:05+00:00",
        "edgebench_version": "0.1.0",
        "recipe": {"name": "quickstart", "model": "lenet", "data": "digits"},
        "target": {"name": "local"},
        "device": {"fingerprint": "f" * 64},
        "variants": variants,
        "verdict": "GO",
        "exit_code": 0,
    }
    return RunRecord(**{**fields, **changes})


@pytest.fixture(scope="session")
def run() -> Callable[..., RunRecord]:
    """Makes runs."""
    return make_run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def as_ordinary_user() -> Callable[[], object]:
    """A context in which file permissions bind, also where the tests run as root."""

    @contextmanager
    def ordinary() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return ordinary
