"""Even out the ranges of channels between consecutive layers of a float file.

A layer's output channel divided by s, and the next layer's input channel multiplied by s, compute
the same function where what stands between scales with its input. s is chosen so that both weights
have the same range in that channel, and one scale a tensor serves all channels better.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.onnx_graph import counted, drop_initializers
from edgebench.quantization.prepare import Prepared
from edgebench.quantization.running import Feed, all_answers, open_session, with_outputs

Floats = NDArray[np.float64]
# f(s·x) = s·f(x) for every s > 0, in each channel by itself.
ELEMENTWISE = {"Relu", "LeakyRelu", "Identity", "Dropout"}
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"}
ENDS = {"Conv", "Gemm", "MatMul"}
# Of a channel's range: sweeps end when no scale is further from 1.
CONVERGED = 1e-3
MOST_SWEEPS = 500
# Of the spread of the answers: float models differ by rounding alone.
TOLERANCE = 1e-3
MOST_REASONS = 3


@dataclass
class _Side:
    """A layer's weight and bias as they are scaled, in float64."""

    node: onnx.NodeProto
    weight: Floats
    bias: Floats | None

    @property
    def out_axis(self) -> int:
        """The axis of the weight along which output channels lie."""
        if self.node.op_type == "Conv" or _integer(self.node, "transB", 0):
            return 0
        return 1

    def out_ranges(self) -> Floats:
        """[channels] the largest magnitude of each output channel's weights."""
        rows = np.moveaxis(self.weight, self.out_axis, 0)
        return np.asarray(np.abs(rows).reshape(len(rows), -1).max(axis=1))

    def divide_out(self, scales: Floats) -> None:
        """Divide each output channel, with its bias."""
        shape = [1] * self.weight.ndim
        shape[self.out_axis] = -1
        self.weight /= scales.reshape(shape)
        if self.bias is not None:
            self.bias /= scales.reshape(self.bias.shape)

    def _by_input(self, channels: int) -> Floats:
        """A view [groups, out, channels, block] of the weight whose axes 0 and 2 are the inputs."""
        if self.node.op_type == "Conv":
            groups = _integer(self.node, "group", 1)
            out, per_group = self.weight.shape[:2]
            return self.weight.reshape(groups, out // groups, per_group, -1)
        rows = self.weight if self.out_axis == 0 else self.weight.T
        return rows.reshape(1, len(rows), channels, -1)

    def in_ranges(self, channels: int) -> Floats:
        """[channels] the largest magnitude of the weights that read each input channel."""
        return np.asarray(np.abs(self._by_input(channels)).max(axis=(1, 3)).reshape(-1))

    def multiply_in(self, scales: Floats) -> None:
        """Multiply the weights that read each input channel."""
        view = self._by_input(len(scales))
        scaled = view * scales.reshape(view.shape[0], 1, view.shape[2], 1)
        if self.node.op_type == "Conv":
            self.weight = scaled.reshape(self.weight.shape)
        else:
            rows = scaled.reshape(view.shape[1], -1)
            self.weight = rows if self.out_axis == 0 else rows.T


@dataclass(frozen=True)
class _Pair:
    """Two layers, by name, and the ReLU6-like operators between them, by name and upper end."""

    first: str
    second: str
    clips: tuple[tuple[str, float], ...]


def equalize(prepared: Prepared, feed: Feed) -> list[str]:
    """Equalize the prepared float file in place; returns what was done in sentences.

    A ReLU6 between two layers becomes a ReLU where it clips nothing on the examples; else these
    two are left alone. That the answers stay the same is checked on the examples.

    Raises
    ------
    BuildError
        No two layers can be equalized, with the reasons; or the answers changed.
    """
    model = onnx.load(prepared.path)
    before = all_answers(prepared.path, feed)
    _unshare_biases(prepared, model)
    walk = _Walk(prepared, model)
    pairs = walk.pairs()
    reached = _largest(model, [name for pair in pairs for name, _ in pair.clips], feed)
    kept, clipping = [], []
    for pair in pairs:
        beyond = [name for name, end in pair.clips if reached[name] > end]
        if beyond:
            clipping.append(beyond[0])
        else:
            kept.append(pair)
    walk.reasons += [f"'{name}' clips on the examples" for name in clipping]
    if not kept:
        shown = "; ".join(walk.reasons[:MOST_REASONS]) or "it has no two layers in a row"
        raise BuildError(f"no two layers can be equalized: {shown}", hint="equalize: false")
    replaced = _replace_clips(model, kept)
    sides = {name: walk.side(name) for pair in kept for name in (pair.first, pair.second)}
    used = _share_used(kept, sides)
    sweeps = _balance(kept, sides)
    for side in sides.values():
        walk.store(side)
    onnx.save(model, prepared.path)
    gap = max(map(_gap, before, all_answers(prepared.path, feed)))
    if gap > TOLERANCE:
        raise BuildError(
            f"equalization changed the answers by {gap:.1e} of their spread",
            hint="equalize: false",
        )
    notes = [
        f"equalized {counted(len(kept), 'pair')} of layers in {counted(sweeps, 'sweep')}: "
        f"a channel uses {_share_used(kept, sides):.0%} of its layer's range on average, "
        f"{used:.0%} before"
    ]
    if replaced:
        notes.append(
            f"{replaced} ReLU6 became ReLU, since nothing is clipped on {len(feed)} examples"
        )
    if clipping:
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(clipping))
        notes.append(f"not equalized, since it clips on the examples: {names}")
    return notes


