"""A device reached over ssh: the bundle goes there, the agent runs there, results come back."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from edgebench.agent.results import EXTRA
from edgebench.errors import EdgebenchError, NotMeasuredError, UsageError, storage_error
from edgebench.hashing import file_digest
from edgebench.target import host_variable
from edgebench.transports.agent_zip import build_agent
from edgebench.transports.base import TRANSPORTS, Event, OnEvent, Transport
from edgebench.transports.events import follow, last_line, last_object
from edgebench.transports.ssh_connection import SSH_FAILED, SshConnection, parse_host

# Relative to the home folder, where both ssh and sftp begin.
_CACHE = ".cache/edgebench/agent"
_ANOTHER_PYTHON = "name another Python there with --set target.python=PATH"
_GO_ON = "what was measured is kept; run the same command again to go on"
_EXIT_NOT_EXECUTABLE = 126
_EXIT_NOT_FOUND = 127
_STOP_S = 2.0

# Run by whatever Python the device has: makes the folders, and tells what is there already.
_SETUP = """\
import hashlib, json, os, sys
found = {"python": sys.executable, "version": list(sys.version_info[:3])}
if sys.version_info >= (3, 8):
    import importlib.util
    folder, packages = sys.argv[1], sys.argv[2].split(",")
    found["missing"] = [p for p in packages if importlib.util.find_spec(p) is None]
    files = found["files"] = {}
    try:
        os.makedirs(os.path.join(folder, "bundle", "models"), exist_ok=True)
        for top, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(top, name)
                relative = os.path.relpath(path, folder)
                if relative == "agent.pyz" or relative.startswith("bundle" + os.sep):
                    with open(path, "rb") as file:
                        files[relative] = hashlib.sha256(file.read()).hexdigest()
        disk = os.statvfs(folder)
        found["free"] = disk.f_bavail * disk.f_frsize
    except OSError as error:
        found["refused"] = str(error)
