"""The mean error of every layer's output vanishes, in every form a bias is stored in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.bias_correction import correct_biases
from edgebench.quantization.calibration import Calibration
from edgebench.quantization.prepare import prepare
from edgebench.quantization.running import answers, feed_for, open_session, with_outputs
from edgebench.quantization.static_int8 import (
    FORMATS,
    calibrated,
    describe_achieved,
    integer_kernels,
)


def biased(rows: int, columns: int) -> np.ndarray:
    """Weights of which all but the largest lie .4 above an integer of its 127th: rounding loses."""
    weight = np.random.default_rng(rows).integers(5, 40, size=(rows, columns)) + 0.4
    weight[:, 0] = 127
    return weight.astype(np.float32) / 127


def write(path: Path, text: str, **weights: np.ndarray) -> Path:
    """A file in ONNX's text form that takes [N, 8, 4, 4]."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]>'
        f"g (float[N, 8, 4, 4] x) => (float[N, M] y) {{ {text} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in weights.items())
    onnx.save(model, path)
    return path


def network(folder: Path, *, bias: bool) -> Path:
    """Two convolutions and a dense layer whose weights all round down, on positive inputs."""
    text = f"""
        [one] a = Conv(x, w1{", b1" if bias else ""})
        b = Relu(a)
        [two] c = Conv(b, w2{", b2" if bias else ""})
        d = Relu(c)
        p = GlobalAveragePool(d)
        f = Flatten(p)
        [end] y = Gemm <transB = 1> (f, w3{", b3" if bias else ""})
    """
    weights = {
        "w1": biased(6, 8).reshape(6, 8, 1, 1),
        "w2": biased(5, 6).reshape(5, 6, 1, 1),
        "w3": biased(4, 5),
    }
    if bias:
        weights |= {f"b{i}": np.full(n, 0.3, np.float32) for i, n in ((1, 6), (2, 5), (3, 4))}
    return write(folder / "network.onnx", text, **weights)


def both(source: Path, folder: Path, int8: str):
    """The prepared file, the quantized one and the examples, before correction."""
    x = np.random.default_rng(0).uniform(0, 1, size=(64, 8, 4, 4)).astype(np.float32)
    prepared = prepare(source, folder / "prepared.onnx")
    feed = feed_for(prepared.path, x, what="examples")
    quantizer = calibrated(
        prepared, feed, Calibration(), FORMATS[int8], per_channel=True, folder=folder
    )
    quantizer.quantize(folder / "int8.onnx")
    return prepared, folder / "int8.onnx", feed


def mean_errors(prepared, path: Path, feed) -> dict[str, np.ndarray]:
    """The mean over all examples of each channel's change, before rounding the layer's output."""

    def means(file: Path) -> dict[str, np.ndarray]:
        model = onnx.load(file)
        names = [layer.node for layer in prepared.layers]
        outputs = {n.name: n.output[0] for n in model.graph.node if n.name in names}
        session = open_session(with_outputs(model, [*outputs.values()]).SerializeToString())
        values = session.run([*outputs.values()], {"x": feed.examples})
        return {
            name: np.moveaxis(v, 1, 0).reshape(v.shape[1], -1).mean(axis=1)
            for name, v in zip(outputs, values, strict=True)
        }

    wanted, got = means(prepared.path), means(path)
    return {name: got[name] - wanted[name] for name in wanted}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("int8", FORMATS)
def test_the_mean_error_vanishes(tmp_path: Path, int8: str, bias: bool) -> None:
    prepared, path, feed = both(network(tmp_path, bias=bias), tmp_path, int8)
    before = mean_errors(prepared, path, feed)
    sentence = describe_achieved(path, prepared, FORMATS[int8])
    correction = correct_biases(prepared, path, feed, FORMATS[int8])
    after = mean_errors(prepared, path, feed)
    assert list(after) == ["one", "two", "end"]
    for name, error in after.items():
        assert np.abs(before[name]).max() > 20 * np.abs(error).max()
    assert correction.layers == 3
    assert correction.left == ()
    assert correction.before > 20 * correction.after > 0
    assert f"from {correction.before:.3%} to {correction.after:.3%}" in correction.sentence()
    # The integer kernels take the biases.
    onnx.checker.check_model(str(path), full_check=True)
    assert describe_achieved(path, prepared, FORMATS[int8]) == sentence
    if int8 != "s8s8-symmetric":
        assert integer_kernels(path, unsigned=FORMATS[int8].unsigned) == 3