def _gap(before: list[NDArray[Any]], after: list[NDArray[Any]]) -> float:
    """How far one output moved at most, of its own spread."""
    wanted, given = (
        np.concatenate([part.ravel() for part in parts]).astype(np.float64)
        for parts in (before, after)
    )
    return float(np.abs(given - wanted).max(initial=0)) / (float(wanted.std()) or 1.0)


def _unshare_biases(prepared: Prepared, model: onnx.ModelProto) -> None:
    """Give every layer a bias of its own: ONNX Runtime's optimiser joins equal ones, zeros say."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {layer.node for layer in prepared.layers}
    seen: set[str] = set()
    for node in model.graph.node:
        if node.name in layers and len(node.input) > 2 and node.input[2] in constants:
            shared = node.input[2]
            if shared in seen:
                name = f"{node.name}_own_bias"
                values = numpy_helper.to_array(constants[shared])
                model.graph.initializer.append(numpy_helper.from_array(values, name))
                node.input[2] = name
            seen.add(shared)


def _balance(pairs: list[_Pair], sides: dict[str, _Side]) -> int:
    """Scale until both sides of every pair have the same range in every channel; the sweeps."""
    for sweep in range(1, MOST_SWEEPS + 1):
        furthest = 0.0
        for pair in pairs:
            first, second = sides[pair.first], sides[pair.second]
            ours = first.out_ranges()
            theirs = second.in_ranges(len(ours))
            # A channel that is all zero on one side has no range to even out.
            alive = (ours > 0) & (theirs > 0)
            scales = np.ones_like(ours)
            scales[alive] = np.sqrt(ours[alive] / theirs[alive])
            first.divide_out(scales)
            second.multiply_in(scales)
            furthest = max(furthest, float(np.abs(scales - 1).max()))
        if furthest < CONVERGED:
            return sweep
    return MOST_SWEEPS


def _share_used(pairs: list[_Pair], sides: dict[str, _Side]) -> float:
    """A channel's range over its layer's largest, averaged over channels and layers.

    The precision of the paper's equation 7, for both sides of every pair.
    """
    shares = []
    for pair in pairs:
        ours = sides[pair.first].out_ranges()
        for ranges in (ours, sides[pair.second].in_ranges(len(ours))):
            shares.append(float((ranges / (ranges.max() or 1.0)).mean()))
    return float(np.mean(shares))


def _largest(model: onnx.ModelProto, clips: list[str], feed: Feed) -> dict[str, float]:
    """The largest value that reaches each of these operators on the examples."""
    if not clips:
        return {}
    inputs = {node.name: node.input[0] for node in model.graph.node}
    tensors = [inputs[name] for name in clips]
    session = open_session(with_outputs(model, tensors).SerializeToString())
    found = np.full(len(clips), -np.inf)
    for batch in feed:
        largest = [values.max() for values in session.run(tensors, batch)]
        found = np.maximum(found, largest)
    return {name: float(value) for name, value in zip(clips, found, strict=True)}


def _replace_clips(model: onnx.ModelProto, pairs: list[_Pair]) -> int:
    names = {name for pair in pairs for name, _ in pair.clips}
    for node in model.graph.node:
        if node.name in names:
            node.op_type = "Relu"
            del node.input[1:]
            del node.attribute[:]
    used = {name for node in model.graph.node for name in node.input}
    ends = {tensor.name for tensor in model.graph.initializer} - used
    drop_initializers(model.graph, ends)
    return len(names)


class _Walk:
    """Goes from layer to layer of a file; `reasons` says why some have no successor."""

    def __init__(self, prepared: Prepared, model: onnx.ModelProto) -> None:
        self.prepared = prepared
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.answers = {value.name for value in model.graph.output}
        known = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self.sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
        self.reasons: list[str] = []

    def pairs(self) -> list[_Pair]:
        """The layers whose output is read by one other layer, through scaling operators alone."""
        found = []
        for layer in self.prepared.layers:
            if layer.operator not in ENDS:
                continue
            if not self.own_tensors(layer.node):
                self.reasons.append(f"'{layer.name}' shares its weight")
                continue
            pair, reason = self.successor(layer.node)
            if pair is not None:
                found.append(pair)
            elif reason:
                self.reasons.append(f"after '{layer.name}' {reason}")
        return found

    def successor(self, first: str) -> tuple[_Pair | None, str]:
        """The layer after `first`, or why there is none ("" for the last one)."""
        name = self.nodes[first].output[0]
        # Channels lie along axis 1 of a convolution's output, and last in a dense layer's.
        dense = self.nodes[first].op_type != "Conv"
        clips: list[tuple[str, float]] = []
        while name not in self.answers:
            users = self.users.get(name, [])
            if len(users) != 1:
                return None, f"the way branches {len(users)} times"
            node = users[0]
            if node.op_type in ENDS and node.input[0] == name and node.name in self.layer_names():
                return self.joined(first, node, clips, dense)
            end = self.upper_end(node)
            if end is not None:
                clips.append((node.name, end))
            elif node.op_type in {"Flatten", "Reshape", "Squeeze"} and not dense:
                if not self.flattens(node):
                    return None, f"{node.op_type} '{node.name}' mixes channels"
                dense = True
            elif node.op_type in POOLS and not dense:
                pass
            elif node.op_type == "ReduceMean" and not dense and self.keeps_channels(node):
                # Without the reduced axes, channels are the last one.
                dense = len(self.sizes.get(node.output[0], [])) == 2
            elif node.op_type not in ELEMENTWISE:
                return None, f"comes {node.op_type}"
            name = node.output[0]
        return None, ""

    def joined(
        self, first: str, second: onnx.NodeProto, clips: list[tuple[str, float]], dense: bool
    ) -> tuple[_Pair | None, str]:
        """The pair, where both layers agree on what a channel is."""
        shown = self.prepared.called(second.name)
        if (second.op_type == "Conv") == dense:
            return None, f"'{shown}' reads channels along another axis"
        if not self.own_tensors(second.name):
            return None, f"'{shown}' shares its weight"
        if _integer(second, "transA", 0):
            return None, f"'{shown}' reads its input transposed"
        channels = len(self.side(first).out_ranges())
        other = self.side(second.name)
        groups = _integer(second, "group", 1)
        read = (
            other.weight.shape[1] * groups
            if second.op_type == "Conv"
            else (other.weight.shape[1 - other.out_axis])
        )
        if read % channels or (second.op_type == "Conv" and read != channels):
            return None, f"'{shown}' reads {read} channels of {channels}"
        return _Pair(first, second.name, tuple(clips)), ""

    def layer_names(self) -> set[str]:
        """The operators that are layers."""
        return {layer.node for layer in self.prepared.layers}

    def own_tensors(self, name: str) -> bool:
        """Whether a layer's weight and bias are constants that serve it alone."""
        node = self.nodes[name]
        if node.op_type == "MatMul" and len(self.constants[node.input[1]].dims) != 2:
            return False
        tensors = [value for value in node.input[1:] if value]
        if any(t not in self.constants or len(self.users[t]) != 1 for t in tensors):
            return False
        channels = len(self.side(name).out_ranges())
        bias = self.side(name).bias
        return bias is None or bias.size == channels

    def side(self, name: str) -> _Side:
        """A layer's tensors, in float64."""
        node = self.nodes[name]
        weight = numpy_helper.to_array(self.constants[node.input[1]]).astype(np.float64)
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self.constants[node.input[2]] if has_bias else None
        stored = None if bias is None else numpy_helper.to_array(bias).astype(np.float64)
        return _Side(node, weight, stored)

    def store(self, side: _Side) -> None:
        """Write a layer's tensors back."""
        values = [side.weight] if side.bias is None else [side.weight, side.bias]
        for name, value in zip(side.node.input[1:], values, strict=False):
            tensor = numpy_helper.from_array(value.astype(np.float32), name)
            self.constants[name].CopyFrom(tensor)

    def upper_end(self, node: onnx.NodeProto) -> float | None:
        """Where an operator that clips at 0 from below clips from above; None for others."""
        if node.op_type != "Clip":
            return None
        given = {a.name: float(a.f) for a in node.attribute}
        for key, name in zip(("min", "max"), node.input[1:], strict=False):
            if name in self.constants:
                given[key] = float(numpy_helper.to_array(self.constants[name]))
        return given.get("max", np.inf) if given.get("min") == 0.0 else None

    def flattens(self, node: onnx.NodeProto) -> bool:
        """Whether the operator lays each channel's values one after the other, [N, C·H·W]."""
        before, after = self.sizes.get(node.input[0], []), self.sizes.get(node.output[0], [])
        if len(before) < 3 or len(after) != 2:
            return False
        return all(before[1:]) and after[1] == int(np.prod(before[1:]))

    def keeps_channels(self, node: onnx.NodeProto) -> bool:
        """Whether a mean is taken over neither examples nor channels."""
        rank = len(self.sizes.get(node.input[0], []))
        axes = [axis for a in node.attribute if a.name == "axes" for axis in a.ints]
        if len(node.input) > 1 and node.input[1] in self.constants:
            axes = numpy_helper.to_array(self.constants[node.input[1]]).tolist()
        return rank > 2 and bool(axes) and all(axis % rank > 1 for axis in axes)


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)
