"""One connection through the system's OpenSSH, shared by every command and file transfer.

The user's ssh_config, agents, jump hosts and known_hosts hold. Options: ssh_config(5); what ssh
says when it fails is turned into one line with the way out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgebench.errors import NotMeasuredError, UsageError
from edgebench.transports.events import last_line

OPTIONS_VARIABLE = "EDGEBENCH_SSH_OPTIONS"
# What ssh itself ends with; a command's own codes pass through.
SSH_FAILED = 255

_PERSIST_S = 30
_HANDSHAKE_S = 30.0


@dataclass(frozen=True)
class Host:
    """Where to: `address` is a name, an alias of ssh_config, or an IP address."""

    text: str
    user: str | None
    address: str
    port: int | None

    @property
    def for_ssh(self) -> str:
        """The destination as ssh takes it."""
        return f"{self.user}@{self.address}" if self.user else self.address

    @property
    def for_sftp(self) -> str:
        """The destination as sftp takes it, where a colon begins the path."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}" if self.user else address


def parse_host(text: str) -> Host:
    """Read `[user@]host[:port]`; an IPv6 address with a port stands in brackets."""
    user, at, rest = text.rpartition("@")
    bracketed = re.fullmatch(r"\[([0-9A-Za-z:.%_-]+)\](?::(\d+))?", rest)
    named = re.fullmatch(r"([0-9A-Za-z._-]+)(?::(\d+))?", rest)
    bare_ipv6 = re.fullmatch(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Za-z:.%_-]*)()", rest)
    found = bracketed or named or bare_ipv6
    port = int(found.group(2)) if found and found.group(2) else None
    user_fits = re.fullmatch(r"[^\s@:'\"\\$`-][^\s@:'\"\\$`]*", user) if at else True
    if not found or found.group(1).startswith("-") or not user_fits:
        raise UsageError(f"'{text}' is not a host", hint="write user@host, user@host:port or [::1]")
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"'{text}': there is no port {port}", hint="ports go from 1 to 65535")
    return Host(text, user or None, found.group(1), port)


