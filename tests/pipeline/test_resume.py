"""A run that is killed at any moment is completed by the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebench.errors import BusyError, NotMeasuredError, StorageError, UsageError
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.main import Job
from edgebench.records import RunRecord
from edgebench.store import write_atomically

NewJob = Callable[..., Job]


def start(folder: Path) -> subprocess.Popen[bytes]:
    """`edgebench run` in a process of its own, in its own folder."""
    command = [sys.executable, "-m", "edgebench", "run", str(folder / "small.yaml")]
    return subprocess.Popen(
        [*command, "--out", str(folder / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and passes it on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def prepared(new_job: NewJob, tmp_path: Path) -> Path:
    new_job(tmp_path)
    return tmp_path


def test_killed_while_measuring(prepared: Path, new_job: NewJob) -> None:
    process = start(prepared)
    run = RunFolder(prepared / "run")
    wait_for(run.results / "independent-1" / "result.json", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = json.loads((run.results / "base" / "result.json").read_text())
    stamp = (run.results / "base" / "samples.npz").stat().st_mtime_ns
    run_id = json.loads(run.state_file.read_text())["run_id"]
    again = new_job(prepared)
    record = again.run()
    assert record.run_id == run_id
    assert any("going on with the unfinished run" in line for line in again.progress.lines)
    assert (run.results / "base" / "samples.npz").stat().st_mtime_ns == stamp
    assert json.loads((run.results / "base" / "result.json").read_text()) == first
    assert record.verdict == "GO"
    assert all(reused for step, reused in again.progress.steps if ": " in step)


def test_killed_while_building(
    prepared: Path, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = prepared / "cache"
    monkeypatch.setenv("EDGEBENCH_CACHE", str(cache))
    process = start(prepared)
    deadline = time.monotonic() + 120
    # Two whole entries: base is trained and exported, and something after it has begun.
    while len(list(cache.glob("*/*/entry.json"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in cache.glob("*/*/entry.json")}
    record = new_job(prepared).run()
    assert record.verdict == "GO"
    assert {p: p.stat().st_mtime_ns for p in done} == done


def test_interrupted_says_how_to_go_on(prepared: Path) -> None:
    process = start(prepared)
    wait_for(prepared / "run" / "results" / "device.json", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = errors.decode().strip().splitlines()
    assert lines[-1].startswith("edgebench: interrupted")
    assert "goes on from there" in lines[-1]
    deadline = time.monotonic() + 20
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)


def test_two_runs_in_one_folder(prepared: Path, new_job: NewJob) -> None:
    second = new_job(prepared)
    with RunFolder(prepared / "run").held(), pytest.raises(BusyError) as caught:
        second.run()
    assert "another run is writing to this folder" in caught.value.line()
    assert second.run().verdict == "GO"


def test_a_changed_plan_starts_anew(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = new_job(tmp_path)
    with one.folder.held():
        first = one.prepare(None).run_id
    two = new_job(tmp_path, "protocol.pairs=7")
    with two.folder.held():
        second = two.prepare(None).run_id
    assert first != second


def test_a_connection_that_breaks_keeps_what_was_measured(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fake: a wire that breaks at a chosen model cannot be had otherwise.
    from edgebench.transports.local import LocalTransport

    real = LocalTransport.measure

    def breaking(self, bundle, results, on_event):
        def watch(event):
            on_event(event)
            if event["event"] == "done" and event["name"] == "base":
                raise NotMeasuredError("the connection dropped")

        real(self, bundle, results, watch)

    monkeypatch.setattr(LocalTransport, "measure", breaking)
    with pytest.raises(NotMeasuredError):
        new_job(tmp_path).run()
    folder = tmp_path / "run" / "results" / "base"
    stamp = (folder / "samples.npz").stat().st_mtime_ns
    monkeypatch.setattr(LocalTransport, "measure", real)
    record: RunRecord = new_job(tmp_path).run()
    assert record.verdict == "GO"
    assert (folder / "samples.npz").stat().st_mtime_ns == stamp


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    # /dev/full is the kernel's own full disk: every write to it fails with ENOSPC.
    (tmp_path / f".x.{os.getpid()}.new").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full") as caught:
        write_atomically(tmp_path / "x", "text")
    assert "run again" in caught.value.line()
    assert not (tmp_path / "x").exists()


def test_no_permission_to_write(new_job: NewJob, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(StorageError) as caught:
        new_job(tmp_path).run()
    assert caught.value.exit_code == 5
    assert "\n" not in caught.value.line()


def test_a_verdict_does_not_outlive_the_next_run(new_job: NewJob, tmp_path: Path) -> None:
    new_job(tmp_path).run()
    folder = tmp_path / "run"
    assert (folder / "run.json").exists()
    again = new_job(tmp_path, "seed=1")
    with again.folder.held():
        again.prepare(None)
    for name in ("run.json", "report.html", "report.md", "junit.xml", "metrics.csv"):
        assert not (folder / name).exists()


def test_a_folder_of_the_users_is_left_alone(new_job: NewJob, tmp_path: Path) -> None:
    mine = tmp_path / "run" / "results"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="no run's"):
        new_job(tmp_path).run()
    assert (mine / "thesis.txt").read_text() == "precious"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["results"]


def test_a_damaged_state_begins_a_new_run(new_job: NewJob, tmp_path: Path) -> None:
    first = new_job(tmp_path).run()
    (tmp_path / "run" / "state.json").write_text("{")
    assert new_job(tmp_path).run().run_id != first.run_id
