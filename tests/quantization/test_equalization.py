"""Channels get even ranges, the function stays the same, and what cannot be evened out is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.calibration import Calibration
from edgebench.quantization.equalization import equalize
from edgebench.quantization.prepare import prepare
from edgebench.quantization.running import answers, feed_for
from edgebench.quantization.static_int8 import FORMATS, calibrated

UNEVEN = np.array([100.0, 1.0, 10.0, 0.1], np.float32)


def write(path: Path, entry: str, text: str, **weights: np.ndarray) -> Path:
    """A file in ONNX's text form, with these weights."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17]> g ({entry} x) => (float[N, M] y) {{ {text} }}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()
    )
    onnx.save(model, path)
    return path


def equalized(source: Path, folder: Path, *, scale: float = 1.0):
    """What was said, the weights after, and how far the answers moved, of their spread."""
    prepared = prepare(source, folder / "prepared.onnx")
    entry = onnx.load(source).graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in entry][1:]
    x = scale * np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    feed = feed_for(prepared.path, x, what="examples")
    before = answers(source, feed)
    notes = equalize(prepared, feed)
    moved = np.abs(answers(prepared.path, feed) - before).max() / before.std()
    stored = onnx.load(prepared.path).graph.initializer
    return notes, {t.name: numpy_helper.to_array(t) for t in stored}, moved


def even(*shape: int) -> np.ndarray:
    """Weights of which every row and column has the magnitude 1."""
    return np.random.default_rng(0).choice([-1.0, 1.0], size=shape).astype(np.float32)


def test_two_layers_by_hand(tmp_path: Path) -> None:
    """Ranges 100, 1, 10, .1 before and 1 behind: each side gets their square root."""
    text = "a = Gemm <transB = 1> (x, w1, b1) r = Relu(a) y = Gemm <transB = 1> (r, w2, b2)"
    weights = {
        "w1": even(4, 3) * UNEVEN[:, None],
        "b1": np.array([7.0, 8.0, 9.0, 10.0]),
        "w2": even(5, 4),
        "b2": np.ones(5),
    }
    notes, after, moved = equalized(
        write(tmp_path / "m.onnx", "float[N, 3]", text, **weights), tmp_path
    )
    root = np.sqrt(UNEVEN)
    np.testing.assert_allclose(np.abs(after["w1"]).max(axis=1), root, rtol=1e-5)
    np.testing.assert_allclose(np.abs(after["w2"]).max(axis=0), root, rtol=1e-5)
    np.testing.assert_allclose(after["b1"], weights["b1"] / root, rtol=1e-5)
    np.testing.assert_array_equal(after["b2"], weights["b2"])
    assert moved < 1e-5
    # Uses of the range: (1 + .01 + .1 + .001)/4 and 1 before; (1 + .1 + .316 + .0316)/4 after.
    assert notes == [
        "equalized 1 pair of layers in 2 sweeps: a channel uses 36% of its layer's range on "
        "average, 64% before"
    ]


def test_a_depthwise_triple_converges(tmp_path: Path) -> None:
    text = """
        a = Conv(x, w1, b1)
        r = Relu(a)
        d = Conv <group = 4, pads = [1, 1, 1, 1]> (r, w2, b2)
        s = LeakyRelu(d)
        e = Conv(s, w3)
        p = GlobalAveragePool(e)
        y = Flatten(p)
    """
    weights = {
        "w1": even(4, 2, 1, 1) * UNEVEN[:, None, None, None],
        "b1": np.ones(4),
        "w2": even(4, 1, 3, 3) * UNEVEN[::-1, None, None, None],
        "b2": np.ones(4),
        "w3": even(6, 4, 1, 1),
    }
    source = write(tmp_path / "m.onnx", "float[N, 2, 8, 8]", text, **weights)
    notes, after, moved = equalized(source, tmp_path)
    wanted = np.cbrt(UNEVEN * UNEVEN[::-1])
    first, middle = (np.abs(after[k]).reshape(4, -1).max(axis=1) for k in ("w1", "w2"))
    last = np.abs(after["w3"]).reshape(6, 4).max(axis=0)
    for ranges in (first, middle, last):
        np.testing.assert_allclose(ranges, wanted, rtol=0.01)
    assert moved < 1e-5
    assert notes[0].startswith("equalized 2 pairs of layers")


