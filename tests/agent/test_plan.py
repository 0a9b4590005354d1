"""The whole plan with real workers and real models."""

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

import numpy as np
import pytest

from edgebench.agent.errors import AgentError
from edgebench.agent.plan import run_plan
from edgebench.agent.supervise import run_worker

ROOT = Path(__file__).resolve().parents[2]
FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_worker.py"))]


@pytest.fixture(scope="module")
def models(bundles: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    make = bundles.classifier
    broken = folder / "broken.onnx"
    broken.write_bytes(b"not a model")
    return {
        "base": make(folder / "base.onnx"),
        "small": make(folder / "small.onnx", seed=1),
        "fixed-1": make(folder / "fixed1.onnx", batch=1),
        "fixed-8": make(folder / "fixed8.onnx", batch=8),
        "tall": make(folder / "tall.onnx", rank3=True),
        "log": make(folder / "log.onnx", log=True),
        "greedy": make(folder / "greedy.onnx", greedy=True),
        "broken": broken,
    }


def run(bundle: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_plan(bundle, out, events.append, **options)
    return events


def result(out: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((out / name / "result.json").read_text())
    return value


@pytest.fixture(scope="module")
def measured(
    bundles: ModuleType, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[dict[str, Any]]]:
    """One run that many tests look at: bundle, results, events."""
    folder = tmp_path_factory.mktemp("measured")
    chosen = {name: models[name] for name in ("base", "small", "fixed-8")}
    bundle = bundles.make_bundle(folder / "bundle", chosen, untimed=("fixed-8",), examples=101)
    return bundle, folder / "out", run(bundle, folder / "out")


def test_events_tell_what_happens(measured: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    events = measured[2]
    assert [e["event"] for e in events] == [
        *("start", "model", "process", "process", "done"),
        *("model", "process", "process", "done"),
        *("model", "process", "done", "end"),
    ]
    assert events[0]["models"] == ["base", "small", "fixed-8"]
    assert events[3] | {"seconds_left": 0} == {
        "event": "process",
        "name": "base",
        "process": 1,
        "of": 2,
        "seconds_left": 0,
    }
    assert events[4]["status"] == "measured"


def test_result_holds_what_the_format_says(
    measured: tuple[Path, Path, list[dict[str, Any]]],
) -> None:
    found = result(measured[1], "small")
    assert set(found) == {
        *("schema", "name", "key", "status", "problem", "valid", "invalid_reasons"),
        *("cold", "evidence", "seconds"),
    }
    assert (found["schema"], found["status"]) == ("edgebench.result/1", "measured")
    assert found["valid"] is (found["invalid_reasons"] == [])
    assert len(found["cold"]) == 2
    for cold in found["cold"]:
        assert 0 < cold["first_inference_ms"] < 1000
        assert 0 < cold["load_ms"] < 10_000
        assert 0 < cold["before_load_mib"] <= cold["peak_memory_mib"]
    evidence = found["evidence"]
    assert evidence["providers"] == ["CPUExecutionProvider"]
    assert evidence["rechecked"] == 8
    assert evidence["recheck_max_abs_difference"] == 0.0
    assert evidence["rotated"] == 4
    assert set(evidence["cpu"]) <= os.sched_getaffinity(0)


def test_samples_hold_what_the_format_says(
    measured: tuple[Path, Path, list[dict[str, Any]]],
) -> None:
    with np.load(measured[1] / "small/samples.npz", allow_pickle=False) as samples:
        found = {name: samples[name] for name in samples.files}
    assert found["block_process"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found["block_pair"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert found["block_arm"].tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert {k: v.dtype.name for k, v in found.items()} == {
        "block_process": "int32",
        "block_pair": "int32",
        "block_arm": "int32",
        "block_phase": "int32",
        "block_cause": "int32",
        "block_start_ns": "int64",
        "sample_block": "int32",
        "sample_ns": "float64",
        "inner": "int64",
        "single_process": "int32",
        "single_ns": "int64",
    }
    assert set(found["sample_block"].tolist()) == set(range(8))
    assert len(found["sample_ns"]) == len(found["sample_block"])
    assert (found["sample_ns"] > 0).all()
    assert found["inner"].shape == (2,)
    inner = result(measured[1], "small")["evidence"]["inner"]
    spanned = found["sample_ns"] * inner
    resolution = result(measured[1], "small")["evidence"]["timer_resolution_ns"]
    assert inner == found["inner"][0]
    assert np.median(spanned) > 100 * resolution


def measured_alone(
    bundles: ModuleType, models: dict[str, Path], folder: Path, **options: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """result.json and samples of a model beside a copy of itself."""
    chosen = {"base": models["base"], "copy": models["base"]}
    bundle = bundles.make_bundle(folder / "bundle", chosen, **options)
    run(bundle, folder / "out")
    with np.load(folder / "out/copy/samples.npz", allow_pickle=False) as samples:
        return result(folder / "out", "copy"), {name: samples[name] for name in samples.files}


def test_a_missed_limit_is_measured_again_in_fresh_processes(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    found, samples = measured_alone(
        bundles,
        models,
        tmp_path,
        processes=6,
        pairs=1,
        confirm=True,
        # No model takes a thousandth of its own time: the limit is missed both times.
        limits={"latency_ratio": {"min": None, "max": 0.001}},
    )
    assert found["evidence"]["confirmation"]["missed_again"] is True
    assert len(found["cold"]) == 12
    assert samples["block_process"].tolist() == [p for p in range(12) for _ in range(2)]
    assert samples["block_phase"].tolist() == [0] * 12 + [1] * 12


def test_a_met_limit_is_not(bundles: ModuleType, models: dict[str, Path], tmp_path: Path) -> None:
    limits = {"latency_ratio": {"min": None, "max": 100.0}}
    options: dict[str, Any] = {"processes": 6, "pairs": 1, "confirm": True, "limits": limits}
    found, samples = measured_alone(bundles, models, tmp_path, **options)
    assert "confirmation" not in found["evidence"]
    assert set(samples["block_phase"].tolist()) == {0}


@pytest.mark.parametrize(
    ("options", "processes", "why"),
    [
        ({"half_width": 1e9, "max_processes": 9}, 7, "precise enough"),
        ({"half_width": 1e-9, "max_processes": 7}, 7, "the most processes"),
        ({"half_width": 1e-9, "max_processes": 99, "time_cap_s": 0.001}, 6, "the time cap"),
        ({}, 6, "all processes"),
    ],
)
def test_it_stops_on_precision_or_at_a_cap(
    bundles: ModuleType,
    models: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    processes: int,
    why: str,
) -> None:
    found, samples = measured_alone(bundles, models, tmp_path, processes=6, pairs=1, **options)
    assert found["evidence"]["stopped"] == why
    assert len(found["cold"]) == processes
    assert samples["block_process"].max() == processes - 1


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"processes": 6, "half_width": 1e-9, "max_processes": 9}, 7),
        ({"processes": 8, "max_processes": 8}, 0),
    ],
)
def test_a_late_failure_loses_nothing_that_is_enough_without_it(
    bundles: ModuleType,
    models: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    kept: int,
) -> None:
    chosen = {"base": models["base"], "dies-in-process-8": models["small"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, pairs=1, **options)
    run(bundle, tmp_path / "out", command=FAULTY)
    found = result(tmp_path / "out", "dies-in-process-8")
    assert found["valid"] is False
    if kept:
        assert found["status"] == "measured"
        assert len(found["cold"]) == kept
        assert found["invalid_reasons"][0].startswith("process 8 was killed (SIGKILL) while")
    else:
        assert found["status"] == "failed"
        assert found["problem"].startswith("was killed (SIGKILL) while")


def test_larger_batches_are_timed(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "fixed-8": models["fixed-8"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, batch=8)
    run(bundle, tmp_path / "out")
    found = result(tmp_path / "out", "fixed-8")
    assert (found["status"], found["evidence"]["batch"]) == ("measured", 8)
    assert found["evidence"]["recheck_max_abs_difference"] < 1e-5


def test_what_ran_is_evidence(bundles: ModuleType, models: dict[str, Path], tmp_path: Path) -> None:
    found, _ = measured_alone(bundles, models, tmp_path, inspect=True)
    inspection = found["evidence"]["inspection"]
    assert set(inspection["nodes"]) == {"CPUExecutionProvider"}
    assert sum(inspection["nodes"]["CPUExecutionProvider"].values()) > 0
    assert inspection["integer_operators"] == {}


class Meter:
    """Stands in for a sensor, which virtual machines have not: 5 W idle, 7 W under load."""

    sensors = ("fake",)

    def __init__(self, root: Path, *, cards: bool) -> None:
        # Nothing runs on a card here, so none may be counted.
        assert not cards
        self.windows = 0

    def start(self) -> None:
        self.windows += 1

    def stop(self) -> dict[str, Any]:
        seconds = {1: 10.0, 2: 20.0}[self.windows]
        watts = {1: 5.0, 2: 7.0}[self.windows]
        return {
            "sensor": "fake",
            "kind": "counter",
            "scope": ["package-0"],
            "rate_hz": None,
            "seconds": seconds,
            "joules": watts * seconds,
            "watts": watts,
            "problem": None,
        }


def test_energy_is_that_of_the_queries_beyond_the_idle_device(
    bundles: ModuleType,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgebench.agent.one_model.EnergyMeter", Meter)
    found, _ = measured_alone(bundles, models, tmp_path, energy_s=0.05, idle_s=0.01)
    energy = found["evidence"]["energy"]
    assert energy["queries"] > 0
    assert energy["energy_mj"] == pytest.approx(40_000 / energy["queries"])
    assert energy["idle"]["watts"] == 5.0


def test_without_a_sensor_there_is_no_energy(
    bundles: ModuleType,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Meter, "sensors", ())
    monkeypatch.setattr("edgebench.agent.one_model.EnergyMeter", Meter)
    found, _ = measured_alone(bundles, models, tmp_path, energy_s=0.05, idle_s=0.01)
    assert found["evidence"]["energy"] is None
    assert bundles.faults(found) == []


def test_scenarios_follow_the_pairs(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    from edgebench.scenario import resolve_scenarios

    listed = [
        {"scenario": "server", "qps": 500, "duration_s": 0.02, "min_queries": 5},
        {"scenario": "offline", "batch": 4, "duration_s": 0.01, "min_queries": 2},
    ]
    specs = resolve_scenarios(listed, profile="quick", batch=1, where="test")
    scenarios = [spec.model_dump(mode="json") for spec in specs]
    found, _ = measured_alone(bundles, models, tmp_path, scenarios=scenarios)
    assert [s["spec"]["label"] for s in found["scenarios"]] == ["server-qps500", "offline-b4"]
    assert [s["problem"] for s in found["scenarios"]] == [None, None]
    with np.load(tmp_path / "out/copy/scenarios.npz", allow_pickle=False) as times:
        assert set(times["scenario"].tolist()) == {0, 1}
        assert set(times["process"].tolist()) == {0, 1}
        assert (times["end_ns"] >= times["start_ns"]).all()


def test_outputs_are_those_of_the_runtime(
    measured: tuple[Path, Path, list[dict[str, Any]]],
) -> None:
    import onnxruntime

    bundle, out, _ = measured
    inputs = np.load(bundle / "inputs.npy")
    session = onnxruntime.InferenceSession(str(bundle / "models/small.onnx"))
    expected = session.run(None, {"x": inputs})[0]
    found = np.load(out / "small/outputs.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # 101 inputs in batches of 8: the last one is filled up and cut again.
    assert np.load(out / "fixed-8/outputs.npy").shape == (101, 4)


def test_untimed_model_has_outputs_only(measured: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    found = result(measured[1], "fixed-8")
    assert (found["status"], found["cold"]) == ("measured", [])
    assert not (measured[1] / "fixed-8/samples.npz").exists()


def test_no_working_files_are_left(measured: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    names = sorted(p.name for p in measured[1].rglob("*") if p.is_file())
    assert names == sorted(
        [".lock", "device.json", *["outputs.npy", "result.json"] * 3, *["samples.npz"] * 2]
    )


def test_second_run_leaves_finished_models_as_they_are(
    measured: tuple[Path, Path, list[dict[str, Any]]],
) -> None:
    bundle, out, _ = measured
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*")}
    done = [e for e in run(bundle, out) if e["event"] == "done"]
    assert [e["reused"] for e in done] == [True, True, True]
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*")} == before


def test_latency_is_never_served_from_another_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, processes=1)
    out = tmp_path / "out"
    keys = set()
    changes: list[dict[str, Any]] = [
        {},
        {"run_id": "20260101T000000-ffffff"},
        {"seed": 1},
        {"protocol__pairs": 1},
    ]
    for change in changes:
        bundles.edit_manifest(bundle, **change)
        done = [e for e in run(bundle, out) if e["event"] == "done"]
        assert [e["reused"] for e in done] == [False]
        keys.add(result(out, "base")["key"])
    assert len(keys) == len(changes)


def test_half_written_results_are_done_again(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(
        tmp_path / "bundle", {"base": models["base"], "small": models["small"]}, processes=1
    )
    out = tmp_path / "out"
    run(bundle, out)
    (out / "base/outputs.npy").unlink()
    (out / "small/result.json").write_text("{")
    done = [e for e in run(bundle, out) if e["event"] == "done"]
    assert [e["reused"] for e in done] == [False, False]
    assert (out / "base/outputs.npy").is_file()


PROBLEMS = {
    "broken": "ONNX Runtime cannot load the model: ",
    "tall": "output 'y' has shape [1, 1, 4]; a classifier gives [N, classes]",
    "fixed-8": "its batch is fixed at 8, and latency is measured at batch 1",
    "segfault": "crashed with SIGSEGV while loading",
    "segfault-first": "crashed with SIGSEGV while running its first inference",
    "killed": "was killed (SIGKILL) while loading: ",
    "leaves": "ended without a result while loading",
    "exits": "ended with exit code 3 while loading: "
    "libsomething.so.9: cannot open shared object file",
    "out-of-memory": "the device ran out of memory",
    "greedy": "ONNX Runtime cannot run the model: ",
    "fails-later": "line one line two",
    "fails-when-timed": "ONNX Runtime failed inside the timed phase: the device fell off the bus",
    "dies-when-timed": "was killed (SIGKILL) while warming up: ",
    "clock-goes-back": "cannot be timed: the device's clock went back by 9",
    "another-shape": "output 'y' has shape [3] an example, and had [4] before",
    "another-shape-when-timed": "an answer inside the timed phase has shape [1, 3], the same input",
}
DOUBTS = {
    "leaks": "it leaks memory",
    "throttles": "the device slowed itself down in 4 of 4 blocks of a process",
}


@pytest.fixture(scope="module")
def troubled(
    bundles: ModuleType, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of a run in which most models cannot be measured."""
    folder = tmp_path_factory.mktemp("troubled")
    chosen = {name: models.get(name, models["small"]) for name in PROBLEMS}
    doubtful = dict.fromkeys(DOUBTS, models["small"])
    chosen = {"base": models["base"], **chosen, **doubtful, "log": models["log"]}
    chosen["after"] = models["fixed-1"]
    bundle = bundles.make_bundle(folder / "bundle", chosen, processes=1, pairs=2)
    run(bundle, folder / "out", command=FAULTY)
    return folder


@pytest.mark.parametrize("name", PROBLEMS)
def test_model_that_cannot_be_measured_says_why(troubled: Path, name: str) -> None:
    failed = result(troubled / "out", name)
    assert (failed["status"], failed["valid"]) == ("failed", False)
    assert failed["problem"].startswith(PROBLEMS[name])
    assert "\n" not in failed["problem"]
    assert [p.name for p in (troubled / "out" / name).iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", DOUBTS)
def test_measurement_that_is_no_evidence_says_why(troubled: Path, name: str) -> None:
    found = result(troubled / "out", name)
    assert (found["status"], found["valid"]) == ("measured", False)
    assert DOUBTS[name] in " ".join(found["invalid_reasons"])


def test_the_others_go_on(troubled: Path) -> None:
    assert result(troubled / "out", "base")["status"] == "measured"
    assert result(troubled / "out", "after")["status"] == "measured"


def test_outputs_that_are_not_numbers_are_counted(troubled: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(troubled / "bundle/models/log.onnx"))
    outputs = session.run(None, {"x": np.load(troubled / "bundle/inputs.npy")})[0]
    bad = int((~np.isfinite(outputs).all(axis=1)).sum())
    problem = result(troubled / "out", "log")["problem"]
    assert problem == f"{bad} of 100 outputs are not finite"


def test_worker_that_hangs_is_stopped(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "hang": models["small"]}
    bundle = bundles.make_bundle(
        tmp_path / "bundle", chosen, untimed=("base", "hang"), timeout_s=2.0
    )
    run(bundle, tmp_path / "out", command=FAULTY)
    problem = result(tmp_path / "out", "hang")["problem"]
    assert problem == "did not answer within 2 s while loading and was stopped"
    assert processes_naming(str(tmp_path)) == []


def test_wrong_answers_while_being_timed_are_no_evidence(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "wrong-when-timed": models["small"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, processes=1, pairs=1)
    run(bundle, tmp_path / "out", command=FAULTY)
    found = result(tmp_path / "out", "wrong-when-timed")
    assert (found["status"], found["valid"]) == ("measured", False)
    assert found["invalid_reasons"] == [
        "the outputs inside the timed phase differ from those outside it (by 0.01)"
    ]


def test_remembered_answers_are_no_evidence(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    chosen = {"base": models["base"], "remembers": models["small"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, processes=6, pairs=1)
    run(bundle, tmp_path / "out", command=FAULTY)
    found = result(tmp_path / "out", "remembers")
    assert found["valid"] is False
    assert found["invalid_reasons"][0].endswith("answers are remembered")
    assert bundles.faults(result(tmp_path / "out", "base")) == []


def test_provider_that_is_silently_left_out_is_no_evidence(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    # The stand-in says it offers CUDA; the real ONNX Runtime below it then falls back by itself.
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, processes=1)
    bundles.edit_manifest(
        bundle, runtime__providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    run(bundle, tmp_path / "out", command=FAULTY)
    found = result(tmp_path / "out", "base")
    assert not found["valid"]
    assert found["invalid_reasons"] == [
        "CUDAExecutionProvider was asked for, but the session left it out "
        "and ran on CPUExecutionProvider"
    ]


def test_provider_that_is_not_offered_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    bundles.edit_manifest(bundle, runtime__providers=["ROCMExecutionProvider"])
    with pytest.raises(AgentError, match=r"does not offer ROCMExecutionProvider; it offers .*CPU"):
        run(bundle, tmp_path / "out")


def test_processor_that_is_not_there_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, cpu=[4000])
    with pytest.raises(AgentError, match=r"names processor 4000; this device offers \d"):
        run(bundle, tmp_path / "out")


def test_session_option_reaches_the_runtime(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, processes=1)
    long_key = "k" * 5000
    bundles.edit_manifest(bundle, runtime__session_config={long_key: "1"})
    run(bundle, tmp_path / "out")
    found = result(tmp_path / "out", "base")
    assert found["problem"].startswith("ONNX Runtime cannot load the model: ")


def test_results_folder_belongs_to_one_agent(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebench.agent import results

    monkeypatch.setattr(results, "_LOCK_WAIT_S", 0.0)
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    holder = results.Results(tmp_path / "out")
    try:
        with pytest.raises(AgentError, match="another agent is writing") as caught:
            run(bundle, tmp_path / "out")
    finally:
        holder.close()
    assert caught.value.code == "storage"


def test_results_that_cannot_be_written_are_a_storage_fault(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    with pytest.raises(AgentError, match="the results cannot be written") as caught:
        run(bundle, Path("/proc/edgebench-results"))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("kib", [64, 400])
def test_full_disk_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path, kib: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        bundle = bundles.make_bundle(
            tmp_path / "bundle", {"base": models["base"]}, examples=40_000, processes=1
        )
        with pytest.raises(AgentError, match=r"No space left|no space is left") as caught:
            run(bundle, disk / "out")
        assert caught.value.exit_code == 5
        assert not (disk / "out/base/result.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in command:
            found.append(int(entry.name))
    return found


def await_gone(text: str) -> list[int]:
    deadline = time.monotonic() + 10
    while processes_naming(text) and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes_naming(text)


def test_killed_agent_leaves_no_worker_and_the_next_one_goes_on(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
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
        while not processes_naming(f"{out}/.work/small") and time.monotonic() < deadline:
            time.sleep(0.01)
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    assert await_gone(str(out)) == []
    first = (out / "base/result.json").read_text()
    assert not (out / "small/result.json").exists()
    done = [e for e in run(bundle, out) if e["event"] == "done"]
    assert [(e["name"], e["reused"]) for e in done] == [("base", True), ("small", False)]
    assert (out / "base/result.json").read_text() == first


def test_agent_ends_when_nobody_reads_what_it_says(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
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
    assert await_gone(str(tmp_path / "o")) == []


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