class SshConnection:
    """A multiplexed connection; use it as a context manager."""

    def __init__(self, host: Host, connect_timeout_s: float) -> None:
        self.host = host
        self._timeout_s = connect_timeout_s
        self._folder = ""
        self._options: list[str] = []
        self._ssh_program = ""
        self._sftp_program = ""

    def __enter__(self) -> SshConnection:
        """Connect; raises NotMeasuredError."""
        self._ssh_program, self._sftp_program = _program("ssh"), _program("sftp")
        # A socket's path may have about 100 characters; the usual temporary folder can be longer.
        short = "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108  mkdtemp is private
        self._folder = tempfile.mkdtemp(prefix="eb-", dir=short)
        self._options = [*_user_options(), *self._own_options()]
        try:
            self._open_master()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it whatever still runs through it."""
        if Path(self._folder, "c").exists():
            subprocess.run(
                [self._ssh_program, *self._options, "-O", "exit", self.host.for_ssh],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_HANDSHAKE_S,
                check=False,
            )
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, command: str, script: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command there with `script` on its standard input.

        Raises NotMeasuredError where the connection fails; the command's own failure is not one.
        """
        done = subprocess.run(
            self._ssh(command),
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == SSH_FAILED:
            raise self.failure(done.stderr)
        return done

    def start(self, command: str, stderr: Path) -> subprocess.Popen[str]:
        """Start a command there, with pipes to its standard input and output."""
        with stderr.open("wb") as file:
            return subprocess.Popen(
                self._ssh(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                errors="replace",
            )

    def transfer(self, commands: list[str], folder: Path) -> None:
        """Run sftp commands, stopping at the first that fails; relative to `folder` here.

        Raises NotMeasuredError with what sftp said.
        """
        done = subprocess.run(
            [self._sftp_program, "-q", "-b", "-", *self._options, self.host.for_sftp],
            input="\n".join(commands) + "\n",
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == SSH_FAILED:
            raise self.failure(done.stderr)
        if done.returncode != 0:
            raise NotMeasuredError(
                f"copying failed: {last_line(done.stderr)}",
                where=self.host.text,
                hint="is its disk full?" if "Failure" in done.stderr else None,
            )

    def failure(self, stderr: str) -> NotMeasuredError:
        """What ssh said, as one line with the way out."""
        host = self.host
        for pattern, what, hint in _FAILURES:
            if re.search(pattern, stderr):
                name = f"[{host.address}]:{host.port}" if host.port else host.address
                return NotMeasuredError(
                    what,
                    where=host.text,
                    hint=hint.format(host=host.for_ssh, known=shlex.quote(name)),
                )
        return NotMeasuredError(
            f"ssh failed: {last_line(stderr) or 'the connection was lost'}", where=host.text
        )

    def _ssh(self, command: str) -> list[str]:
        return [self._ssh_program, *self._options, "-T", "--", self.host.for_ssh, command]

    def _own_options(self) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": str(max(1, round(self._timeout_s))),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{self._folder}/c",
            "ControlPersist": str(_PERSIST_S),
            "ClearAllForwardings": "yes",
            "RequestTTY": "no",
            "RemoteCommand": "none",
            "LogLevel": "ERROR",
        }
        if self.host.port is not None:
            settings["Port"] = str(self.host.port)
        return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]

    def _open_master(self) -> None:
        # The master stays and keeps its standard error open: a pipe would never come to its end.
        errors = Path(self._folder, "stderr")
        with errors.open("wb") as stderr:
            try:
                done = subprocess.run(
                    [self._ssh_program, *self._options, "-f", "-N", "--", self.host.for_ssh],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    timeout=self._timeout_s + _HANDSHAKE_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise NotMeasuredError(
                    "it took the connection but did not go on",
                    where=self.host.text,
                    hint=f"try: ssh {self.host.for_ssh} true",
                ) from None
        if done.returncode != 0:
            raise self.failure(errors.read_text(encoding="utf-8", errors="replace"))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotMeasuredError(
            f"there is no {name} on this machine",
            hint="install OpenSSH's client (Debian: apt install openssh-client)",
        )
    return found


def _user_options() -> list[str]:
    """The user's extra options, in the form that both ssh and sftp take."""
    text = os.environ.get(OPTIONS_VARIABLE, "")
    try:
        given = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"cannot be read: {error}", where=OPTIONS_VARIABLE) from error
    options: list[str] = []
    words = iter(given)
    for word in words:
        # sftp has -p and -l too, and means something else by them.
        same = {"-p": "Port", "-l": "User"}.get(word)
        options += ["-o", f"{same}={next(words, '')}"] if same else [word]
    return options


_FAILURES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed: it was re-installed, or something stands between",
        "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` run on the device itself; "
        "if it is right, `ssh-keygen -R {known}` here and connect once by hand: ssh {host}",
    ),
    (
        r"Host key verification failed|No .* host key is known",
        "its host key is not known here",
        "connect once by hand (ssh {host}) and compare the fingerprint it shows with "
        "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` run on the device itself",
    ),
    (
        r"Permission denied \(",
        "it refuses to log you in, and edgebench asks for no password",
        "copy your public key there: ssh-copy-id {host}",
    ),
    (
        r"Could not resolve hostname",
        "there is no host of this name",
        "check the name, or add it to ~/.ssh/config",
    ),
    (
        r"Connection refused",
        "it refuses the connection: no ssh server listens at this port",
        "start sshd on the device, or name its port: user@host:port",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "it does not answer",
        "check that it is on and reachable: ssh {host} true",
    ),
    (
        r"subsystem request failed",
        "its ssh server offers no sftp",
        "enable `Subsystem sftp internal-sftp` in its sshd_config",
    ),
)