def test_groups_and_flattened_maps(tmp_path: Path) -> None:
    """A grouped convolution reads each channel in its own group; a dense layer reads 4 values."""
    text = """
        a = Conv(x, w1)
        r = Relu(a)
        g = Conv <group = 2> (r, w2, b2)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (g)
        f = Flatten(m)
        y = Gemm(f, w3)
    """
    rng = np.random.default_rng(1)
    weights = {
        "w1": even(4, 2, 1, 1) * UNEVEN[:, None, None, None],
        "w2": rng.normal(size=(6, 2, 1, 1)),
        "b2": rng.normal(size=6),
        "w3": rng.normal(size=(24, 5)) * np.repeat([1, 10, 100, 1, 10, 100], 4)[:, None],
    }
    source = write(tmp_path / "m.onnx", "float[N, 2, 4, 4]", text, **weights)
    _, after, moved = equalized(source, tmp_path)
    assert moved < 1e-5
    second = np.abs(after["w2"]).reshape(2, 3, 2)
    np.testing.assert_allclose(
        np.abs(after["w1"]).reshape(4, -1).max(axis=1), second.max(axis=1).ravel(), rtol=0.01
    )
    np.testing.assert_allclose(
        np.abs(after["w2"]).reshape(6, -1).max(axis=1),
        np.abs(after["w3"]).reshape(6, -1).max(axis=1),
        rtol=0.01,
    )


CLIPPED = "a = Gemm(x, w1) r = Clip(a, zero, six) y = Gemm(r, w2)"


def clipped(folder: Path) -> Path:
    weights = {
        "w1": even(3, 4) * UNEVEN / 100,
        "w2": even(4, 5),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    return write(folder / "m.onnx", "float[N, 3]", CLIPPED, **weights)


def test_a_relu6_that_never_clips_becomes_a_relu(tmp_path: Path) -> None:
    notes, _, moved = equalized(clipped(tmp_path), tmp_path)
    assert moved < 1e-5
    assert notes[1] == "1 ReLU6 became ReLU, since nothing is clipped on 40 examples"
    kinds = [n.op_type for n in onnx.load(tmp_path / "prepared.onnx").graph.node]
    assert kinds == ["Gemm", "Relu", "Gemm"]


def test_a_relu6_that_clips_is_left_alone(tmp_path: Path) -> None:
    source = clipped(tmp_path)
    with pytest.raises(BuildError, match=r"no two layers can be equalized: 'Clip_1' clips"):
        equalized(source, tmp_path, scale=10.0)
    kinds = [n.op_type for n in onnx.load(tmp_path / "prepared.onnx").graph.node]
    assert kinds == ["Gemm", "Clip", "Gemm"]
    text = CLIPPED.replace("x, w1", "s, w1")
    text = f"h = Gemm(x, w0) s = Relu(h) {text}"
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    both = write(tmp_path / "b.onnx", "float[N, 3]", text, w0=10 * np.eye(3) + 0.01, **stored)
    notes, _, moved = equalized(both, tmp_path)
    assert moved < 1e-5
    assert notes[0].startswith("equalized 1 pair ")
    assert notes[1] == "not equalized, since it clips on the examples: 'Clip_3'"


W = even(4, 4) * UNEVEN


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = MatMul(x, w) s = Sigmoid(a) y = MatMul(s, v)", "after 'MatMul_0' comes Sigmoid"),
        (
            "a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) y = Add(r, b)",
            "after 'MatMul_0' the way branches 2 times",
        ),
        ("a = MatMul(x, w) r = Relu(a) y = MatMul(r, w)", "'MatMul_0' shares its weight"),
        ("y = MatMul(x, w)", "it has no two layers in a row"),
    ],
)
def test_nothing_to_equalize(tmp_path: Path, text: str, reason: str) -> None:
    weights = {"w": W} if "v" not in text else {"w": W, "v": W}
    source = write(tmp_path / "m.onnx", "float[N, 4]", text, **weights)
    with pytest.raises(BuildError, match="no two layers can be equalized") as caught:
        equalized(source, tmp_path)
    assert reason in caught.value.line()


