"""Every way of `ptq` answers as the float model does, and says what it achieved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgebench.errors import BuildError
from edgebench.quantization.running import all_answers, feed_for
from edgebench.techniques.base import TECHNIQUES

PTQ = TECHNIQUES.get("ptq")
FORMATS = ["u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric"]


def quantize(tools, source: Path, context, folder: Path, **options):
    path = folder / "int8.onnx"
    outcome = PTQ().apply(source, path, tools.options_of("ptq", **options), context)
    return path, outcome


def constants(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def sqnr(wanted: np.ndarray, given: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((given - wanted) ** 2).sum()))


@pytest.mark.parametrize("int8", FORMATS)
@pytest.mark.parametrize(
    "values",
    [
        {"calibration": "mse"},
        {"calibration": "mse", "per_channel": False},
        {"bias_correction": True},
        {"equalize": True, "per_channel": False},
        {"exclude": ["0", "8"], "bias_correction": True, "equalize": True, "calibration": "mse"},
    ],
)
def test_every_way_answers_as_the_float_model_does(
    data, exported, context, tools, tmp_path: Path, int8: str, values: dict[str, Any]
) -> None:
    path, outcome = quantize(tools, exported("resnet8"), context(int8=int8), tmp_path, **values)
    onnx.checker.check_model(str(path), full_check=True)
    wanted = tools.run_onnx(exported("resnet8"), data.test_x)
    given = tools.run_onnx(path, data.test_x, optimised=False)
    assert sqnr(wanted, given) > 25
    count = 8 if "exclude" in values else 10
    assert any(note.startswith(f"{count} of 10 convolutions") for note in outcome.notes)
    assert any("bias correction of" in note for note in outcome.notes) == (
        "bias_correction" in values
    )
    assert any("equalized 3 pairs" in note for note in outcome.notes) == ("equalize" in values)


def test_the_first_convolution_can_stay_in_float(exported, context, tools, tmp_path: Path) -> None:
    path, outcome = quantize(
        tools, exported("resnet8"), context(int8="u8s8"), tmp_path, exclude=["0"]
    )
    found = tools.running_operators(path, tmp_path)
    assert (found["Conv"], found["QLinearConv"], found["QGemm"]) == (1, 8, 1)
    assert outcome.notes[1] == (
        "9 of 10 convolutions and dense layers are quantized, each of them an integer kernel in "
        "ONNX Runtime"
    )
    first = next(n for n in onnx.load(path).graph.node if n.op_type == "Conv")
    assert first.input[0] == "input"


def test_a_layer_that_is_not_there(exported, context, tools, tmp_path: Path) -> None:
    for mode in ("static", "dynamic", "weight-only"):
        with pytest.raises(BuildError, match=r"no layer '3\.frist'.*did you mean '3\.first'\?"):
            quantize(
                tools, exported("resnet8"), context(), tmp_path, mode=mode, exclude=["3.frist"]
            )


def test_nothing_left_to_quantize(exported, context, tools, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="none of the model's 4 layers is quantized"):
        quantize(tools, exported("lenet"), context(), tmp_path, exclude=["0", "3", "7", "9"])


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_the_other_modes(data, exported, context, tools, tmp_path: Path, mode: str) -> None:
    source = exported("lenet")
    path, outcome = quantize(tools, source, context(), tmp_path, mode=mode, exclude=["0"])
    wanted, given = (tools.run_onnx(p, data.test_x) for p in (source, path))
    assert sqnr(wanted, given) > 25
    assert outcome.notes[-1] == (
        "3 of 4 convolutions and dense layers have integer weights; left in float: 0"
    )
    first = next(n for n in onnx.load(path).graph.node if n.name == "node_conv2d")
    assert first.op_type == "Conv"
    assert constants(path)[first.input[1]].dtype == np.float32
    kinds = tools.operators(path)
    assert (kinds["ConvInteger"] > 0) == (mode == "dynamic")
    assert (kinds["DequantizeLinear"] == 3) == (mode == "weight-only")


def written(path: Path, opset: int, entry: str, text: str, **weights: np.ndarray) -> Path:
    """A file in ONNX's text form, with these weights."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        f"g ({entry} x) => (float[N, 10] y) {{ {text} }}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"mode": "dynamic"}, ["up", "grouped"]),
        ({"mode": "weight-only"}, ["grouped"]),
        ({"mode": "weight-only", "kernel": "matmul-nbits"}, ["first", "second", "up", "grouped"]),
        ({"mode": "weight-only", "equalize": True}, ["grouped"]),
    ],
)
def test_what_stays_in_float_is_said(
    context, tools, tmp_path: Path, values: dict[str, Any], left: list[str]
) -> None:
    text = """
        [first] a = Conv(x, w1) r = Relu(a) [second] b = Conv(r, w2)
        [up] c = ConvTranspose(b, w3) [grouped] d = ConvTranspose <group = 2> (c, w4)
        p = GlobalAveragePool(d) f = Flatten(p) [dense] m = MatMul(f, w5) y = Add(m, b5)
    """
    rng = np.random.default_rng(0)
    source = written(
        tmp_path / "up.onnx",
        20,
        "float[N, 1, 8, 8]",
        text,
        w1=rng.normal(size=(8, 1, 3, 3)),
        w2=rng.normal(size=(8, 8, 3, 3)),
        w3=rng.normal(size=(8, 16, 2, 2)),
        w4=rng.normal(size=(16, 16, 2, 2)),
        w5=rng.normal(size=(32, 10)),
        b5=rng.normal(size=10),
    )
    used = context()
    path, outcome = quantize(tools, source, used, tmp_path, **values)
    assert outcome.notes[-1] == (
        f"{5 - len(left)} of 5 convolutions and dense layers have integer weights; left in float: "
        + ", ".join(left)
    )
    stored = {t.name: t.data_type for t in onnx.load(path).graph.initializer}
    assert stored["w4"] == TensorProto.FLOAT
    wanted, given = (tools.run_onnx(p, used.train_x[:64]) for p in (source, path))
    assert sqnr(wanted, given) > 25


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "dynamic"},
        {"mode": "weight-only"},
        {"mode": "weight-only", "bits": 4},
        {"mode": "weight-only", "kernel": "matmul-nbits"},
        {"examples": 32},
    ],
)
@pytest.mark.parametrize("opset", [12, 20])
def test_a_free_size_that_only_the_data_knows(
    context, tools, tmp_path: Path, values: dict[str, Any], opset: int
) -> None:
    rng = np.random.default_rng(0)
    source = written(
        tmp_path / "free.onnx",
        opset,
        "float[N, 1, H, W]",
        "a = Conv <pads = [1, 1, 1, 1]> (x, w1) r = Relu(a) f = Flatten(r) y = Gemm(f, w2)",
        w1=rng.normal(size=(4, 1, 3, 3)),
        w2=rng.normal(size=(256, 10)),
    )
    path, _ = quantize(tools, source, context(opset=21), tmp_path, **values)
    used = context().train_x[:64]
    assert sqnr(tools.run_onnx(source, used), tools.run_onnx(path, used)) > 15


