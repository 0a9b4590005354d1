"""Starts worker processes and waits for them, asleep, until they end, hang or crash."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

from .device.surroundings import killed_for_memory
from .errors import AgentError, HangupError, ModelFailedError, one_line
from .worker import EXIT_STORAGE

_BOOT = (
    "import sys; sys.path[0] = {root!r}; "
    "from {package}.__main__ import main; sys.exit(main(sys.argv[1:]))"
)
# These change how fast or how large a Python process is, or make it repeat its addresses.
_KEPT_PYTHON_VARIABLES = {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"}
_DESCRIBE_LIMIT_S = 120.0
_STDERR_TAIL_BYTES = 4096


def agent_command() -> list[str]:
    """How this agent, a folder or a zip, is started again in a fresh process."""
    package = __package__ or ""
    root = Path(__file__).parents[package.count(".") + 1]
    return [sys.executable, "-c", _BOOT.format(root=str(root.absolute()), package=package)]


def worker_environment() -> dict[str, str]:
    """The environment of a measuring process."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") or key in _KEPT_PYTHON_VARIABLES
    }
    # numpy would start a thread for each processor on import.
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def describe_runtime(command: list[str], runtime: str) -> dict[str, Any]:
    """What the runtime says of itself, asked in a process of its own; raises AgentError.

    A build for another processor dies on import, and must not take the agent with it.
    """
    try:
        done = subprocess.run(
            [*command, "describe", runtime],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=worker_environment(),
            timeout=_DESCRIBE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AgentError(
            "runtime", f"importing {runtime} did not end within {_DESCRIBE_LIMIT_S:g} s"
        ) from None
    version = ".".join(str(v) for v in sys.version_info[:3])
    where = f"{sys.executable} (Python {version})"
    try:
        answer: dict[str, Any] = json.loads(done.stdout.decode("utf-8", "replace").splitlines()[-1])
    except (ValueError, IndexError):
        last = _last_line(done.stderr)
        raise AgentError(
            "runtime", f"importing {runtime} with {where} {_ending(done.returncode)}{last}"
        ) from None
    if "missing" in answer:
        packages = "numpy " + runtime if answer["missing"] == "numpy" else answer["missing"]
        raise AgentError(
            "runtime",
            f"{where} cannot import {answer['missing']} ({answer['why']}): "
            f"{sys.executable} -m pip install {packages}",
        )
    return answer


def run_worker(
    command: list[str],
    job: dict[str, Any],
    timeout_s: float,
    listener_fd: int | None,
    on_phase: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One job in a fresh process; gives raw.json. `on_phase` hears what it is doing.

    Raises ModelFailedError with what went wrong and in which phase, and HangupError when nobody
    reads `listener_fd` any more. Whatever happens, no process is left.
    """
    out = Path(job["out"])
    job_file = out / "job.json"
    job_file.write_text(json.dumps({**job, "parent": os.getpid()}), encoding="utf-8")
    kills = killed_for_memory(Path("/"))
    phases, phase_fd = os.pipe()
    try:
        with (out / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "worker", str(job_file), str(phase_fd)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(phase_fd,),
                env=worker_environment(),
                cwd=str(out),
                start_new_session=True,
            )
        os.close(phase_fd)
        phase_fd = -1
        try:
            phase = _wait(process, phases, timeout_s, listener_fd, on_phase)
        finally:
            _end(process)
    finally:
        os.close(phases)
        if phase_fd >= 0:
            os.close(phase_fd)
    if process.returncode == EXIT_STORAGE:
        raise AgentError("storage", f"no space is left for the results in {out}")
    if process.returncode != 0:
        why = _killer(kills) if process.returncode == -signal.SIGKILL else ""
        tail = _last_line(_tail(out / "stderr")) if process.returncode > 0 else why
        raise ModelFailedError(f"{_ending(process.returncode)} while {phase}{tail}")
    try:
        raw: dict[str, Any] = json.loads((out / "raw.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelFailedError(f"ended without a result while {phase}") from None
    if raw["problem"] is not None:
        raise ModelFailedError(raw["problem"])
    return raw


def _wait(
    process: subprocess.Popen[bytes],
    phases: int,
    timeout_s: float,
    listener_fd: int | None,
    on_phase: Callable[[str], None] | None,
) -> str:
    """Sleep until the worker ends; gives its last phase."""
    deadline = time.monotonic() + timeout_s
    text = b"starting\n"
    poller = select.poll()
    poller.register(phases, select.POLLIN)
    if listener_fd is not None:
        # With no event asked for, poll still tells when the other end has gone.
        poller.register(listener_fd, 0)
    ended = False
    while not ended:
        left = deadline - time.monotonic()
        events = poller.poll(max(0.0, left * 1000)) if left > 0 else []
        if not events:
            break
        for fd, _ in events:
            if fd != phases:
                raise HangupError
            chunk = os.read(phases, 4096)
            text += chunk
            ended = not chunk
            if on_phase is not None:
                for line in chunk.decode("utf-8", "replace").splitlines():
                    on_phase(line)
    phase = text.decode("utf-8", "replace").splitlines()[-1]
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise ModelFailedError(
            f"did not answer within {timeout_s:g} s while {phase} and was stopped"
        ) from None
    return phase


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL)"
    if code < 0:
        try:
            return f"crashed with {signal.Signals(-code).name}"
        except ValueError:
            return f"crashed with signal {-code}"
    return f"ended with exit code {code}"


def _killer(before: int | None) -> str:
    """Who sent a SIGKILL that is not ours: the kernel counts those it sends for want of memory."""
    now = killed_for_memory(Path("/"))
    if before is None or now is None:
        return ": most likely the device ran out of memory"
    if now > before:
        return ": the kernel killed it, the device ran out of memory"
    return ": not by the kernel for want of memory, which it would have counted"


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _STDERR_TAIL_BYTES))
        return file.read()


def _last_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {one_line(lines[-1])}" if lines else ""