def test_channels_without_weights_are_left(tmp_path: Path) -> None:
    dead = UNEVEN.copy()
    dead[1] = 0
    text = "a = Gemm <transB = 1> (x, w1, b1) r = Relu(a) y = Gemm <transB = 1> (r, w2)"
    weights = {"w1": even(4, 3) * dead[:, None], "b1": np.ones(4), "w2": even(5, 4)}
    source = write(tmp_path / "m.onnx", "float[N, 3]", text, **weights)
    _, after, moved = equalized(source, tmp_path)
    assert moved < 1e-5
    assert after["b1"][1] == 1
    np.testing.assert_array_equal(after["w2"][:, 1], weights["w2"][:, 1])


def test_every_output_is_compared_by_its_own_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in what leads to the second output, a millionth of the first in size."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]>'
        "g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {"
        "a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2)"
        "b = MatMul(x, w3) s = Relu(b) z = MatMul(s, w4) }"
    )
    weights = {"w1": 1e3 * W, "w2": 1e3 * even(4, 4), "w3": W, "w4": even(4, 4)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()
    )
    onnx.save(model, tmp_path / "m.onnx")
    prepared = prepare(tmp_path / "m.onnx", tmp_path / "prepared.onnx")
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    feed = feed_for(prepared.path, x, what="examples")

    def mistaken(pairs, sides) -> int:
        sides[pairs[-1].first].weight *= 1.5
        return 1

    monkeypatch.setattr("edgebench.quantization.equalization._balance", mistaken)
    with pytest.raises(BuildError, match="equalization changed the answers"):
        equalize(prepared, feed)
    monkeypatch.undo()
    assert equalize(prepare(tmp_path / "m.onnx", prepared.path), feed)[0].startswith(
        "equalized 2 pairs"
    )


@pytest.mark.parametrize(("name", "pairs"), [("lenet", 3), ("resnet8", 3)])
def test_networks_keep_their_function(
    data, exported, tmp_path: Path, name: str, pairs: int
) -> None:
    prepared = prepare(exported(name), tmp_path / "prepared.onnx")
    feed = feed_for(prepared.path, data.train_x[:64], what="examples")
    before = answers(exported(name), feed)
    (note,) = equalize(prepared, feed)
    assert note.startswith(f"equalized {pairs} pairs of layers")
    np.testing.assert_allclose(answers(prepared.path, feed), before, atol=1e-3)


def test_one_scale_a_tensor_then_loses_less(tmp_path: Path) -> None:
    """What it is for: uneven channels quantized with one scale a tensor."""
    text = "a = Gemm <transB = 1> (x, w1) r = Relu(a) y = Gemm <transB = 1> (r, w2)"
    weights = {"w1": even(4, 16) * UNEVEN[:, None], "w2": even(8, 4) / UNEVEN}
    x = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    source = write(tmp_path / "m.onnx", "float[N, 16]", text, **weights)
    noise = []
    for equal in (False, True):
        prepared = prepare(source, tmp_path / "prepared.onnx")
        feed = feed_for(prepared.path, x, what="examples")
        wanted = answers(source, feed)
        if equal:
            equalize(prepared, feed)
        quantizer = calibrated(
            prepared, feed, Calibration(), FORMATS["u8s8"], per_channel=False, folder=tmp_path
        )
        quantizer.quantize(tmp_path / "int8.onnx")
        noise.append(float(((answers(tmp_path / "int8.onnx", feed) - wanted) ** 2).sum()))
    assert noise[1] < 0.01 * noise[0]
