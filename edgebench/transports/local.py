"""The machine edgebench runs on: the agent in a fresh process that holds nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO, cast

from filelock import FileLock, Timeout

from edgebench.agent.supervise import worker_environment
from edgebench.errors import EdgebenchError, NotMeasuredError, StorageError
from edgebench.transports.agent_zip import build_agent
from edgebench.transports.base import TRANSPORTS, Event, OnEvent, Transport
from edgebench.transports.events import follow, last_line, last_object

_STOP_S = 5.0


@TRANSPORTS.register("local")
class LocalTransport(Transport):
    """The agent as a subprocess of this one, which sleeps while the agent measures."""

    def probe(self) -> dict[str, Any]:
        """Give the device.json of the machine itself."""
        device: dict[str, Any] = {}
        self._run(["probe", "--runtime", self.spec.runtime["name"]], device.update)
        return device

    def measure(self, bundle: Path, results: Path, on_event: OnEvent) -> None:
        """Run the plan; the agent writes into `results` itself."""
        command = ["run", str(bundle.absolute()), "--out", str(results.absolute())]
        # Two agents at once would time each other. The lock is the kernel's, and the user's own.
        lock = FileLock(Path(tempfile.gettempdir(), f"edgebench-measuring-{os.getuid()}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_event({"event": "waiting"})
            lock.acquire()
        try:
            self._run([*command, "--parent", str(os.getpid())], on_event)
        finally:
            lock.release()

    def _run(self, arguments: list[str], on_event: OnEvent) -> None:
        python = os.path.expanduser(self.spec.python or sys.executable)
        with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
            agent = build_agent(Path(scratch, "agent.pyz"))
            with Path(scratch, "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
                try:
                    process = subprocess.Popen(
                        [python, str(agent), *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=stderr,
                        text=True,
                        errors="replace",
                        env={**worker_environment(), **self.spec.env},
                        start_new_session=True,
                    )
                except OSError as error:
                    raise NotMeasuredError(
                        f"{python} cannot be started: {error.strerror}",
                        where=f"target '{self.spec.name}'",
                        hint="name a Python with --set target.python=PATH",
                    ) from error
                try:
                    closing = self._follow(process, arguments[0], on_event)
                finally:
                    _stop(process)
                stderr.seek(0)
                self._judge(closing, process.returncode, stderr.read())

    def _follow(
        self, process: subprocess.Popen[str], command: str, on_event: OnEvent
    ) -> Event | None:
        stdout = cast("TextIO", process.stdout)
        if command == "run":
            return follow(stdout, on_event)
        answer = last_object(stdout.read())
        if answer is not None and "event" not in answer:
            on_event(answer)
        return answer

    def _judge(self, closing: Event | None, code: int, stderr: str) -> None:
        where = f"target '{self.spec.name}'"
        if closing is None:
            last = last_line(stderr)
            ending = (
                f"was stopped by signal {-code}" if code < 0 else f"ended with exit code {code}"
            )
            raise NotMeasuredError(
                f"the measuring agent {ending}" + (f": {last}" if last else ""), where=where
            )
        if closing.get("event") == "error":
            kind: type[EdgebenchError] = (
                StorageError if closing["code"] == "storage" else NotMeasuredError
            )
            raise kind(closing["problem"], where=where)


def _stop(process: subprocess.Popen[str]) -> None:
    """Leave nothing running: the agent ends when nobody listens, or is made to."""
    if process.stdout is not None:
        process.stdout.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(_STOP_S)
            return
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    process.wait()
