"""Find the ranges that activations and weights are quantized in.

Activations: their extremes, a percentile, or the range with the least mean squared error. Weights:
their extremes, or the range with the least mean squared error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization.calibrate import (
    CalibrationMethod,
    TensorData,
    TensorsData,
    create_calibrator,
    save_tensors_data,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgebench.errors import BuildError
from edgebench.quantization.onnx_graph import uses_of
from edgebench.quantization.prepare import Prepared, channel_axis
from edgebench.quantization.running import Feed, open_session, with_outputs

Method = Literal["minmax", "percentile", "mse"]
Range = tuple[float, float]
Ranges = dict[str, Range]
Limits = dict[str, NDArray[np.float32]]

# Sixteen to each of the 255 steps of a full range: rounding is seen, not only clipping.
BINS = 4096
# Shares of the largest value that are tried as the end of a range, largest first.
SHARES = np.geomspace(1, 0.01, 100)
# A weight's tail is short: its outputs would suffer from more clipping.
WEIGHT_SHARES = np.linspace(1, 0.3, 71)
# The two ends of a range are searched in turn; the error is convex in them, so few turns do.
MOST_TURNS = 10


@dataclass(frozen=True)
class Calibration:
    """How ranges are found; `percentile` is the share in % that a range holds."""

    method: Method = "minmax"
    percentile: float = 99.999


def activation_ranges(
    model: Path, feed: Feed, calibration: Calibration, *, symmetric: bool
) -> Ranges:
    """The range of every tensor of the file `model` that ONNX Runtime may quantize.

    Raises
    ------
    BuildError
        An activation is not finite on the examples.
    """
    ranges = _extremes(model, feed)
    if calibration.method == "minmax":
        return ranges
    found = {}
    for name, counts in _histograms(model, feed, ranges).items():
        low, high = ranges[name]
        centres = low + (np.arange(BINS) + 0.5) * ((high - low) / BINS)
        if calibration.method == "mse":
            found[name] = least_error_range(centres, counts, ranges[name], symmetric=symmetric)
        else:
            share = calibration.percentile / 100
            found[name] = percentile_range(counts, ranges[name], share, symmetric=symmetric)
    return {**ranges, **found}


def save_ranges(ranges: Mapping[str, Range], path: Path) -> None:
    """Write ranges as the calibration cache that ONNX Runtime's static quantizer reads."""
    data = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), path)