def test_biases_keep_their_form(tmp_path: Path) -> None:
    for int8, kind in (("u8s8", np.int32), ("s8s8-symmetric", np.float32)):
        prepared, path, feed = both(network(tmp_path, bias=False), tmp_path, int8)
        correct_biases(prepared, path, feed, FORMATS[int8])
        model = onnx.load(path)
        stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        producers = {name: n for n in model.graph.node for name in n.output}
        for name in ("one", "two", "end"):
            node = next(n for n in model.graph.node if n.name == name)
            source = producers.get(node.input[2])
            bias = stored[node.input[2] if source is None else source.input[0]]
            assert bias.dtype == kind


def test_the_answers_are_nearer_on_average(data, exported, tmp_path: Path) -> None:
    prepared = prepare(exported("resnet8"), tmp_path / "prepared.onnx")
    feed = feed_for(prepared.path, data.train_x, what="examples")
    int8 = FORMATS["u8s8-reduced"]
    quantizer = calibrated(prepared, feed, Calibration(), int8, per_channel=False, folder=tmp_path)
    path = tmp_path / "int8.onnx"
    quantizer.quantize(path)
    wanted = answers(prepared.path, feed)
    before = answers(path, feed) - wanted
    assert correct_biases(prepared, path, feed, int8).layers == 10
    after = answers(path, feed) - wanted
    assert np.abs(after.mean(axis=0)).max() < 0.5 * np.abs(before.mean(axis=0)).max()


def test_a_bias_shared_by_two_layers_is_corrected_for_each(tmp_path: Path) -> None:
    text = """
        [one] a = Conv(x, w1, b)
        r = Relu(a)
        [two] c = Conv(r, w2, b)
        p = GlobalAveragePool(c)
        y = Flatten(p)
    """
    weights = {
        "w1": biased(8, 8).reshape(8, 8, 1, 1),
        "w2": 3 * biased(8, 8).reshape(8, 8, 1, 1),
        "b": np.full(8, 0.3, np.float32),
    }
    for int8 in FORMATS:
        prepared, path, feed = both(write(tmp_path / "s.onnx", text, **weights), tmp_path, int8)
        before = mean_errors(prepared, path, feed)
        correct_biases(prepared, path, feed, FORMATS[int8])
        for name, error in mean_errors(prepared, path, feed).items():
            assert np.abs(before[name]).max() > 20 * np.abs(error).max()


def test_products_without_a_bias_are_left(tmp_path: Path) -> None:
    text = """
        [one] a = Conv(x, w)
        t = Transpose <perm = [0, 2, 3, 1]> (a)
        [two] m = MatMul(t, v)
        y = ReduceMean <axes = [1, 2], keepdims = 0> (m)
    """
    weights = {"w": biased(6, 8).reshape(6, 8, 1, 1), "v": biased(6, 5)}
    prepared, path, feed = both(write(tmp_path / "m.onnx", text, **weights), tmp_path, "u8s8")
    correction = correct_biases(prepared, path, feed, FORMATS["u8s8"])
    assert correction.layers == 1
    assert correction.left == ("two",)
    assert correction.sentence().endswith("not corrected: two")


def test_nothing_to_correct(tmp_path: Path) -> None:
    text = """
        t = Transpose <perm = [0, 2, 3, 1]> (x)
        m = MatMul(t, v)
        y = ReduceMean <axes = [1, 2], keepdims = 0> (m)
    """
    prepared, path, feed = both(write(tmp_path / "m.onnx", text, v=biased(8, 5)), tmp_path, "u8s8")
    with pytest.raises(BuildError, match="no quantized layer has a bias to correct"):
        correct_biases(prepared, path, feed, FORMATS["u8s8"])
