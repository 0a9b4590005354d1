"""Clocks of a recorded tree are locked by real processes, one of which is really killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebench.agent.clocks import locked_clocks
from edgebench.agent.device.frequency import lock_of
from edgebench.agent.errors import AgentError

TREES = Path(__file__).with_name("trees")
REPOSITORY = Path(__file__).parents[2]
RESTORED_WITHIN_S = 30


@pytest.fixture(params=["x86-server", "laptop", "raspberry-pi"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(TREES / request.param, tmp_path / "device"))


def contents(root: Path) -> dict[str, str]:
    """Every file of the tree; a setting is its words, whatever line end follows."""
    return {
        str(file.relative_to(root)): file.read_text().strip()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_locked_and_given_back(device: Path) -> None:
    before = contents(device)
    assert not lock_of(device).locked
    with locked_clocks(device):
        assert contents(device) != before
        policies = [p.parent for p in device.rglob("scaling_min_freq")]
        assert policies
        for policy in policies:
            assert (policy / "scaling_governor").read_text() == "performance\n"
            assert (policy / "scaling_min_freq").read_text().strip() == (
                policy / "scaling_max_freq"
            ).read_text().strip()
        turbo = device / "sys/devices/system/cpu/intel_pstate/no_turbo"
        assert not turbo.exists() or turbo.read_text() == "1\n"
        assert lock_of(device).locked
    assert contents(device) == before


def test_given_back_after_an_error(device: Path) -> None:
    before = contents(device)
    with pytest.raises(RuntimeError, match="measured nothing"), locked_clocks(device):
        raise RuntimeError("measured nothing")
    assert contents(device) == before


def test_nothing_is_touched_unless_asked(device: Path) -> None:
    before = contents(device)
    with locked_clocks(device, asked=False):
        assert contents(device) == before


HOLDER = """
import signal, sys, time
from pathlib import Path
# A shell's background jobs ignore an interrupt, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgebench.agent.clocks import locked_clocks
with locked_clocks(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_given_back_after_the_holder_is_killed(device: Path, number: signal.Signals) -> None:
    kill_the_holder(device, number)


def kill_the_holder(root: Path, number: signal.Signals) -> None:
    """A real process locks the clocks and is really killed; the tree has to be as it was."""
    before = contents(root)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert contents(root) != before
        # The whole group, as a terminal or a time limit would: the guardian is not in it.
        os.killpg(holder.pid, number)
        assert holder.wait(RESTORED_WITHIN_S) != 0
        deadline = time.monotonic() + RESTORED_WITHIN_S
        while contents(root) != before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert contents(root) == before
        # The guardian held no end of the holder's output: whoever reads it sees the end.
        assert holder.stdout.read() == ""
    finally:
        holder.kill()
        holder.wait()


def test_device_without_settings(tmp_path: Path) -> None:
    with (
        pytest.raises(AgentError, match="leave lock_clocks out") as caught,
        locked_clocks(tmp_path),
    ):
        pass
    assert caught.value.code == "runtime"


def test_half_locked_is_given_back(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that the kernel refuses; root, who may run the tests, is refused nothing."""
    before = contents(device)
    real = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if path.endswith("scaling_min_freq"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *rest)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(AgentError, match="as root") as caught, locked_clocks(device):
        pass
    assert "\n" not in caught.value.problem
    assert contents(device) == before


# Stands for NVIDIA's script, which is on no machine but a Jetson; same options, same behaviour.
JETSON_CLOCKS = """#!/bin/sh
cd "$(dirname "$0")/../../sys/class/devfreq/17000000.gpu" || exit 1
case "$1" in
--store) [ -e "$2" ] && exit 1; cp min_freq "$2" ;;
--restore) cp "$2" min_freq ;;
"") cp max_freq min_freq ;;
esac
"""


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    root = Path(shutil.copytree(TREES / "orin-nano", tmp_path / "orin"))
    tool = root / "usr/bin/jetson_clocks"
    tool.parent.mkdir(parents=True)
    tool.write_text(JETSON_CLOCKS)
    tool.chmod(0o755)
    return root


def test_jetson_is_locked_by_its_own_tool(orin: Path) -> None:
    before = contents(orin)
    gpu = orin / "sys/class/devfreq/17000000.gpu"
    with locked_clocks(orin):
        assert (gpu / "min_freq").read_text() == (gpu / "max_freq").read_text()
    assert contents(orin) == before


def test_jetson_is_given_back_after_a_kill(orin: Path) -> None:
    kill_the_holder(orin, signal.SIGKILL)


def test_jetson_without_permission(orin: Path) -> None:
    (orin / "usr/bin/jetson_clocks").write_text("#!/bin/sh\necho must be root; exit 1\n")
    before = contents(orin)
    refused = pytest.raises(AgentError, match=r"jetson_clocks failed \(must be root\)")
    with refused, locked_clocks(orin):
        pass
    assert contents(orin) == before
