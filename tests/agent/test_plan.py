"""The whole plan with real workers and real models."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def measured(
    bundles: ModuleType, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[dict[str, Any]]]:
    """One run that many tests look at: bundle, results, events."""
    folder = tmp_path_factory.mktemp("measured")
    chosen = {name: models[name] for name in ("base", "small", "fixed-8")}
    bundle = bundles.make_bundle(folder / "bundle", chosen, untimed=("fixed-8",), examples=101)
    return bundle, folder / "out", bundles.run(bundle, folder / "out")


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
    bundles: ModuleType, measured: tuple[Path, Path, list[dict[str, Any]]]
) -> None:
    found = bundles.result(measured[1], "small")
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
    bundles: ModuleType, measured: tuple[Path, Path, list[dict[str, Any]]]
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
    inner = bundles.result(measured[1], "small")["evidence"]["inner"]
    spanned = found["sample_ns"] * inner
    resolution = bundles.result(measured[1], "small")["evidence"]["timer_resolution_ns"]
    assert inner == found["inner"][0]
    assert np.median(spanned) > 100 * resolution


def measured_alone(
    bundles: ModuleType, models: dict[str, Path], folder: Path, **options: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """result.json and samples of a model beside a copy of itself."""
    chosen = {"base": models["base"], "copy": models["base"]}
    bundle = bundles.make_bundle(folder / "bundle", chosen, **options)
    bundles.run(bundle, folder / "out")
    with np.load(folder / "out/copy/samples.npz", allow_pickle=False) as samples:
        kept = {name: samples[name] for name in samples.files}
    return bundles.result(folder / "out", "copy"), kept


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
    bundles.run(bundle, tmp_path / "out", command=bundles.FAULTY)
    found = bundles.result(tmp_path / "out", "dies-in-process-8")
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
    bundles.run(bundle, tmp_path / "out")
    found = bundles.result(tmp_path / "out", "fixed-8")
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


def test_untimed_model_has_outputs_only(
    bundles: ModuleType, measured: tuple[Path, Path, list[dict[str, Any]]]
) -> None:
    found = bundles.result(measured[1], "fixed-8")
    assert (found["status"], found["cold"]) == ("measured", [])
    assert not (measured[1] / "fixed-8/samples.npz").exists()


def test_no_working_files_are_left(measured: tuple[Path, Path, list[dict[str, Any]]]) -> None:
    names = sorted(p.name for p in measured[1].rglob("*") if p.is_file())
    assert names == sorted(
        [".lock", "device.json", *["outputs.npy", "result.json"] * 3, *["samples.npz"] * 2]
    )


def test_second_run_leaves_finished_models_as_they_are(
    bundles: ModuleType, measured: tuple[Path, Path, list[dict[str, Any]]]
) -> None:
    bundle, out, _ = measured
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*")}
    done = [e for e in bundles.run(bundle, out) if e["event"] == "done"]
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
        done = [e for e in bundles.run(bundle, out) if e["event"] == "done"]
        assert [e["reused"] for e in done] == [False]
        keys.add(bundles.result(out, "base")["key"])
    assert len(keys) == len(changes)


def test_half_written_results_are_done_again(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(
        tmp_path / "bundle", {"base": models["base"], "small": models["small"]}, processes=1
    )
    out = tmp_path / "out"
    bundles.run(bundle, out)
    (out / "base/outputs.npy").unlink()
    (out / "small/result.json").write_text("{")
    done = [e for e in bundles.run(bundle, out) if e["event"] == "done"]
    assert [e["reused"] for e in done] == [False, False]
    assert (out / "base/outputs.npy").is_file()
