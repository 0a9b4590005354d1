"""Ranges: the extremes, the share asked for, or the least squared error; and none of nonsense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization.calibrate import load_tensors_data

from edgebench.errors import BuildError
from edgebench.quantization.calibration import (
    BINS,
    Calibration,
    activation_ranges,
    clip_weights,
    least_error_limits,
    least_error_range,
    percentile_range,
    save_ranges,
    weight_limits,
)
from edgebench.quantization.prepare import prepare
from edgebench.quantization.running import feed_for


def write(path: Path, entry: str, text: str, **weights: np.ndarray) -> Path:
    """A file in ONNX's text form, with these weights."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> g ({entry} x) => (float[N, M] y) {{ {text} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, path)
    return path


def ranges_of(path: Path, folder: Path, x: np.ndarray, *, symmetric: bool = False, **how):
    prepared = prepare(path, folder / "prepared.onnx")
    feed = feed_for(prepared.path, x, what="examples")
    return activation_ranges(prepared.path, feed, Calibration(**how), symmetric=symmetric)


def doubling(folder: Path) -> Path:
    """y = relu(2·x), so that every range is known."""
    text = "h = MatMul(x, w) y = Relu(h)"
    return write(folder / "double.onnx", "float[N, 4]", text, w=2 * np.eye(4, dtype=np.float32))


def test_extremes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    found = ranges_of(doubling(tmp_path), tmp_path, x)
    assert found["x"] == (x.min(), x.max())
    assert found["h"] == (2 * x.min(), 2 * x.max())
    assert found["y"] == (0, 2 * x.max())


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_an_outlier_is_left_out(tmp_path: Path, method: str) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, size=(50000, 4)).astype(np.float32)
    x[17, 2] = 1.5
    how = {"percentile": 99.9} if method == "percentile" else {}
    found = ranges_of(doubling(tmp_path), tmp_path, x, method=method, **how)
    assert found["x"] == (pytest.approx(-1, abs=0.05), pytest.approx(1, abs=0.05))


def test_percentiles_by_hand() -> None:
    hundred = np.ones(100, np.int64)
    # A tenth is left out, half of it at either end.
    assert percentile_range(hundred, (0.0, 100.0), 0.9, symmetric=False) == (5, 95)
    assert percentile_range(hundred, (-100.0, 100.0), 0.9, symmetric=True) == (-90, 90)
    assert percentile_range(hundred, (-3.0, 5.0), 1.0, symmetric=False) == (-3, 5)
    assert percentile_range(hundred, (-3.0, 5.0), 1.0, symmetric=True) == (-3, 5)
    # Nine in ten values are zero: what is left out is at the upper end.
    zeros = np.array([900, *[1] * 100])
    low, high = percentile_range(zeros, (0.0, 101.0), 0.9, symmetric=False)
    assert (low, high) == (0, 51)