def test_weights_of_four_bits(data, exported, context, tools, tmp_path: Path) -> None:
    path, _ = quantize(
        tools, exported("lenet"), context(opset=21), tmp_path, mode="weight-only", bits=4
    )
    kinds = {t.data_type for t in onnx.load(path).graph.initializer}
    assert TensorProto.INT4 in kinds
    wanted, given = (tools.run_onnx(p, data.test_x) for p in (exported("lenet"), path))
    assert sqnr(wanted, given) > 10


def test_weights_alone_need_no_int8_on_the_target(exported, context, tools, tmp_path: Path) -> None:
    used = context(precisions=("fp32",))
    quantize(tools, exported("lenet"), used, tmp_path, mode="weight-only")
    with pytest.raises(BuildError, match="the target runs no int8"):
        quantize(tools, exported("lenet"), used, tmp_path, mode="dynamic")


def test_weights_alone_after_equalization(data, exported, context, tools, tmp_path: Path) -> None:
    path, outcome = quantize(
        tools,
        exported("lenet"),
        context(),
        tmp_path,
        mode="weight-only",
        equalize=True,
        per_channel=False,
    )
    assert outcome.notes[0].startswith("equalized 3 pairs")
    wanted, given = (tools.run_onnx(p, data.test_x) for p in (exported("lenet"), path))
    assert sqnr(wanted, given) > 35


