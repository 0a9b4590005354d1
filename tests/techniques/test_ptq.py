"""Static int8 in the target's format, calibrated on a fair and repeatable choice of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES
from edgebench.techniques.ptq import calibration_examples

PTQ = TECHNIQUES.get("ptq")
FORMATS = ["u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric"]


def quantize(tools, source: Path, context, folder: Path, **options):
    path = folder / "int8.onnx"
    outcome = PTQ().apply(source, path, tools.options_of("ptq", **options), context)
    return path, outcome


def constants(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("int8", FORMATS)
def test_the_file_is_in_the_format_asked_for(
    exported, context, tools, tmp_path: Path, int8: str
) -> None:
    path, outcome = quantize(tools, exported("lenet"), context(int8=int8), tmp_path)
    form = {
        "s8s8-symmetric": "in the form that TensorRT reads",
        "s8s8": "each of them an integer kernel in ONNX Runtime on ARM",
    }.get(int8, "each of them an integer kernel in ONNX Runtime")
    assert outcome.notes == [
        f"int8 format {int8}, 256 calibration examples",
        f"4 of 4 convolutions and dense layers are quantized, {form}",
    ]
    graph, values = onnx.load(path).graph, constants(path)
    activations = [values[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    unsigned = int8.startswith("u8")
    assert {zero.dtype for zero in activations} == {np.dtype(np.uint8 if unsigned else np.int8)}
    weights = [v for v in values.values() if v.dtype == np.int8 and v.ndim > 1]
    assert len(weights) == 4
    largest = max(int(np.abs(w.astype(int)).max()) for w in weights)
    # Reduced weights have 7 bits; per channel, every channel uses its whole range.
    assert largest == (64 if int8 == "u8s8-reduced" else 127)
    biases = [v for v in values.values() if v.dtype == np.int32 and v.any()]
    if int8 == "s8s8-symmetric":
        assert {int(zero) for zero in activations} == {0}
        assert not biases
    else:
        assert len(biases) == 4


@pytest.mark.parametrize("int8", FORMATS)
@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_it_answers_as_the_float_model_does(
    data, exported, context, tools, tmp_path: Path, int8: str, name: str
) -> None:
    path, _ = quantize(tools, exported(name), context(int8=int8), tmp_path)
    wanted = tools.run_onnx(exported(name), data.test_x)
    given = tools.run_onnx(path, data.test_x, optimised=False)
    assert (wanted.argmax(1) == given.argmax(1)).mean() >= 0.9
    assert path.stat().st_size < exported(name).stat().st_size


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_every_convolution_runs_on_integers(
    network, exported, context, tools, tmp_path: Path, name: str
) -> None:
    path, _ = quantize(tools, exported(name), context(int8="u8s8"), tmp_path)
    found = tools.running_operators(path, tmp_path)
    assert found["QLinearConv"] == tools.convolutions(network(name)) > 0
    assert found["Conv"] == found["Gemm"] == found["MatMul"] == 0


def test_one_scale_a_channel_or_one_a_tensor(exported, context, tools, tmp_path: Path) -> None:
    def scales(**options) -> list[int]:
        path, _ = quantize(tools, exported("lenet"), context(), tmp_path, **options)
        graph, values = onnx.load(path).graph, constants(path)
        return [
            values[n.input[1]].size
            for n in graph.node
            if n.op_type == "DequantizeLinear"
            and n.input[0] in values
            and values[n.input[0]].ndim > 1
        ]

    assert scales() == [8, 16, 32, 10]
    assert scales(per_channel=False) == [1, 1, 1, 1]


def test_percentiles_leave_the_extremes_out(data, exported, context, tools, tmp_path: Path) -> None:
    spiked = data.train_x.copy()
    spiked[0, 0, 0, 0] = 50.0
    used = context(train_x=spiked)

    def input_scale(**options) -> float:
        path, _ = quantize(tools, exported("lenet"), used, tmp_path, examples=300, **options)
        graph, values = onnx.load(path).graph, constants(path)
        first = next(n for n in graph.node if n.op_type == "QuantizeLinear")
        return float(values[first.input[1]])

    assert input_scale() == pytest.approx(50 / 255, rel=1e-3)
    assert input_scale(calibration="percentile", percentile=99.0) < 2 / 255
    path, _ = quantize(tools, exported("lenet"), context(), tmp_path, calibration="percentile")
    wanted = tools.run_onnx(exported("lenet"), data.test_x).argmax(1)
    assert (tools.run_onnx(path, data.test_x).argmax(1) == wanted).mean() >= 0.9


@pytest.mark.parametrize("calibration", ["minmax", "percentile"])
def test_symmetric_percentiles(exported, context, tools, tmp_path: Path, calibration: str) -> None:
    path, _ = quantize(
        tools,
        exported("lenet"),
        context(int8="s8s8-symmetric"),
        tmp_path,
        calibration=calibration,
    )
    onnx.checker.check_model(str(path), full_check=True)


def labelled(*labels: int):
    y = np.array(labels, np.int64)
    x = np.arange(len(y), dtype=np.float32)[:, None, None, None]
    return {"train_x": x, "train_y": y}


def chosen(context, count: int, **fields) -> list[int]:
    return [int(v) for v in calibration_examples(context(**fields), count).ravel()]


@pytest.mark.parametrize("order", ["class after class", "mixed"])
def test_calibration_takes_the_classes_in_turn(context, order: str) -> None:
    labels = np.repeat(np.arange(5), 40)
    if order == "mixed":
        labels = labels.reshape(5, 40).T.ravel()
    fields = labelled(*labels)
    taken = labels[chosen(context, 20, **fields)]
    assert np.bincount(taken).tolist() == [4, 4, 4, 4, 4]
    # With one more, one class is one ahead.
    assert sorted(np.bincount(labels[chosen(context, 21, **fields)]).tolist()) == [4, 4, 4, 4, 5]


def test_calibration_takes_all_of_a_rare_class(context) -> None:
    fields = labelled(*[0] * 50, *[1] * 3)
    taken = chosen(context, 20, **fields)
    assert {50, 51, 52} <= set(taken)
    assert len(taken) == len(set(taken)) == 20


def test_calibration_depends_on_the_seed_alone(context) -> None:
    fields = labelled(*np.repeat(np.arange(5), 40))
    assert chosen(context, 20, **fields) == chosen(context, 20, **fields)
    assert chosen(context, 20, **fields) != chosen(context, 20, **fields, seed=1)


def test_calibration_takes_what_there_is(context) -> None:
    assert chosen(context, 99, **labelled(0, 1, 0)) == [0, 1, 2]


def test_a_model_with_a_fixed_batch(data, exported, context, tools, tmp_path: Path) -> None:
    model = onnx.load(exported("lenet"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    path, _ = quantize(tools, tmp_path / "one.onnx", context(), tmp_path)
    assert tools.run_onnx(path, data.test_x[:1]).shape == (1, 10)


def test_a_target_without_int8(exported, context, tools, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the target runs no int8; see 'precisions'"):
        quantize(tools, exported("lenet"), context(precisions=("fp32", "fp16")), tmp_path)


def simple(folder: Path, operator: str) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 1, 8, 8])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9
    )
    onnx.save(model, folder / "simple.onnx")
    return folder / "simple.onnx"


def test_a_model_with_nothing_to_quantize(context, tools, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="found no operator to quantize"):
        quantize(tools, simple(tmp_path, "Exp"), context(), tmp_path)


def test_what_onnx_runtime_refuses_is_one_line(exported, context, tools, tmp_path: Path) -> None:
    model = onnx.load(exported("lenet"))
    next(n for n in model.graph.node if n.op_type == "Conv").op_type = "Vonc"
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(BuildError, match="ONNX Runtime cannot quantize this model: ") as caught:
        quantize(tools, tmp_path / "wrong.onnx", context(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_fault_of_the_model(
    exported, context, tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device (a fake)")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", full)
    with pytest.raises(OSError, match="a fake"):
        quantize(tools, exported("lenet"), context(), tmp_path)


def test_nothing_is_printed_and_logging_goes_on(
    exported, context, tools, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import logging

    quantize(tools, exported("lenet"), context(), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