def squared_error(x: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    integers = np.clip(np.round(x / scale) + zero, 0, 255)
    return float((((integers - zero) * scale - x) ** 2).mean())


@pytest.mark.parametrize("seed", range(3))
def test_the_least_error_is_found(seed: int) -> None:
    """Against every range on a grid, on the values themselves and not their histogram."""
    x = np.random.default_rng(seed).standard_t(3, size=20000)
    extremes = (float(x.min()), float(x.max()))
    counts, edges = np.histogram(x, BINS)
    low, high = least_error_range((edges[1:] + edges[:-1]) / 2, counts, extremes, symmetric=False)
    found = squared_error(x, low, high)
    grid = [
        squared_error(x, extremes[0] * a, extremes[1] * b)
        for a in np.geomspace(1, 0.05, 25)
        for b in np.geomspace(1, 0.05, 25)
    ]
    assert found < 1.02 * min(grid)
    assert found < squared_error(x, *extremes)


def test_symmetric_ranges_have_their_least_error_too() -> None:
    x = np.random.default_rng(0).standard_t(3, size=20000)
    counts, edges = np.histogram(x, BINS)
    extremes = (float(x.min()), float(x.max()))
    low, high = least_error_range((edges[1:] + edges[:-1]) / 2, counts, extremes, symmetric=True)

    def error(end: float) -> float:
        scale = end / 127
        return float(((np.clip(np.round(x / scale), -127, 127) * scale - x) ** 2).mean())

    end = max(-low, high)
    largest = max(-extremes[0], extremes[1])
    assert error(end) < 1.02 * min(error(largest * s) for s in np.geomspace(1, 0.01, 300))
    assert end < largest


def test_a_range_with_nothing_to_gain_is_kept() -> None:
    values = np.linspace(0, 1, BINS)
    found = least_error_range(values, np.ones(BINS, np.int64), (0.0, 1.0), symmetric=False)
    assert found == (0, pytest.approx(1, abs=0.06))


def test_weights_have_limits_of_the_least_error() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_t(2, size=(5, 400)).astype(np.float32)
    rows[3] = np.arange(-200, 200) / 200  # nothing to gain from clipping an even spread
    rows[4] = 0
    found = least_error_limits(rows, 64)

    def error(row: np.ndarray, end: float) -> float:
        scale = end / 64
        return float(((np.clip(np.round(row / scale), -64, 64) * scale - row) ** 2).sum())

    for row, end in zip(rows[:4], found, strict=False):
        largest = np.abs(row).max()
        assert error(row, end) <= 1.001 * min(error(row, largest * s) for s in (1, 0.9, 0.7, 0.5))
    assert (found[:3] < np.abs(rows[:3]).max(axis=1)).all()
    assert found[3] > 0.95
    assert found[4] == 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_clipped_along_their_own_axis(tmp_path: Path, per_channel: bool) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "conv": rng.standard_t(2, size=(4, 3, 3, 3)).astype(np.float32),
        "gemm": rng.standard_t(2, size=(6, 4)).astype(np.float32),
        "matmul": rng.standard_t(2, size=(6, 5)).astype(np.float32),
    }
    text = """
        a = Conv(x, conv)
        p = GlobalAveragePool(a)
        f = Flatten(p)
        g = Gemm <transB = 1> (f, gemm)
        y = MatMul(g, matmul)
    """
    source = write(tmp_path / "m.onnx", "float[N, 3, 8, 8]", text, **weights)
    prepared = prepare(source, tmp_path / "prepared.onnx")
    model = onnx.load(prepared.path)
    limits = weight_limits(prepared, limit=7, per_channel=per_channel)
    clip_weights(model, limits, [layer.node for layer in prepared.layers])
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, axis in (("conv", 0), ("gemm", 0), ("matmul", 1)):
        rows = np.moveaxis(weights[name], axis, 0).reshape(weights[name].shape[axis], -1)
        rows = rows if per_channel else rows.reshape(1, -1)
        ends = least_error_limits(rows, 7)
        clipped = np.clip(rows, -ends[:, None], ends[:, None])
        got = np.moveaxis(after[name], axis, 0).reshape(clipped.shape)
        np.testing.assert_array_equal(got, clipped)
        assert (got != rows).any()


@pytest.mark.parametrize("layers", [[], ["MatMul_0"], ["MatMul_0", "MatMul_2"]])
def test_only_weights_that_all_their_readers_quantize_are_clipped(
    tmp_path: Path, layers: list[str]
) -> None:
    text = "h = MatMul(x, w) r = Relu(h) y = MatMul(r, w)"
    weight = np.random.default_rng(0).standard_t(2, size=(8, 8)).astype(np.float32)
    prepared = prepare(write(tmp_path / "m.onnx", "float[N, 8]", text, w=weight), tmp_path / "p")
    model = onnx.load(prepared.path)
    clip_weights(model, weight_limits(prepared, limit=7, per_channel=True), layers)
    (after,) = (numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")
    assert bool((after != weight).any()) == (len(layers) == 2)


def test_ranges_survive_the_calibration_cache(tmp_path: Path) -> None:
    ranges = {"a": (-0.1, 1 / 3), "b": (0.0, 7e-12)}
    save_ranges(ranges, tmp_path / "ranges.json")
    back = load_tensors_data(tmp_path / "ranges.json")
    for name, wanted in ranges.items():
        got = [end.item() for end in back[name].range_value]
        assert got == [float(np.float32(v)) for v in wanted]
        assert back[name].range_value[0].dtype == np.float32


def test_an_activation_that_is_not_finite(tmp_path: Path) -> None:
    text = "h = MatMul(x, w) l = Log(h) y = Relu(l)"
    zeros = np.zeros((4, 4), np.float32)
    path = write(tmp_path / "log.onnx", "float[N, 4]", text, w=zeros)
    with pytest.raises(BuildError, match="the activation 'l' is not finite"):
        ranges_of(path, tmp_path, np.ones((4, 4), np.float32))


def test_the_file_is_not_changed(tmp_path: Path) -> None:
    path = doubling(tmp_path)
    ranges_of(path, tmp_path, np.ones((4, 4), np.float32), method="mse")
    assert [n.op_type for n in onnx.load(tmp_path / "prepared.onnx").graph.node] == [
        "MatMul",
        "Relu",
    ]
