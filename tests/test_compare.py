from __future__ import annotations

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
        np.array(pair, np.int32),
        np.array(arm, np.int32),
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
    shuffled = compare.Samples(
        s.block_process,
        s.block_pair,
        s.block_arm,
        s.sample_block[order],
        s.sample_ns[order],
        s.single_process,
        s.single_ns,
    )
    assert compare.latency_ratio(shuffled) == compare.latency_ratio(s)


def test_latency_metrics_are_of_the_model_itself() -> None:
    found, intervals = compare.latency_metrics(samples(1e6, 2e6, processes=1, pairs=1))
    assert found["latency_p50_ms"] == pytest.approx(0.051)
    assert found["latency_p90_ms"] == pytest.approx(0.0902)
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
