from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgebench.errors import NotMeasuredError, StorageError, UnknownNameError
from edgebench.transports.base import TRANSPORTS, Transport, TransportSpec, open_transport

ROOT = Path(__file__).resolve().parents[2]


def local(**changes: Any) -> Transport:
    return open_transport(TransportSpec("cpu", "local", **changes))


@pytest.fixture
def bundle(bundles: ModuleType, tmp_path: Path) -> Path:
    base = bundles.classifier(tmp_path / "base.onnx")
    return Path(bundles.make_bundle(tmp_path / "bundle", {"base": base}, processes=1))


def test_registry_knows_all_transports() -> None:
    assert TRANSPORTS.names() == ["bundle", "local", "ssh"]
    with pytest.raises(UnknownNameError, match="did you mean 'ssh'"):
        open_transport(TransportSpec("board", "shh"))


def test_probe() -> None:
    found = local().probe()
    assert found["schema"] == "edgebench.device/1"
    assert found["grade"] in "ABC"


def test_measure_passes_events_on(bundle: Path, tmp_path: Path) -> None:
    events: list[str] = []
    local().measure(bundle, tmp_path / "results", lambda e: events.append(e["event"]))
    # Another measurement on this machine makes it wait, which it says.
    told = [event for event in events if event != "waiting"]
    assert told == ["start", "model", "process", "done", "end"]
    result = json.loads((tmp_path / "results/base/result.json").read_text())
    assert result["status"] == "measured"


def test_fault_of_the_agent_is_one_line(bundle: Path, tmp_path: Path) -> None:
    (bundle / "inputs.npy").write_bytes(b"damaged")
    with pytest.raises(NotMeasuredError, match=r"target 'cpu': inputs.npy is damaged"):
        local().measure(bundle, tmp_path / "results", lambda event: None)


def test_results_that_cannot_be_written_are_a_storage_error(bundle: Path) -> None:
    with pytest.raises(StorageError, match="the results cannot be written"):
        local().measure(bundle, Path("/proc/edgebench"), lambda event: None)


def test_python_that_cannot_be_started() -> None:
    with pytest.raises(NotMeasuredError, match=r"/nowhere/python cannot be started"):
        local(python="/nowhere/python").probe()


def test_agent_that_dies_without_a_word(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho last words >&2\nexit 7\n")
    python.chmod(0o755)
    with pytest.raises(NotMeasuredError, match="ended with exit code 7: last words"):
        local(python=str(python)).probe()


def test_environment_reaches_the_agent(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no wheel for this board')")
    with pytest.raises(NotMeasuredError, match=r"no wheel for this board.*pip install onnxruntime"):
        local(env={"PYTHONPATH": str(tmp_path)}).probe()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_interrupt_ends_everything(
    bundle: Path,
    bundles: ModuleType,
    process_table: ModuleType,
    tmp_path: Path,
    kind: type[BaseException],
) -> None:
    bundles.edit_manifest(bundle, protocol__block_s=20.0)

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "process":
            raise kind

    with pytest.raises(kind):
        local().measure(bundle, tmp_path / "results", interrupt)
    assert process_table.await_gone(str(tmp_path)) == []


def test_killed_parent_leaves_nothing_running(
    bundle: Path, bundles: ModuleType, process_table: ModuleType, tmp_path: Path
) -> None:
    bundles.edit_manifest(bundle, protocol__block_s=20.0)
    script = (
        "import sys; from pathlib import Path\n"
        "from edgebench.transports.base import TransportSpec, open_transport\n"
        "open_transport(TransportSpec('cpu', 'local')).measure(\n"
        "    Path(sys.argv[1]), Path(sys.argv[2]), lambda e: print(e['event'], flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(bundle), str(tmp_path / "results")],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline() != "process\n":
            pass
        os.kill(parent.pid, signal.SIGKILL)
    assert process_table.await_gone(str(tmp_path)) == []


def test_parent_sleeps_while_the_agent_measures(bundle: Path, tmp_path: Path) -> None:
    before = time.process_time()
    local().measure(bundle, tmp_path / "results", lambda event: None)
    assert time.process_time() - before < 0.25
