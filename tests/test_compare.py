from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgebench import compare
from edgebench.metrics.activation_distance import distances
from edgebench.metrics.base import Outputs


def samples(
    base_ns: float, variant_ns: float, *, processes: int = 6, pairs: int = 4
) -> compare.Samples:
    """Blocks in ABBA order with a drift that only pairing cancels."""
    process, pair, arm, block, times = [], [], [], [], []
    drift = 1.0
    for p in range(processes):
        for k in range(pairs):
            for a in (0, 1) if (k + p) % 2 == 0 else (1, 0):
                index = len(arm)
                process.append(p)
                pair.append(k)
                arm.append(a)
                for jitter in (0.99, 1.0, 1.01):
                    block.append(index)
                    times.append((variant_ns if a else base_ns) * drift * jitter)
            drift *= 1.1
    return compare.Samples(
        np.array(process, np.int32),
        np.zeros(len(process), np.int32),
        np.array(pair, np.int32),
        np.array(arm, np.int32),
        np.zeros(len(process), np.int32),
        np.array(block, np.int32),
        np.array(times),
        np.repeat(np.arange(2, dtype=np.int32), 50),
        np.tile(np.arange(1, 51) * 2000, 2),
    )


def test_latency_ratio_of_interleaved_blocks() -> None:
    e = compare.latency_ratio(samples(1000, 700))
    assert e.point == pytest.approx(0.7)
    assert e.n == 6
    assert e.low <= e.point <= e.high


def test_samples_may_come_in_any_order() -> None:
    s = samples(1000, 700)
    order = np.random.default_rng(0).permutation(len(s.sample_ns))
    shuffled = replace(s, sample_block=s.sample_block[order], sample_ns=s.sample_ns[order])
    assert compare.latency_ratio(shuffled) == compare.latency_ratio(s)


def test_confirming_processes_are_a_measurement_of_their_own() -> None:
    s = samples(1000, 700)
    assert compare.confirmation(s) is None
    second = np.where(s.block_process >= 3, 1, 0).astype(np.int32)
    slower = np.where((second == 1)[s.sample_block] & (s.block_arm == 1)[s.sample_block], 2.0, 1.0)
    both = replace(s, block_phase=second, sample_ns=s.sample_ns * slower)
    assert compare.latency_ratio(both).point == pytest.approx(0.7)
    again = compare.confirmation(both)
    assert again is not None
    assert again.point == pytest.approx(1.4)
    assert (again.n, again.low) == (3, None)


def test_pairs_with_a_logged_cause_are_left_out() -> None:
    s = samples(1000, 700)
    slow = np.where((s.block_pair == 2) & (s.block_arm == 1), 3.0, 1.0)
    throttled = replace(s, sample_ns=s.sample_ns * slow[s.sample_block])
    cause = np.where((s.block_pair == 2) & (s.block_arm == 0), 1, 0).astype(np.int32)
    kept = replace(throttled, block_cause=cause)
    assert len(kept.paired_medians()[0]) == 18
    assert compare.latency_ratio(kept).point == pytest.approx(0.7)
    assert compare.timing_quality(kept, 0)["blocks_dropped"] == {"throttled": 6}
    none = replace(s, block_cause=np.ones_like(s.block_cause))
    assert compare.latency_ratio(none).point is None
    assert compare.timing_quality(none, 0)["bootstrap"] is None


def test_quality_names_outliers_and_a_second_interval() -> None:
    s = samples(1000, 700)
    spikes = s.single_ns.copy()
    spikes[:5] = 10**9
    found = compare.timing_quality(replace(s, single_ns=spikes), 0)
    assert found["tukey_outliers"] == 0.05
    assert found["bootstrap"]["low"] <= 0.7 + 1e-9
    assert found["bootstrap"]["high"] >= 0.7 - 1e-9


def test_latency_metrics_are_of_the_model_itself() -> None:
    found, intervals = compare.latency_metrics(samples(1e6, 2e6, processes=1, pairs=1))
    # Of the variant's blocks: a query timed by itself carries the clock.
    assert found["latency_p50_ms"] == pytest.approx(2.0, rel=0.02)
    assert found["latency_p90_ms"] == pytest.approx(0.09)
    assert found["latency_p99_ms"] is None
    assert found["throughput_per_s"] == pytest.approx(500, rel=0.02)
    assert intervals["latency_p50_ms"].low is None


def test_landscape_of_a_triangle_is_exact() -> None:
    labels = np.zeros(3, np.int64)

    def sure(k: int) -> Outputs:
        values = np.zeros((3, 3), np.float32)
        values[:, k] = 60
        return Outputs(values, labels)

    found = compare.landscape({"base": sure(0), "a": sure(1), "b": sure(2)})
    assert found is not None
    assert found.stress == pytest.approx(0, abs=1e-6)
    points = {name: np.array(p) for name, p in found.points.items()}
    assert np.allclose(points["base"], 0)
    assert np.linalg.norm(points["a"] - points["b"]) == pytest.approx(np.sqrt(2), rel=1e-6)


def test_a_model_far_beyond_the_controls_is_named_not_drawn() -> None:
    labels = np.zeros(2, np.int64)

    def at(tilt: float) -> Outputs:
        return Outputs(np.tile(np.array([[0, tilt]], np.float32), (2, 1)), labels)

    models = {"base": at(0), "c1": at(0.1), "c2": at(-0.1), "near": at(0.05), "far": at(9)}
    found = compare.landscape(models, ["c1", "c2"])
    assert found is not None
    assert set(found.points) == {"base", "c1", "c2", "near"}
    assert found.beyond == {"far": pytest.approx(np.sqrt(0.5), rel=1e-3)}
    assert compare.landscape(models).beyond == {}


def test_the_distance_from_base_is_exact() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(20, np.int64)
    models = {
        name: Outputs(rng.normal(size=(20, 5)).astype(np.float32), labels) for name in "abcdefg"
    }
    found = compare.landscape(models)
    assert found is not None
    assert found.stress > 0
    for name, point in found.points.items():
        wanted = distances(models[name], models["a"]).mean()
        assert np.linalg.norm(point) == pytest.approx(wanted, abs=1e-9)


def test_landscape_needs_three() -> None:
    labels = np.zeros(2, np.int64)
    one = Outputs(np.zeros((2, 2), np.float32), labels)
    assert compare.landscape({"base": one, "a": one}) is None


def test_landscape_of_identical_models_is_a_point() -> None:
    labels = np.zeros(2, np.int64)
    one = Outputs(np.zeros((2, 2), np.float32), labels)
    found = compare.landscape({"base": one, "a": one, "b": one})
    assert found is not None
    assert found.stress == 0
