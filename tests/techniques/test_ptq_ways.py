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
    assert outcome.notes
    first = next(n for n in onnx.load(path).graph.node if n.name == "node_conv2d")
    assert first.op_type == "Conv"
    assert constants(path)[first.input[1]].dtype == np.float32
    kinds = tools.operators(path)
    assert (kinds["ConvInteger"] > 0) == (mode == "dynamic")
    assert (kinds["DequantizeLinear"] == 3) == (mode == "weight-only")


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
