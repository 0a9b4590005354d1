"""Scenario jobs on real ONNX Runtime sessions, and what they leave together."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes.base import Query
from edgebench.agent.scenarios import loops
from edgebench.agent.scenarios.jobs import measure_scenarios
from edgebench.agent.scenarios.worker import run_scenario
from edgebench.agent.worker import Work
from edgebench.pipeline.scenario_results import scenario_results
from edgebench.scenario import resolve_scenarios

PROTOCOL = {
    "warmup_s": 0.0,
    "warmup_cap_s": 0.05,
    "warmup_median": 0.02,
    "warmup_iqr": 0.1,
    "rotate": 4,
    "outputs_batch": 8,
    "recheck": True,
}
needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)


def specs(*listed: dict) -> list[dict]:
    given = [{"duration_s": 0.01, "min_queries": 5, **one} for one in listed]
    found = resolve_scenarios(given, profile="quick", batch=1, where="test")
    return [one.model_dump(mode="json") for one in found]


@pytest.fixture(scope="module")
def files(tmp_path_factory, bundles) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    bundles.classifier(folder / "base.onnx", seed=1)
    bundles.classifier(folder / "model.onnx", seed=2, hidden=32)
    bundles.classifier(folder / "fixed.onnx", seed=2, batch=1)
    inputs = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype("float32")
    np.save(folder / "inputs.npy", inputs)
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture
def one(files, tmp_path):
    """Does one scenario job, in this process."""
    phases = os.open(tmp_path / "phases", os.O_CREAT | os.O_WRONLY)

    def do(out: Path, changes: dict, model: str = "model") -> dict:
        out.mkdir()
        job = {
            "kind": "scenario",
            "model": files[model],
            "base": files["base"],
            "inputs": [files["inputs"]],
            "answers": "classes",
            "runtime": {
                "name": "onnxruntime",
                "providers": ["CPUExecutionProvider"],
                "threads": 1,
                "session_config": {},
                "auto": False,
            },
            "protocol": PROTOCOL,
            "seed": 0,
            **changes,
        }
        return run_scenario(Work(job, out, phases))

    yield do
    os.close(phases)


ALL = (
    {"scenario": "single-stream"},
    {"scenario": "multi-stream", "samples": 4},
    {"scenario": "server", "qps": 500},
    {"scenario": "server", "load": 0.2},
    {"scenario": "offline", "batch": 8},
)


def test_every_scenario_leaves_whole_results_that_the_host_can_read(one, tmp_path):
    asked = specs(*ALL)
    entries = json.loads(json.dumps(measure_scenarios(tmp_path, asked, 2, one)))
    results = scenario_results(entries, tmp_path, asked, relative="results/int8/scenarios.npz")
    assert [r.problem for r in results] == [None] * 5
    assert [r.label for r in results] == [
        "single-stream", "multi-stream-4", "server-qps500", "server-load0.2", "offline-b8",
    ]  # fmt: skip
    for result in results:
        assert result.processes == 2
        assert result.queries >= 10
        assert result.metrics["throughput_per_s"].point > 0
        assert len(result.evidence["runs"]) == 4
    assert results[2].offered_qps == 500
    # A share of its own capacity, found in each process anew.
    runs = results[3].evidence["runs"]
    assert len({run["offered_qps"] for run in runs}) == 4
    assert not (tmp_path / "loadgen.zip").exists()


def test_the_models_take_turns_in_coming_first(one, tmp_path):
    (spec,) = specs({"scenario": "single-stream"})
    for process in (0, 1):
        one(tmp_path / str(process), {"scenario": spec, "process": process})
        with np.load(tmp_path / str(process) / "scenario.npz") as arrays:
            began = [arrays["start_ns"][arrays["arm"] == arm][0] for arm in (0, 1)]
        assert (began[0] < began[1]) == (process == 0)


def test_a_batch_the_model_does_not_take_says_what_to_do(one, tmp_path):
    (spec,) = specs({"scenario": "offline", "batch": 8})
    job = {"scenario": spec, "process": 0}
    with pytest.raises(ModelFailedError, match="fixed at 1, and the scenario asks for batch 8"):
        one(tmp_path / "0", job, model="fixed")


def test_a_scenario_that_fails_leaves_the_others(one, tmp_path):
    asked = specs({"scenario": "offline", "batch": 8}, {"scenario": "single-stream"})
    entries = measure_scenarios(tmp_path, asked, 2, lambda out, job: one(out, job, model="fixed"))
    first, second = scenario_results(entries, tmp_path, asked, relative="x")
    assert "its batch is fixed at 1" in first.problem
    assert second.problem is None
    assert second.processes == 2


def test_a_scenario_that_fails_late_keeps_the_processes_it_had(one, tmp_path):
    asked = specs({"scenario": "single-stream"})

    def dies(out: Path, job: dict) -> dict:
        if job["process"] == 2:
            raise ModelFailedError("crashed with SIGSEGV while running single-stream")
        return one(out, job)

    (result,) = scenario_results(
        measure_scenarios(tmp_path, asked, 6, dies), tmp_path, asked, relative="x"
    )
    assert result.processes == 2
    assert not result.valid
    assert any("SIGSEGV" in reason for reason in result.invalid_reasons)
    assert result.metrics["p50_ms"].point > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "single-stream"},
        {"scenario": "multi-stream", "samples": 4},
        {"scenario": "server", "qps": 200},
        {"scenario": "offline"},
    ],
    ids=lambda settings: settings["scenario"],
)
def test_one_that_keeps_all_it_may_says_where_it_ended(one, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(loops, "MOST_QUERIES", 40)
    asked = specs({**settings, "duration_s": 900.0})
    entries = json.loads(json.dumps(measure_scenarios(tmp_path, asked, 1, one)))
    (result,) = scenario_results(entries, tmp_path, asked, relative="x")
    assert result.problem is None
    assert result.queries == 40
    assert [run["ended_at"] for run in result.evidence["runs"]] == [40, 40]


@pytest.mark.parametrize("driver", ["edgebench", pytest.param("loadgen", marks=needs_loadgen)])
@pytest.mark.parametrize("recheck", [True, False])
def test_an_answer_that_goes_wrong_under_load_is_noticed(
    one, tmp_path, monkeypatch, driver, recheck
):
    """A fake model that answers otherwise once it is bound: no real one does so on demand."""
    load = Work.load

    def altered(work, path):
        model = load(work, path)
        bind = model.bind

        def wrong(feed, answer):
            query = bind(feed, answer)
            return Query(
                query.write, lambda bound: query.run(), lambda: tuple(a + 1 for a in query.read())
            )

        monkeypatch.setattr(model, "bind", wrong)
        return model

    monkeypatch.setattr(Work, "load", altered)
    monkeypatch.setitem(PROTOCOL, "recheck", recheck)
    asked = specs({"scenario": "single-stream", "driver": driver})
    (entry,) = measure_scenarios(tmp_path, asked, 1, one)
    said = [reason for reason in entry["invalid_reasons"] if "differ" in reason]
    assert len(said) == recheck


def test_answers_that_are_right_are_not_doubted(one, tmp_path):
    asked = specs(*ALL)
    assert [e["invalid_reasons"] for e in measure_scenarios(tmp_path, asked, 1, one)] == [[]] * 5


def test_without_its_package_loadgen_names_what_to_install(one, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    (spec,) = specs({"scenario": "single-stream", "driver": "loadgen"})
    with pytest.raises(ModelFailedError, match="pip install mlcommons-loadgen") as caught:
        one(tmp_path / "0", {"scenario": spec, "process": 0})
    assert "\n" not in str(caught.value)


@needs_loadgen
@pytest.mark.parametrize(
    "settings",
    [
        {"scenario": "single-stream"},
        {"scenario": "multi-stream", "samples": 4, "batch": 2},
        {"scenario": "server", "qps": 400, "target_latency_ms": 50},
        {"scenario": "offline", "batch": 8},
    ],
    ids=lambda settings: settings["scenario"],
)
def test_loadgen_drives_the_same_query_and_its_result_comes_along(one, tmp_path, settings):
    asked = specs({**settings, "driver": "loadgen", "min_queries": 70})
    entries = json.loads(json.dumps(measure_scenarios(tmp_path, asked, 1, one)))
    (result,) = scenario_results(entries, tmp_path, asked, relative="x")
    assert result.problem is None
    assert result.queries > 10
    assert not any("differ" in reason for reason in result.invalid_reasons)
    for run in result.evidence["runs"]:
        said = run["loadgen"]
        assert said["validity"] in {"VALID", "INVALID"}
        assert said["percentiles_ms"]["50"] > 0
        assert said["errors"] == 0
        agreement = said["agreement"]
        offline = settings["scenario"] == "offline"
        assert run["ended_at"] is None
        assert agreement["queries"] == (1 if offline else said["queries"])
        # LoadGen's span holds ours and the way through Python's call; it cannot be shorter.
        assert agreement["median_difference_ns"] >= 0
    with zipfile.ZipFile(tmp_path / "loadgen.zip") as archive:
        folder = f"{asked[0]['label']}/0"
        assert sorted(archive.namelist()) == sorted(
            f"{folder}/{side}/mlperf_log_{log}.txt"
            for side in ("base", "model")
            for log in ("summary", "detail")
        )
        assert b"Result is" in archive.read(f"{folder}/model/mlperf_log_summary.txt")