print(json.dumps(found))
"""


@TRANSPORTS.register("ssh")
class SshTransport(Transport):
    """The agent on another device, reached through the system's OpenSSH."""

    def probe(self) -> dict[str, Any]:
        """The device's device.json; nothing stays there."""
        folder = f"{_CACHE}/probe-{secrets.token_hex(4)}"
        with self._connection() as connection:
            try:
                self._upload(connection, folder, Path(), [])
                command = self._agent(folder, "probe", "--runtime", self.spec.runtime["name"])
                done = connection.run(command)
            finally:
                connection.run(f"rm -rf -- {folder}")
        answer = last_object(done.stdout)
        if answer is None:
            raise self._died(done.returncode, done.stderr)
        if answer.get("event") == "error":
            raise self._refused(answer)
        return answer

    def measure(self, bundle: Path, results: Path, on_event: OnEvent) -> None:
        """Run the plan there; each model's results are fetched while nothing is being timed."""
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        timed = {model["name"]: model["timed"] for model in manifest["models"]}
        names = ["manifest.json", *(entry["file"] for entry in manifest["inputs"])]
        names += [model["file"] for model in manifest["models"]]
        folder = f"{_CACHE}/{manifest['run_id']}"
        with self._connection() as connection:
            self._upload(connection, folder, bundle, names)
            with self._running(connection, folder) as (agent, stderr):

                def fetch_and_pass_on(event: Event) -> None:
                    on_done = event["event"] == "done"
                    if on_done and event["name"] in timed:
                        _fetch(connection, folder, results, event, timed[event["name"]])
                    on_event(event)
                    if on_done:
                        _let_go_on(agent)

                closing = follow(cast("TextIO", agent.stdout), fetch_and_pass_on)
                code = agent.wait() if closing is None else None
                said = stderr.read_text(encoding="utf-8", errors="replace")
            if closing is None:
                raise self._died(code, said)
            if closing["event"] == "error":
                raise self._refused(closing)
            connection.run(f"rm -rf -- {shlex.quote(folder)}")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[SshConnection]:
        if not self.spec.host:
            variable = host_variable(self.spec.name)
            raise UsageError(
                "it has no host", where=self._where, hint=f"name it with --host or {variable}"
            )
        with SshConnection(parse_host(self.spec.host), self.spec.connect_timeout_s) as connection:
            yield connection

    @contextlib.contextmanager
    def _running(
        self, connection: SshConnection, folder: str
    ) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        command = self._agent(
            folder, "run", f"{folder}/bundle", "--out", f"{folder}/results", "--paced"
        )
        with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
            stderr = Path(scratch, "stderr")
            agent = connection.start(command, stderr)
            try:
                yield agent, stderr
            except BaseException:
                # The agent there ends when nobody listens to it any more.
                agent.kill()
                raise
            finally:
                for pipe in (agent.stdin, agent.stdout):
                    with contextlib.suppress(OSError):
                        cast("TextIO", pipe).close()
                try:
                    agent.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    agent.kill()
                    agent.wait()

    def _upload(
        self, connection: SshConnection, folder: str, bundle: Path, names: list[str]
    ) -> None:
        """Put the agent and the named files of the bundle there, those that are not there yet."""
        there = self._setup(connection, folder)
        with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
            agent = build_agent(Path(scratch, "agent.pyz"))
            wanted = {"agent.pyz": agent, **{f"bundle/{name}": bundle / name for name in names}}
            new = {n: p for n, p in wanted.items() if there["files"].get(n) != file_digest(p)}
            size = sum(path.stat().st_size for path in new.values())
            if size > there["free"]:
                raise NotMeasuredError(
                    f"its disk has {there['free'] >> 20} MiB free, the bundle needs "
                    f"{(size >> 20) + 1} MiB",
                    where=self._where,
                    hint=f"make room in ~/{_CACHE}",
                )
            # From within their folder: sftp would read odd characters in its path as a pattern.
            for source, prefix in ((Path(scratch), ""), (bundle, "bundle/")):
                commands = [
                    f'put "{name.removeprefix(prefix)}" "{folder}/{name}"'
                    for name, path in new.items()
                    if path == source / name.removeprefix(prefix)
                ]
                if commands:
                    connection.transfer(commands, source)

    def _setup(self, connection: SshConnection, folder: str) -> dict[str, Any]:
        """Make the folder there, and say which files it holds; raises NotMeasuredError."""
        runtime = self.spec.runtime["name"]
        python = self._python
        done = connection.run(
            f"{python} - {shlex.quote(folder)} {shlex.quote(f'numpy,{runtime}')}", _SETUP
        )
        there = last_object(done.stdout)
        if done.returncode in (_EXIT_NOT_FOUND, _EXIT_NOT_EXECUTABLE):
            raise NotMeasuredError(
                f"there is no {python} there", where=self._where, hint=_ANOTHER_PYTHON
            )
        if there is None or "version" not in there:
            said = last_line(done.stderr) or f"exit code {done.returncode}"
            raise NotMeasuredError(
                f"{python} does not run there: {said}", where=self._where, hint=_ANOTHER_PYTHON
            )
        if "missing" not in there:
            version = ".".join(str(v) for v in there["version"])
            raise NotMeasuredError(
                f"{there['python']} there is Python {version}; 3.8 or later is needed",
                where=self._where,
                hint=_ANOTHER_PYTHON,
            )
        if there["missing"]:
            missing = " ".join(there["missing"])
            raise NotMeasuredError(
                f"{there['python']} there has no {' and no '.join(there['missing'])}",
                where=self._where,
                hint=f"there: {there['python']} -m pip install {missing}; or {_ANOTHER_PYTHON}",
            )
        if "refused" in there:
            raise NotMeasuredError(
                f"its folder ~/{folder} cannot be used: {there['refused']}", where=self._where
            )
        return there

    def _agent(self, folder: str, *arguments: str) -> str:
        """The command line that starts the agent there."""
        words = [f"{folder}/agent.pyz", *arguments]
        settings = [f"{key}={value}" for key, value in self.spec.env.items()]
        prefix = f"env {shlex.join(settings)} " if settings else ""
        return f"{prefix}{self._python} {shlex.join(words)}"

    @property
    def _python(self) -> str:
        python = self.spec.python or "python3"
        # A quoted tilde would not be expanded there.
        return f"~/{shlex.quote(python[2:])}" if python.startswith("~/") else shlex.quote(python)

    @property
    def _where(self) -> str:
        at = f" at {self.spec.host}" if self.spec.host else ""
        return f"target '{self.spec.name}'{at}"

    def _refused(self, event: Event) -> NotMeasuredError:
        return NotMeasuredError(
            event["problem"],
            where=self._where,
            hint=_ANOTHER_PYTHON if event["code"] == "runtime" else None,
        )

    def _died(self, code: int | None, stderr: str) -> NotMeasuredError:
        if code == SSH_FAILED or code is None:
            return NotMeasuredError("the connection was lost", where=self._where, hint=_GO_ON)
        said = last_line(stderr)
        return NotMeasuredError(
            f"the measuring agent ended with exit code {code}" + (f": {said}" if said else ""),
            where=self._where,
            hint=_GO_ON,
        )


def _fetch(
    connection: SshConnection, folder: str, results: Path, event: Event, timed: bool
) -> None:
    """Bring one model's results here; result.json comes into its place last."""
    name = event["name"]
    names = ["result.json"]
    extra = EXTRA if timed and event["status"] == "measured" else ()
    if event["status"] == "measured":
        names = ["outputs.npy", *(["samples.npz"] if timed else []), "result.json"]
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results, prefix=".fetch-") as staging:
            there = f"{folder}/results"
            commands = [f'get "{there}/device.json" device.json']
            commands += [f'get "{there}/{name}/{file}" {file}' for file in names]
            # With a dash before it, sftp goes on where a file is not there.
            commands += [f'-get "{there}/{name}/{file}" {file}' for file in extra]
            try:
                connection.transfer(commands, Path(staging))
            except EdgebenchError as error:
                raise NotMeasuredError(error.what, where=error.where, hint=_GO_ON) from error
            (results / name).mkdir(exist_ok=True)
            os.replace(Path(staging, "device.json"), results / "device.json")
            came = [file for file in extra if Path(staging, file).is_file()]
            for file in (*came, *names):
                os.replace(Path(staging, file), results / name / file)
    except OSError as error:
        raise storage_error(error, results) from error


def _let_go_on(agent: subprocess.Popen[str]) -> None:
    # Where the connection has gone, the end of standard output says so next.
    with contextlib.suppress(BrokenPipeError):
        stdin = cast("TextIO", agent.stdin)
        stdin.write("\n")
        stdin.flush()