def test_a_limit_on_validation_examples(
    data, network, exported, context, tools, tmp_path: Path
) -> None:
    """The note's value is that of the file written, on the examples it names."""
    used = context(
        validation_x=data.test_x,
        validation_y=data.test_y,
        held_out=True,
        base=network("resnet8"),
        stranger_distance=lambda: 0.5,
    )
    wanted = tools.run_onnx(exported("resnet8"), data.test_x)
    path, _ = quantize(tools, exported("resnet8"), used, tmp_path)
    limit = sqnr(wanted, tools.run_onnx(path, data.test_x, optimised=False)) + 1.5
    path, outcome = quantize(
        tools,
        exported("resnet8"),
        used,
        tmp_path,
        keep_float={"metric": "sqnr", "limit": limit},
    )
    reached = sqnr(wanted, tools.run_onnx(path, data.test_x, optimised=False))
    assert reached >= limit
    assert f"an SQNR of {reached:.1f} dB" in outcome.notes[1]
    assert outcome.notes[2] == "decided on 100 examples held out of training"
    assert len(outcome.figures) == 1
    path, outcome = quantize(
        tools,
        exported("resnet8"),
        used,
        tmp_path,
        keep_float={"metric": "functional_preservation", "limit": 0.5},
    )
    given = tools.run_onnx(path, data.test_x, optimised=False)
    before, after = (np.exp(v) / np.exp(v).sum(axis=1, keepdims=True) for v in (wanted, given))
    value = 1 - np.linalg.norm(after - before, axis=1).mean() / 0.5
    assert f"a functional preservation of {value:.3f}" in outcome.notes[1]


