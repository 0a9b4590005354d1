"""The ssh transport against a real sshd on this machine."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgebench.errors import NotMeasuredError, UsageError
from edgebench.transports.base import Transport, TransportSpec, open_transport

RUN_ID = "20260101T000000-abcdef"


def transport(device: Any, **changes: Any) -> Transport:
    values = {"host": device.host, "python": sys.executable, "connect_timeout_s": 5.0}
    return open_transport(TransportSpec("board", "ssh", **{**values, **changes}))


@pytest.fixture
def bundle(bundles: ModuleType, tmp_path: Path) -> Path:
    base = bundles.classifier(tmp_path / "base.onnx")
    other = bundles.classifier(tmp_path / "other.onnx", seed=1)
    return bundles.make_bundle(
        tmp_path / "bundle with 'odd' [name]",
        {"base": base, "small": other, "independent-1": other},
        untimed=("independent-1",),
        processes=1,
    )


def await_no_agent(process_table: ModuleType) -> list[int]:
    """The agents that do not end; the shell that starts one names the run as well."""
    found: list[int] = process_table.await_gone(RUN_ID, "agent", without="sh\0-c")
    return found


def test_probe_describes_the_device_and_leaves_nothing_there(device: Any) -> None:
    found = transport(device).probe()
    assert found["schema"] == "edgebench.device/1"
    assert found["identity"]["runtime"]["name"] == "onnxruntime"
    assert list((device.home / ".cache/edgebench/agent").iterdir()) == []


def test_measures_there_and_fetches_each_model_when_it_is_done(
    device: Any, bundle: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    here = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            here.append((event["name"], (results / event["name"] / "result.json").is_file()))

    transport(device).measure(bundle, results, on_event)
    assert here == [("base", True), ("small", True), ("independent-1", True)]
    assert (results / "small/samples.npz").is_file()
    assert not (results / "independent-1/samples.npz").exists()
    assert json.loads((results / "device.json").read_text())["grade"] in "ABC"
    assert not (device.home / ".cache/edgebench/agent" / RUN_ID).exists()
    assert sorted(p.name for p in results.iterdir()) == [
        "base",
        "device.json",
        "independent-1",
        "small",
    ]


def test_environment_reaches_the_agent(device: Any, tmp_path: Path) -> None:
    fake = tmp_path / "onnxruntime.py"
    fake.write_text(
        "__version__ = '0.0.test'\ndef get_available_providers(): return ['CPUExecutionProvider']\n"
    )
    found = transport(device, env={"PYTHONPATH": str(tmp_path)}).probe()
    assert found["identity"]["runtime"]["version"] == "0.0.test"


def test_lost_connection_stops_the_device_and_the_next_run_goes_on(
    device: Any, bundle: Path, bundles: ModuleType, process_table: ModuleType, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    bundles.edit_manifest(bundle, protocol__block_s=0.1, protocol__pairs=5)

    def drop_in_second(event: dict[str, Any]) -> None:
        if event["event"] == "process" and event["name"] == "small":
            time.sleep(0.3)
            device.drop_connections()

    with pytest.raises(NotMeasuredError) as caught:
        transport(device).measure(bundle, results, drop_in_second)
    assert "connection was lost" in caught.value.line()
    assert "what was measured is kept; run the same command again" in caught.value.line()
    assert await_no_agent(process_table) == []
    assert (results / "base/result.json").is_file()
    assert not (results / "small/result.json").exists()

    first = (results / "base/result.json").read_text()
    done = []
    transport(device).measure(
        bundle, results, lambda e: done.append(e) if e["event"] == "done" else None
    )
    assert [(e["name"], e["reused"]) for e in done] == [
        ("base", True),
        ("small", False),
        ("independent-1", False),
    ]
    assert (results / "base/result.json").read_text() == first


def test_only_files_that_are_not_there_are_sent(
    device: Any, bundle: Path, process_table: ModuleType, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        transport(device).measure(bundle, tmp_path / "results", stop)
    assert await_no_agent(process_table) == []
    there = device.home / ".cache/edgebench/agent" / RUN_ID
    before = {p: p.stat().st_mtime_ns for p in (there / "bundle").rglob("*.onnx")}
    (there / "bundle/models/small.onnx").write_bytes(b"half")
    with pytest.raises(Stop):
        transport(device).measure(bundle, tmp_path / "results", stop)
    after = {p: p.stat().st_mtime_ns for p in (there / "bundle").rglob("*.onnx")}
    assert {p.name for p in after if after[p] != before[p]} == {"small.onnx"}
    assert (there / "bundle/models/small.onnx").read_bytes() == (
        bundle / "models/small.onnx"
    ).read_bytes()
    transport(device).measure(bundle, tmp_path / "results", lambda event: None)


def test_interrupt_leaves_nothing_running(
    device: Any, bundle: Path, bundles: ModuleType, process_table: ModuleType, tmp_path: Path
) -> None:
    bundles.edit_manifest(bundle, protocol__block_s=2.0)

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "process":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transport(device).measure(bundle, tmp_path / "results", interrupt)
    assert await_no_agent(process_table) == []


def test_alias_of_the_ssh_config(
    device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = device.host.partition("@")[0]
    config = tmp_path / "config"
    config.write_text(
        f"Host my-board\n  HostName 127.0.0.1\n  Port {device.port}\n  User {user}\n"
        + device.config.read_text()
    )
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", f"-F '{config}'")
    assert transport(device, host="my-board").probe()["schema"] == "edgebench.device/1"


def test_unknown_host_key(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = f"-F {device.config} -o UserKnownHostsFile={tmp_path / 'empty'}"
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", options)
    assert_refused(device, "its host key is not known here", "connect once by hand (ssh ")
    assert not (tmp_path / "empty").exists()


def test_changed_host_key(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, key = (device.folder / "user.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{device.port} {kind} {key}\n")
    options = f"-F {device.config} -o UserKnownHostsFile={tmp_path / 'known'}"
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", options)
    assert_refused(device, "its host key has changed", "ssh-keygen -R")


def test_refused_key(device: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    wrong = device.config.read_text().replace(str(device.folder / "user"), str(tmp_path / "none"))
    config.write_text(wrong)
    monkeypatch.setenv("EDGEBENCH_SSH_OPTIONS", f"-F {config}")
    assert_refused(device, "it refuses to log you in", "ssh-copy-id")


def test_refused_port(device: Any) -> None:
    user = device.host.partition("@")[0]
    assert_refused(device, "no ssh server listens", "start sshd", host=f"{user}@127.0.0.1:1")


def test_no_such_host(device: Any) -> None:
    assert_refused(device, "no host of this name", "~/.ssh/config", host="nowhere.invalid")


def test_server_that_never_answers_is_given_up(device: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"root@127.0.0.1:{silent.getsockname()[1]}"
        assert_refused(device, "does not answer", "reachable", host=host, connect_timeout_s=1.0)


def test_no_python(device: Any) -> None:
    missing = "/nowhere/python3"
    assert_refused(device, f"there is no {missing} there", "target.python=PATH", python=missing)


def test_python_too_old(device: Any) -> None:
    old = first_python("3.7", "3.6", "2.7")
    if old is None:
        pytest.skip("needs a Python older than 3.8")
    assert_refused(device, "3.8 or later is needed", "target.python=PATH", python=old)


def test_python_without_packages(device: Any) -> None:
    bare = first_python("3.8", "3.9", "3.12", "3.13")
    if bare is None:
        pytest.skip("needs a Python without numpy")
    assert_refused(device, "has no numpy and no onnxruntime", "-m pip install numpy", python=bare)


def test_full_disk_there(device: Any, bundle: Path, tmp_path: Path) -> None:
    # A stand-in for a device whose disk is full: its Python tells of one free byte.
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = - ] && exec {sys.executable} -c '
        '\'import os,sys; real = os.statvfs; sys.argv = ["-", *sys.argv[1:]];\n'
        'os.statvfs = lambda p: type("Full", (), {"f_bavail": 1, "f_frsize": 1})\n'
        'exec(sys.stdin.read())\' "$2" "$3"\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(NotMeasuredError, match="its disk has 0 MiB free, the bundle needs 1 MiB"):
        transport(device, python=str(python)).measure(bundle, tmp_path / "out", lambda e: None)


def test_no_ssh_client(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert_refused(device, "there is no ssh on this machine", "openssh-client")


def test_no_host_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="EDGEBENCH_MY_BOARD_HOST"):
        open_transport(TransportSpec("my-board", "ssh")).probe()


def test_nothing_stays_behind_here(device: Any) -> None:
    before = set(Path("/tmp").glob("eb-*"))
    transport(device).probe()
    assert set(Path("/tmp").glob("eb-*")) <= before


def assert_refused(device: Any, what: str, hint: str, **changes: Any) -> None:
    with pytest.raises(NotMeasuredError) as caught:
        transport(device, **changes).probe()
    line = caught.value.line()
    assert what in line
    assert hint in line
    assert "\n" not in line


def first_python(*versions: str) -> str | None:
    for version in versions:
        for path in sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python")):
            return str(path)
    return None
