"""How long a scenario may take, and what all its processes leave together."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.scenarios.jobs import (
    FIELDS,
    asked_seconds,
    call_seconds,
    measure_scenarios,
    scenario_seconds,
)
from edgebench.scenario import resolve_scenarios


def spec(**settings) -> dict:
    (one,) = resolve_scenarios([settings], profile="quick", batch=1, where="test")
    return one.model_dump(mode="json")


@pytest.mark.parametrize(
    ("settings", "call_s", "seconds"),
    [
        ({"scenario": "single-stream"}, 0.0, 2.0),
        ({"scenario": "single-stream"}, 0.001, 2.0),
        ({"scenario": "single-stream"}, 0.5, 60.0),
        ({"scenario": "multi-stream", "samples": 8, "batch": 2}, 0.5, 240.0),
        ({"scenario": "offline", "batch": 32}, 3.0, 12.0),
        ({"scenario": "server", "qps": 200}, 0.0, 2.0),
        ({"scenario": "server", "qps": 1}, 0.0, 120.0),
        ({"scenario": "server", "qps": 0.5, "min_queries": 10}, 9.0, 20.0),
        ({"scenario": "server", "load": 0.1}, 0.01, 12.0),
        ({"scenario": "server", "load": 2}, 0.1, 12.0),
    ],
)
def test_a_model_is_asked_until_it_has_its_time_and_its_queries(settings, call_s, seconds):
    assert asked_seconds(spec(**settings), call_s) == pytest.approx(seconds)
    # Both models, each in twice the time.
    assert scenario_seconds(spec(**settings), call_s) == pytest.approx(4 * seconds)


class TestOneInference:
    RAWS = (
        {"cold": {"first_inference_ms": 30.0}, "log_ratio": math.log(0.5)},
        {"cold": {"first_inference_ms": 50.0}, "log_ratio": math.log(0.25)},
        {"cold": None, "log_ratio": None},
    )

    def call(self, raws=RAWS, *, threads: int = 4, batch: int = 1, own: int = 4) -> float:
        job = {
            "scenario": spec(scenario="offline", batch=batch),
            "protocol": {"batch": 2},
            "runtime": {"threads": own},
        }
        return call_seconds(list(raws), job, threads)

    def test_takes_no_longer_than_the_first_of_the_slower_model(self):
        # Base takes four times the model's 50 ms.
        assert self.call() == pytest.approx(0.2)
        faster_base = [{**self.RAWS[1], "log_ratio": 1.0}]
        assert self.call(faster_base) == pytest.approx(0.05)

    def test_takes_longer_with_more_examples_or_fewer_threads(self):
        assert self.call(batch=8) == pytest.approx(4 * 0.2)
        assert self.call(own=1) == pytest.approx(4 * 0.2)
        assert self.call(own=8) == pytest.approx(0.2)

    def test_is_unknown_where_nothing_was_seen(self):
        assert self.call([]) == 0.0


def leaving(count: int):
    """Does a job by writing `count` queries, as the worker would."""

    def one(folder, job):
        folder.mkdir()
        if job["process"] == job["scenario"].get("fails"):
            raise ModelFailedError("crashed")
        number = np.arange(count, dtype=np.int64) + 10**6 * job["process"]
        np.savez(
            folder / "scenario.npz",
            process=np.full(count, job["process"], np.int32),
            arm=np.repeat(np.arange(2, dtype=np.int32), count // 2),
            scheduled_ns=number,
            start_ns=number + 1,
            end_ns=number + 2,
        )
        return {"runs": [], "invalid_reasons": []}

    return one


def test_all_processes_are_together_in_the_order_they_ran(tmp_path):
    measure_scenarios(tmp_path, [{"label": "a", "fails": 1}, {"label": "b"}], 2, leaving(4))
    with np.load(tmp_path / "scenarios.npz", allow_pickle=False) as merged:
        found = {name: merged[name] for name in merged.files}
    assert {name: array.dtype.name for name, array in found.items()} == FIELDS
    assert found["scenario"].tolist() == [0] * 4 + [1] * 8
    assert found["process"].tolist() == [0] * 4 + [0] * 4 + [1] * 4
    assert found["arm"].tolist() == [0, 0, 1, 1] * 3
    assert found["end_ns"][-4:].tolist() == [10**6 + 2 + i for i in range(4)]


def test_where_everything_failed_the_file_is_there_and_empty(tmp_path):
    measure_scenarios(tmp_path, [{"label": "a", "fails": 0}], 2, leaving(4))
    with np.load(tmp_path / "scenarios.npz", allow_pickle=False) as merged:
        assert {len(merged[name]) for name in FIELDS} == {0}


def test_joining_takes_no_more_memory_for_more_processes(tmp_path):
    """The agent's own process must not grow with what its workers leave."""
    peaks = []
    for processes in (2, 12):
        work = tmp_path / str(processes)
        work.mkdir()
        tracemalloc.start()
        measure_scenarios(work, [{"label": "a"}], processes, leaving(50_000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Ten processes more hold 18 MB.
    assert peaks[1] < peaks[0] + 2**20
