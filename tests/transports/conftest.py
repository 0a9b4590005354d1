"""A real sshd of our own on 127.0.0.1 stands in for a device."""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

SSHD = "/usr/sbin/sshd"


def load(name: str) -> ModuleType:
    """The module of this name in tests/agent."""
    path = Path(__file__).parent.parent / "agent" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundles() -> ModuleType:
    """The module that makes small bundles and runs them."""
    return load("bundles")


@pytest.fixture(scope="session")
def process_table() -> ModuleType:
    """The module that finds processes by their command lines."""
    return load("process_table")


@dataclass
class Device:
    """The stand-in: `home` is where its user lands, `config` makes ssh trust it."""

    host: str
    port: int
    home: Path
    config: Path
    folder: Path
    pid: int
    python: str

    def drop_connections(self) -> None:
        """Kill every session, as a lost network would."""
        for pid in descendants(self.pid):
            # A process may end between being listed and being killed.
            with suppress(ProcessLookupError, FileNotFoundError):
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30
    )
    return path


def known_line(port: int, public_key: Path) -> str:
    kind, key = public_key.read_text().split()[:2]
    return f"[127.0.0.1]:{port} {kind} {key}\n"


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if not Path(SSHD).exists() or shutil.which("ssh") is None or shutil.which("sftp") is None:
        pytest.skip("needs an OpenSSH server and client (Debian: apt install openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    host_key, user_key = make_key(folder / "host"), make_key(folder / "user")
    home = folder / "home"
    home.mkdir()
    (folder / "authorized").write_text(user_key.with_suffix(".pub").read_text())
    port = free_port()
    # The session lands in a home of its own, so the tests never touch the user's.
    session = folder / "session"
    session.write_text(
        f"#!/bin/sh\nexport HOME={home}\ncd {home}\n"
        'case "$SSH_ORIGINAL_COMMAND" in\n'
        f"  internal-sftp|*sftp-server*) exec {_sftp_server()} ;;\n"
        '  *) exec /bin/sh -c "$SSH_ORIGINAL_COMMAND" ;;\n'
        "esac\n"
    )
    session.chmod(0o755)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPidFile {folder / 'pid'}\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"Subsystem sftp {_sftp_server()}\nForceCommand {session}\n"
    )
    server = subprocess.Popen(
        [SSHD, "-D", "-f", str(config), "-E", str(folder / "log")], stdin=subprocess.DEVNULL
    )
    try:
        _await_port(port, server, folder / "log")
        (folder / "known_hosts").write_text(known_line(port, host_key.with_suffix(".pub")))
        ssh_config = write_ssh_config(folder, folder / "known_hosts", "ssh_config")
        yield Device(
            host=f"{getpass.getuser()}@127.0.0.1:{port}",
            port=port,
            home=home,
            config=ssh_config,
            folder=folder,
            pid=server.pid,
            python=sys.executable,
        )
    finally:
        for pid in [*descendants(server.pid), server.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        server.wait()


@pytest.fixture
def device(sshd: Device, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", f"-F {sshd.config}")
    return sshd


def write_ssh_config(folder: Path, known_hosts: Path, name: str, extra: str = "") -> Path:
    path = folder / name
    path.write_text(
        f"{extra}Host *\n  UserKnownHostsFile {known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
        f"  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
    )
    return path


def _sftp_server() -> str:
    places = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
    found = next((p for p in places if Path(p).exists()), None)
    if found is None:
        pytest.skip("needs OpenSSH's sftp-server (Debian: apt install openssh-sftp-server)")
    return found


def _await_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("sshd does not listen")
