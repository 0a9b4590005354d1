"""Locks the device's clocks on request, and gives them back whatever happens.

A guardian in a session of its own holds the end of a pipe: when the agent ends in any way, also by
SIGKILL, the pipe closes and the guardian writes the old settings back. Only a guardian that is
killed too, or a power cut, leaves them; the settings are the kernel's, and a restart forgets them.

Source: the Linux kernel's admin-guide/pm/cpufreq.rst and intel_pstate.rst; NVIDIA's L4T developer
guide (jetson_clocks).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from .device.files import text
from .device.frequency import policies
from .errors import AgentError, one_line

_JETSON_CLOCKS = "usr/bin/jetson_clocks"
_TURBO = (
    ("sys/devices/system/cpu/intel_pstate/no_turbo", "1"),
    ("sys/devices/system/cpu/cpufreq/boost", "0"),
)
_TOOL_LIMIT_S = 60.0
_GUARDIAN_LIMIT_S = 70.0
_READY = b"ready\n"
_BOOT = "import sys; sys.path[0] = {root!r}; from {package}.clocks import guard; guard(sys.argv[1])"

# The files to write back, with what was in them, in the order in which they were to be changed.
_Settings = List[Tuple[str, str]]


@contextlib.contextmanager
def locked_clocks(root: Path, asked: bool = True) -> Iterator[None]:
    """Lock the clocks for as long as this lasts, where that is `asked` for.

    Turbo off, the performance governor, least = most frequency; on a Jetson what `jetson_clocks`
    does. Raises AgentError where there is nothing to lock, or no permission; then all is as it was.
    """
    if not asked:
        yield
        return
    tool = root / _JETSON_CLOCKS
    if not tool.is_file():
        with _guardian({"settings": _settings(root)}):
            _lock(root)
            yield
        return
    # It asks before it overwrites a file: the folder is new.
    stored = str(Path(tempfile.mkdtemp(prefix="edgebench-clocks-"), "stored"))
    with _guardian({"tool": str(tool), "stored": stored}):
        _run(tool, "--store", stored)
        _run(tool)
        yield


def guard(job: str) -> None:
    """The guardian: wait until standard input ends, then restore what the JSON text `job` names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, _READY)
    while os.read(0, 4096):
        pass
    restore(json.loads(job))


def restore(job: Dict[str, Any]) -> None:
    """Put back what a guardian's `job` names; a file that refuses does not stop the rest."""
    if "tool" in job:
        stored = Path(job["stored"])
        if stored.exists():
            with contextlib.suppress(AgentError):
                _run(Path(job["tool"]), "--restore", str(stored))
        shutil.rmtree(str(stored.parent), ignore_errors=True)
        return
    # A limit is refused while another one contradicts it: go through them until none does.
    for _ in range(3):
        for name, value in reversed(job["settings"]):
            if text(Path(name)) != value:
                with contextlib.suppress(OSError):
                    _write(Path(name), value)


def _settings(root: Path) -> _Settings:
    files = [root / name for name, _ in _TURBO]
    for policy in policies(root):
        files += [
            policy / "scaling_governor",
            policy / "scaling_min_freq",
            policy / "scaling_max_freq",
        ]
    found = [(str(file), value) for file in files for value in [text(file)] if value is not None]
    if not found:
        raise AgentError(
            "runtime",
            "protocol.lock_clocks: this device shows no settings of its clocks (a virtual machine, "
            "or a container without /sys): leave lock_clocks out",
        )
    return found


def _lock(root: Path) -> None:
    """Turbo first: it moves the limits that are read after it."""
    for name, off in _TURBO:
        if (root / name).is_file() and text(root / name) != off:
            _set(root / name, off)
    for policy in policies(root):
        offered = (text(policy / "scaling_available_governors") or "").split()
        if "performance" in offered and text(policy / "scaling_governor") != "performance":
            _set(policy / "scaling_governor", "performance")
        most = text(policy / "scaling_max_freq")
        if most is not None and text(policy / "scaling_min_freq") != most:
            _set(policy / "scaling_min_freq", most)


def _set(file: Path, value: str) -> None:
    try:
        _write(file, value)
    except OSError as error:
        raise AgentError(
            "runtime",
            f"protocol.lock_clocks: {file} cannot be set ({error.strerror}): run the agent as root "
            "with /sys writable, or leave lock_clocks out",
        ) from error


def _write(file: Path, value: str) -> None:
    # Without O_CREAT: it is a setting of the kernel, not a file to be made.
    handle = os.open(str(file), os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(handle, f"{value}\n".encode())
    finally:
        os.close(handle)


def _run(tool: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(
            [str(tool), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TOOL_LIMIT_S,
            check=False,
        )
        said, code = done.stdout.decode("utf-8", "replace"), done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        said, code = str(error), -1
    if code != 0:
        raise AgentError(
            "runtime",
            f"protocol.lock_clocks: {tool.name} failed ({one_line(said, 200)}): run the agent as "
            "root, or leave lock_clocks out",
        )


@contextlib.contextmanager
def _guardian(job: Dict[str, Any]) -> Iterator[None]:
    """A process that restores when this block, or this process, ends."""
    package = __package__ or ""
    root = Path(__file__).parents[package.count(".") + 1].absolute()
    guardian = subprocess.Popen(
        [sys.executable, "-c", _BOOT.format(root=str(root), package=package), json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    assert guardian.stdin is not None  # noqa: S101 -- both are pipes
    assert guardian.stdout is not None  # noqa: S101
    try:
        if guardian.stdout.readline() != _READY:
            raise AgentError("runtime", "protocol.lock_clocks: the guardian could not be started")
        yield
    finally:
        guardian.stdin.close()
        try:
            guardian.wait(_GUARDIAN_LIMIT_S)
        except subprocess.TimeoutExpired:
            guardian.kill()
            guardian.wait()
        guardian.stdout.close()
        if guardian.returncode != 0:
            restore(job)
