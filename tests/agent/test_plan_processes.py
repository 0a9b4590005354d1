"""The processes of a plan: killed, unread, asleep, and never left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from edgebench.agent.supervise import run_worker

ROOT = Path(__file__).resolve().parents[2]


def test_worker_that_hangs_is_stopped(
    bundles: ModuleType, process_table: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "hang": models["small"]}
    bundle = bundles.make_bundle(
        tmp_path / "bundle", chosen, untimed=("base", "hang"), timeout_s=2.0
    )
    bundles.run(bundle, tmp_path / "out", command=bundles.FAULTY)
    problem = bundles.result(tmp_path / "out", "hang")["problem"]
    assert problem == "did not answer within 2 s while loading and was stopped"
    assert process_table.naming(str(tmp_path)) == []


def test_killed_agent_leaves_no_worker_and_the_next_one_goes_on(
    bundles: ModuleType, process_table: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "small": models["small"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, processes=1, block_s=0.1)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-m", "edgebench.agent", "run", str(bundle), "--out", str(out)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    ) as agent:
        assert agent.stdout is not None
        for line in agent.stdout:
            if '"process"' in line and '"small"' in line:
                break
        # The worker of the second model is alive when its agent is killed.
        deadline = time.monotonic() + 10
        while not process_table.naming(f"{out}/.work/small") and time.monotonic() < deadline:
            time.sleep(0.01)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    assert process_table.await_gone(str(out)) == []
    first = (out / "base/result.json").read_text()
    assert not (out / "small/result.json").exists()
    done = [e for e in bundles.run(bundle, out) if e["event"] == "done"]
    assert [(e["name"], e["reused"]) for e in done] == [("base", True), ("small", False)]
    assert (out / "base/result.json").read_text() == first


def test_agent_ends_when_nobody_reads_what_it_says(
    bundles: ModuleType, process_table: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, block_s=5.0)
    agent = subprocess.Popen(
        [sys.executable, "-m", "edgebench.agent", "run", str(bundle), "--out", str(tmp_path / "o")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert agent.stdout is not None
    assert agent.stderr is not None
    while '"process"' not in agent.stdout.readline():
        pass
    agent.stdout.close()
    assert agent.wait(10) == 130
    assert agent.stderr.read() == ""
    agent.stderr.close()
    assert process_table.await_gone(str(tmp_path / "o")) == []


def test_worker_dies_with_its_parent(tmp_path: Path) -> None:
    job = {"parent": 1, "out": str(tmp_path), "cpu": [0]}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "edgebench.agent", "worker", str(tmp_path / "job.json"), "1"],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_agent_sleeps_while_a_worker_works(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text("import time; time.sleep(0.5)")
    out = tmp_path / "out"
    out.mkdir()
    (out / "raw.json").write_text('{"problem": null}')
    before = time.process_time()
    run_worker([sys.executable, str(script)], {"out": str(out)}, 30.0, None)
    assert time.process_time() - before < 0.1
