"""What is int8 in a file, and runs so; what is to stay float does, in the runtime too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.calibration import Calibration
from edgebench.quantization.prepare import Prepared, prepare
from edgebench.quantization.running import answers, feed_for
from edgebench.quantization.static_int8 import (
    FORMATS,
    calibrated,
    describe_achieved,
    integer_kernels,
    quantized_layers,
)

RNG = np.random.default_rng(0)
CPU = ["u8s8-reduced", "u8s8", "s8s8"]


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


def quantized(
    source: Path, folder: Path, x: np.ndarray, int8: str, exclude: Sequence[str] = (), **how
) -> tuple[Path, Prepared]:
    prepared = prepare(source, folder / "prepared.onnx")
    feed = feed_for(prepared.path, x, what="examples")
    per_channel = how.pop("per_channel", True)
    quantizer = calibrated(
        prepared,
        feed,
        Calibration(**how),
        FORMATS[int8],
        per_channel=per_channel,
        folder=folder,
    )
    quantizer.quantize(folder / "int8.onnx", leave=prepared.nodes(exclude))
    return folder / "int8.onnx", prepared


@pytest.mark.parametrize(
    ("layer", "method"),
    [
        ("0", "mse"),
        ("3.first", "minmax"),
        ("3.first", "mse"),
        ("4.shortcut", "minmax"),
        ("8", "minmax"),
    ],
)
@pytest.mark.parametrize("int8", FORMATS)
def test_a_layer_left_in_float_is_float_in_the_runtime_too(
    data, exported, tools, tmp_path: Path, int8: str, layer: str, method: str
) -> None:
    """ONNX Runtime quantizes float layers between quantized ones by itself, one scale a tensor."""
    path, prepared = quantized(
        exported("resnet8"), tmp_path, data.train_x[:64], int8, [layer], method=method
    )
    assert len(quantized_layers(onnx.load(path))) == len(prepared.layers) - 1 == 9
    if int8 in CPU:
        assert integer_kernels(path, unsigned=FORMATS[int8].unsigned) == 9
    found = tools.running_operators(path, tmp_path)
    if int8 in {"u8s8-reduced", "u8s8"}:
        assert found["Conv"] + found["Gemm"] == 1
        assert found["QLinearConv"] + found["QGemm"] == 9
    node = next(one.node for one in prepared.layers if one.name == layer)
    (kept,) = (n for n in onnx.load(path).graph.node if n.name == node)
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    before = onnx.load(prepared.path).graph
    (original,) = (n for n in before.node if n.name == node)
    weights = {t.name: numpy_helper.to_array(t) for t in before.initializer}
    weight = weights[original.input[1]]
    np.testing.assert_array_equal(stored[kept.input[1]], weight)
    running = onnx.load(tmp_path / "optimised.onnx").graph.initializer
    assert any(np.array_equal(numpy_helper.to_array(t), weight) for t in running)
    plain = tools.run_onnx(path, data.test_x, optimised=False)
    if int8 == "u8s8-reduced":
        # Nothing saturates, so the kernels answer as the file says, but for ties in rounding.
        gap = np.abs(tools.run_onnx(path, data.test_x) - plain).max()
        assert gap < 0.05 * plain.std()


def test_a_file_for_tensorrt_has_one_scale_for_each_activation(
    data, exported, tmp_path: Path
) -> None:
    path, _ = quantized(
        exported("resnet8"), tmp_path, data.train_x[:64], "s8s8-symmetric", ["3.first"]
    )
    model = onnx.load(path)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = [
        stored[n.input[1]]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] not in stored
    ]
    assert scales
    assert {scale.size for scale in scales} == {1}


@pytest.mark.parametrize("int8", FORMATS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_stay_within_the_format_whatever_their_ranges(
    data, exported, tmp_path: Path, int8: str, per_channel: bool
) -> None:
    path, _ = quantized(
        exported("resnet8"),
        tmp_path,
        data.train_x[:64],
        int8,
        method="mse",
        per_channel=per_channel,
    )
    stored = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    weights = [v.astype(int) for v in stored if v.dtype == np.int8 and v.ndim > 1]
    assert len(weights) == 10
    # Clipped weights use their whole range, and no integer lies beyond.
    assert {int(np.abs(w).max()) for w in weights} == {FORMATS[int8].weight_limit}


def test_products_of_two_activations_are_no_layers(tmp_path: Path) -> None:
    text = """
        a = MatMul(x, w)
        t = Transpose <perm = [0, 2, 1]> (a)
        s = MatMul(a, t)
        m = ReduceMean <axes = [1], keepdims = 0> (s)
        y = MatMul(m, v)
    """
    weights = {"w": RNG.normal(size=(6, 6)), "v": RNG.normal(size=(4, 3))}
    source = write(tmp_path / "m.onnx", "float[N, 4, 6]", text, **weights)
    x = RNG.normal(size=(32, 4, 6)).astype(np.float32)
    path, prepared = quantized(source, tmp_path, x, "u8s8")
    assert [layer.operator for layer in prepared.layers] == ["MatMul", "MatMul"]
    assert len(quantized_layers(onnx.load(path))) == 2
    assert describe_achieved(path, prepared, FORMATS["u8s8"]).startswith("2 of 2 ")


def test_layers_without_integer_kernels_are_no_success(tmp_path: Path) -> None:
    text = "a = ConvTranspose(x, w) p = GlobalAveragePool(a) y = Flatten(p)"
    source = write(tmp_path / "m.onnx", "float[N, 2, 5, 5]", text, w=RNG.normal(size=(2, 3, 3, 3)))
    x = RNG.normal(size=(8, 2, 5, 5)).astype(np.float32)
    path, prepared = quantized(source, tmp_path, x, "u8s8")
    assert len(quantized_layers(onnx.load(path))) == 1
    with pytest.raises(BuildError, match="none of them is an integer kernel"):
        describe_achieved(path, prepared, FORMATS["u8s8"])
    assert "TensorRT" in describe_achieved(path, prepared, FORMATS["s8s8-symmetric"])


def test_normalisation_is_folded_and_layers_keep_their_names(tmp_path: Path) -> None:
    """Folding renames weights, and joins a product with its bias; names for people stay."""
    text = """
        c = Conv(x, w0)
        b = BatchNormalization(c, scale, bias, mean, var)
        r = Relu(b)
        p = GlobalAveragePool(r)
        f = Flatten(p)
        m = MatMul(f, w1)
        y = Add(m, end)
    """
    weights = {
        "stem.weight": RNG.normal(size=(4, 3, 3, 3)),
        "scale": [1.0, 2.0, 0.5, 1.5],
        "bias": RNG.normal(size=4),
        "mean": RNG.normal(size=4),
        "var": [1.0, 2.0, 3.0, 4.0],
        "head.weight": RNG.normal(size=(4, 5)),
        "end": RNG.normal(size=5),
    }
    source = write(tmp_path / "m.onnx", "float[N, 3, 8, 8]", text)
    # The text form knows no names with a dot in them.
    model = onnx.load(source)
    names = {"w0": "stem.weight", "w1": "head.weight"}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()
    )
    onnx.save(model, source)
    prepared = prepare(source, tmp_path / "prepared.onnx")
    graph = onnx.load(prepared.path).graph
    assert [n.op_type for n in graph.node] == [
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    assert [layer.name for layer in prepared.layers] == ["stem", "head"]
    assert all(node.name for node in graph.node)
    assert {o.domain for o in onnx.load(prepared.path).opset_import} == {""}
    x = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)
    before, after = (answers(p, feed_for(p, x, what="examples")) for p in (source, prepared.path))
    np.testing.assert_allclose(before, after, atol=1e-5)
    assert prepared.nodes(["head", "stem", "head"]) == [
        prepared.layers[1].node,
        prepared.layers[0].node,
    ]
    path, _ = quantized(source, tmp_path, x, "u8s8", ["head"])
    assert [n.op_type for n in quantized_layers(onnx.load(path))] == ["Conv"]


def test_operators_of_one_name_are_told_apart(tmp_path: Path) -> None:
    text = "[same] a = MatMul(x, w) [same] b = Relu(a) c = MatMul(b, v) y = Relu(c)"
    weights = {"w": RNG.normal(size=(4, 4)), "v": RNG.normal(size=(4, 4))}
    source = write(tmp_path / "m.onnx", "float[N, 4]", text, **weights)
    prepared = prepare(source, tmp_path / "prepared.onnx")
    names = [n.name for n in onnx.load(prepared.path).graph.node]
    assert len(set(names)) == len(names) == 4
    assert all(names)


def test_a_layer_that_is_not_there(exported, tmp_path: Path) -> None:
    prepared = prepare(exported("resnet8"), tmp_path / "prepared.onnx")
    with pytest.raises(BuildError, match=r"no layer '3\.frist'.*did you mean '3\.first'\?"):
        prepared.nodes(["0", "3.frist"])
    with pytest.raises(BuildError, match=r"no layer 'zzzz'.*its layers: 0, 3\.first"):
        prepared.nodes(["zzzz"])


def test_a_quantized_file_is_not_quantized_again(data, exported, tmp_path: Path) -> None:
    path, _ = quantized(exported("lenet"), tmp_path, data.train_x[:16], "u8s8")
    with pytest.raises(BuildError, match="quantized already"):
        prepare(path, tmp_path / "again.onnx")


def dense(folder: Path, batch: int | str = "N") -> Path:
    weight = RNG.normal(size=(6, 3))
    return write(folder / "dense.onnx", f"float[{batch}, 6]", "y = MatMul(x, w)", w=weight)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("batch", "examples", "text"),
    [
        ("N", zeros(0, 6), "there are no calibration examples"),
        ("N", zeros(9, 7), r"have shape \[N, 7\], and the model takes \[N, 6\]"),
        ("N", zeros(9, 6, 1), r"have shape \[N, 6, 1\], and the model takes \[N, 6\]"),
        (16, zeros(9, 6), "takes 16 examples at once, and there are 9 calibration examples"),
    ],
)
def test_examples_that_do_not_fit(
    tmp_path: Path, batch: int | str, examples: np.ndarray, text: str
) -> None:
    with pytest.raises(BuildError, match=text) as caught:
        feed_for(dense(tmp_path, batch), examples, what="calibration examples")
    assert "\n" not in caught.value.line()


def test_a_model_of_two_inputs_cannot_be_calibrated(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]>'
        "g (float[N, 6] a, float[N, 6] b) => (float[N, 6] y) { y = Add(a, b) }"
    )
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(BuildError, match="the model has 2 inputs"):
        feed_for(tmp_path / "two.onnx", zeros(3, 6), what="calibration examples")


def test_examples_come_in_batches_the_model_takes(tmp_path: Path) -> None:
    x = RNG.normal(size=(70, 6)).astype(np.float32)
    sizes = {
        batch: [len(feed["x"]) for feed in feed_for(dense(tmp_path, batch), x, what="examples")]
        for batch in ("N", 1, 16)
    }
    assert sizes == {"N": [32, 32, 6], 1: [1] * 70, 16: [16] * 4}