def test_a_limit_holds_for_every_output(context, tools, tmp_path: Path) -> None:
    """The second output reads a value far from zero, of which integers tell little."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]>'
        "g (float[N, 8] x) => (float[N, 4] y, float[N, 4] z) {"
        "y = MatMul(x, w) s = Add(x, far) z = MatMul(s, v) }"
    )
    rng = np.random.default_rng(0)
    v = rng.normal(size=(8, 4))
    weights = {"w": rng.normal(size=(8, 4)), "v": v - v.mean(axis=0), "far": np.full(8, 300.0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    )
    source = tmp_path / "two.onnx"
    onnx.save(model, source)
    x = rng.normal(size=(64, 8)).astype(np.float32)
    used = context(train_x=x, train_y=np.zeros(0, np.int64), classes=0, int8="u8s8")
    path, outcome = quantize(
        tools, source, used, tmp_path, keep_float={"metric": "sqnr", "limit": 25}
    )
    feed = feed_for(source, x, what="examples")
    pairs = zip(all_answers(source, feed), all_answers(path, feed), strict=True)
    reached = [sqnr(np.concatenate(a), np.concatenate(b)) for a, b in pairs]
    assert min(reached) >= 25
    assert f"which gives an SQNR of {min(reached):.1f} dB" in outcome.notes[1]


def test_biases_are_corrected_once_and_judged_after(
    data, exported, context, tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebench.quantization import bias_correction

    calls, real = [], bias_correction.correct_biases

    def counted(*args: Any) -> Any:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(bias_correction, "correct_biases", counted)
    used = context(validation_x=data.test_x, validation_y=data.test_y, held_out=True)
    wanted = tools.run_onnx(exported("resnet8"), data.test_x)
    path, _ = quantize(tools, exported("resnet8"), used, tmp_path)
    limit = sqnr(wanted, tools.run_onnx(path, data.test_x, optimised=False)) + 3
    path, outcome = quantize(
        tools,
        exported("resnet8"),
        used,
        tmp_path,
        bias_correction=True,
        keep_float={"metric": "sqnr", "limit": limit},
    )
    assert len(calls) == 1
    reached = sqnr(wanted, tools.run_onnx(path, data.test_x, optimised=False))
    assert reached >= limit
    assert f"an SQNR of {reached:.1f} dB" in outcome.notes[1]
    assert outcome.notes[-1].startswith("bias correction of ")


def test_functional_preservation_needs_controls(exported, context, tools, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="needs controls"):
        quantize(
            tools,
            exported("lenet"),
            context(),
            tmp_path,
            keep_float={"metric": "functional_preservation", "limit": 0.9},
        )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"train_x": np.zeros((0, 1, 8, 8), np.float32), "train_y": np.zeros(0, np.int64)}, "no"),
        ({"train_x": np.zeros((300, 3, 8, 8), np.float32)}, r"have shape \[N, 3, 8, 8\]"),
    ],
)
def test_calibration_data_of_another_shape_or_none(
    exported, context, tools, tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(BuildError, match=text) as caught:
        quantize(tools, exported("lenet"), context(**fields), tmp_path)
    assert "calibration examples" in caught.value.line()


def test_everything_at_once_with_a_fixed_batch(
    data, exported, context, tools, tmp_path: Path
) -> None:
    model = onnx.load(exported("lenet"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    path, _ = quantize(
        tools,
        tmp_path / "one.onnx",
        context(),
        tmp_path,
        examples=32,
        calibration="mse",
        equalize=True,
        bias_correction=True,
        keep_float={"metric": "sqnr", "limit": 10},
    )
    assert tools.run_onnx(path, data.test_x[:1]).shape == (1, 10)


AGAIN = """
import sys, numpy as np
from pathlib import Path
from edgebench.quantization.calibration import Calibration
from edgebench.quantization.bias_correction import correct_biases
from edgebench.quantization.equalization import equalize
from edgebench.quantization.prepare import prepare
from edgebench.quantization.running import feed_for
from edgebench.quantization.static_int8 import FORMATS, calibrated
folder = Path(sys.argv[1])
prepared = prepare(folder / "float.onnx", folder / "prepared.onnx")
feed = feed_for(prepared.path, np.load(folder / "x.npy"), what="examples")
equalize(prepared, feed)
int8 = FORMATS["u8s8-reduced"]
made = calibrated(prepared, feed, Calibration("mse"), int8, per_channel=True, folder=folder)
made.quantize(folder / sys.argv[2], leave=prepared.nodes(["3"]))
correct_biases(prepared, folder / sys.argv[2], feed, int8)
"""


def test_two_processes_write_the_same_bytes(data, exported, tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(exported("lenet").read_bytes())
    np.save(tmp_path / "x.npy", data.train_x[:64])
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", AGAIN, str(tmp_path), f"{seed}.onnx"],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


@pytest.mark.parametrize("opset", [9, 12])
def test_a_file_of_old_operators(context, tools, tmp_path: Path, opset: int) -> None:
    """Old DequantizeLinear takes one scale a tensor alone; old files list weights as inputs."""
    clip = "Clip <min = 0.0, max = 6.0> (a)" if opset < 11 else "Clip(a, lo, hi)"
    model = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["": {opset}]>'
        "g (float[N, 1, 8, 8] x) => (float[N, 10] y) {"
        f"a = Conv <pads = [1, 1, 1, 1]> (x, w1) c = {clip} b = Conv(c, w2, b2) r = Relu(b)"
        "p = GlobalAveragePool(r) f = Flatten(p) y = Gemm <transB = 1> (f, w3, b3) }"
    )
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 1, 3, 3), "w2": (6, 4, 3, 3), "b2": (6,), "w3": (10, 6), "b3": (10,)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if opset >= 11:
        weights |= {"lo": np.array(0), "hi": np.array(6)}
    for name, value in weights.items():
        tensor = numpy_helper.from_array(value.astype(np.float32), name)
        model.graph.initializer.append(tensor)
        kind = TensorProto.FLOAT
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, value.shape))
    onnx.save(model, tmp_path / "old.onnx")
    used = context(int8="u8s8")
    path, outcome = quantize(
        tools, tmp_path / "old.onnx", used, tmp_path, exclude=["Conv_2"], bias_correction=True
    )
    assert outcome.notes[1].startswith("2 of 3 ")
    onnx.checker.check_model(str(path), full_check=True)
    wanted, given = (
        tools.run_onnx(p, used.train_x[:64], optimised=False) for p in (tmp_path / "old.onnx", path)
    )
    assert sqnr(wanted, given) > 25