def _extremes(model: Path, feed: Feed) -> Ranges:
    """The smallest and the largest value of every tensor, by ONNX Runtime's calibrator."""
    operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
    batches = iter(feed)

    class Reader:
        """Feeds the batches once."""

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, or None at the end."""
            return next(batches, None)

    with tempfile.TemporaryDirectory(prefix="edgebench-calibration-") as folder:
        calibrator = create_calibrator(
            model, operators, augmented_model_path=str(Path(folder) / "augmented.onnx")
        )
        calibrator.collect_data(Reader())
        data = calibrator.compute_data()
    found: Ranges = {}
    # The calibrator goes through a set, whose order changes from process to process.
    for name in sorted(data.keys()):
        low, high = (float(np.asarray(end).squeeze()) for end in data[name].range_value)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise BuildError(
                f"the activation '{name}' is not finite on the calibration examples",
                hint="are the weights and the data sound?",
            )
        found[name] = (low, high)
    return found


def _histograms(model: Path, feed: Feed, ranges: Ranges) -> dict[str, NDArray[np.int64]]:
    """How the values of every tensor lie between its extremes, in BINS bins.

    Not by ONNX Runtime's own histograms: those hold every activation of every example at once.
    """
    names = [name for name, (low, high) in ranges.items() if low < high]
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in names}
    computed = [name for name in names if name not in feed.inputs]
    session = None
    if computed:
        session = open_session(with_outputs(onnx.load(model), computed).SerializeToString())
    for batch in feed:
        found = dict(batch)
        if session is not None:
            found.update(zip(computed, session.run(computed, batch), strict=True))
        for name in names:
            counts[name] += np.histogram(found[name], BINS, ranges[name])[0]
    return counts


def percentile_range(
    counts: NDArray[np.int64], extremes: Range, share: float, *, symmetric: bool
) -> Range:
    """The range that holds `share` of the values of a histogram between `extremes`.

    What is left out lies half below and half above; or, symmetric, furthest from zero. Ends lie on
    edges of bins, and so that no less is held.
    """
    low, high = extremes
    edges = np.linspace(low, high, len(counts) + 1)
    total = counts.sum()
    if symmetric:
        distance = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(counts[order]) >= round(share * total, 6)
        reach = float(distance[order][int(np.argmax(held))])
        return max(low, -reach), min(high, reach)
    # Rounded, so that a share in binary leaves out no value too many.
    out = round((1 - share) / 2 * total, 6)
    first = int(np.argmax(np.cumsum(counts) > out))
    last = len(counts) - int(np.argmax(np.cumsum(counts[::-1]) > out))
    return float(edges[first]), float(edges[last])


def least_error_range(
    values: NDArray[Any], counts: NDArray[np.int64], extremes: Range, *, symmetric: bool
) -> Range:
    """The range within `extremes` that quantizes with the least mean squared error.

    `values`: [bins] the centres, `counts`: [bins]. Clipping and rounding to 255 steps (254 where
    symmetric) are computed as the integer operators do it.
    """
    used = counts > 0
    values, counts = values[used], counts[used]
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    if symmetric:
        reach = max(-low, high)
        errors = [_error(values, counts, -reach * s, reach * s, 254) for s in SHARES]
        best = reach * float(SHARES[int(np.argmin(errors))])
        return max(low, -best), min(high, best)
    best_low, best_high = low, high
    for _ in range(MOST_TURNS):
        before = best_low, best_high
        if high > 0:
            errors = [_error(values, counts, best_low, high * s, 255) for s in SHARES]
            best_high = high * float(SHARES[int(np.argmin(errors))])
        if low < 0:
            errors = [_error(values, counts, low * s, best_high, 255) for s in SHARES]
            best_low = low * float(SHARES[int(np.argmin(errors))])
        if (best_low, best_high) == before or not low < 0 < high:
            break
    return best_low, best_high


def _error(
    values: NDArray[Any], counts: NDArray[np.int64], low: float, high: float, steps: int
) -> float:
    """The squared error that quantizing [low, high] in `steps` steps makes, summed."""
    scale = (high - low) / steps
    if scale <= 0:
        return float((counts * values**2).sum())
    # The integer that stands for zero, as an offset from the smallest.
    zero = np.round(-low / scale)
    rounded = np.clip(np.round(values / scale) + zero, 0, steps)
    return float((counts * ((rounded - zero) * scale - values) ** 2).sum())


def weight_limits(prepared: Prepared, *, limit: int, per_channel: bool) -> Limits:
    """Where each layer's weight must end for quantizing it to make the least mean squared error.

    `limit`: the largest integer of a weight. By the weights' names, in a shape that broadcasts to
    theirs: one number, or one an output channel.
    """
    model = onnx.load(prepared.path)
    layers = {layer.weight: layer for layer in prepared.layers}
    nodes = {node.name: node for node in model.graph.node}
    found: Limits = {}
    for tensor in model.graph.initializer:
        if tensor.name not in layers:
            continue
        weight = numpy_helper.to_array(tensor)
        axis = channel_axis(nodes[layers[tensor.name].node])
        if per_channel and axis < weight.ndim:
            rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
        else:
            rows = weight.reshape(1, -1)
        ends = least_error_limits(rows, limit)
        shape = [1] * weight.ndim
        if len(ends) > 1:
            shape[axis] = len(ends)
        found[tensor.name] = ends.reshape(shape)
    return found


def clip_weights(model: onnx.ModelProto, limits: Limits, layers: Collection[str]) -> None:
    """End the weights that these layers, by their operators' names, alone read, in place.

    Clipping and not an override of the range: ONNX Runtime's quantizer lets an integer beyond an
    overridden range run to 127, and with it the seven bits that x86 without VNNI needs.
    """
    uses = uses_of(model.graph)
    for tensor in model.graph.initializer:
        if tensor.name in limits and all(
            node is not None and node.name in layers for node, _ in uses[tensor.name]
        ):
            weight, ends = numpy_helper.to_array(tensor), limits[tensor.name]
            clipped = np.clip(weight, -ends, ends).astype(weight.dtype)
            tensor.CopyFrom(numpy_helper.from_array(clipped, tensor.name))


def least_error_limits(rows: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """[rows] the largest magnitude to keep of each row of weights [rows, values].

    Beyond it weights are clipped; rounding is to the integers −limit to limit.
    """
    largest = np.abs(rows).max(axis=1)
    best: NDArray[np.float32] = largest.copy()
    least = np.full(len(rows), np.inf)
    for share in WEIGHT_SHARES:
        end = (largest * np.float32(share)).astype(np.float32)
        scale = np.where(end > 0, end / limit, 1)[:, None].astype(np.float32)
        rounded = np.clip(np.round(rows / scale), -limit, limit)
        error = ((rounded * scale - rows) ** 2).sum(axis=1, dtype=np.float64)
        better = error < least
        best[better], least[better] = end[better], error[better]
    return best
