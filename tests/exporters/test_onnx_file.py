"""What an ONNX file holds, counted; and what is said of a file that is none."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import ModelError
from edgebench.exporters.onnx_file import (
    check_fits,
    classifier_of,
    compressed_size,
    count_parameters,
    read_onnx,
)
from edgebench.techniques.base import TECHNIQUES

value = helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT


def model_of(nodes, inputs, outputs, tensors=()) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def dense(shape=("N", 1, 8, 8), weight=None) -> onnx.ModelProto:
    weight = np.ones((64, 10), np.float32) if weight is None else weight
    return model_of(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        [value("x", FLOAT, list(shape))],
        [value("y", FLOAT, ["N", weight.shape[1]])],
        [("w", weight)],
    )


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_onnx(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "\x1b" not in line
    assert str(path.parent) in line
    return line


def test_a_sound_file_is_read(exported) -> None:
    assert read_onnx(exported("lenet")) == onnx.load(exported("lenet"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file(exported, tmp_path: Path, share: float) -> None:
    content = exported("lenet").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: int(share * len(content))])
    assert refused(tmp_path / "m.onnx").endswith("is it complete?")


@pytest.mark.parametrize(
    "content",
    [b"# a text\nof two lines\n", bytes(range(256)) * 20, b"\0" * 500, b"version https://git-lfs"],
)
def test_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "the ONNX file cannot be read: " in refused(tmp_path / "m.onnx")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path / "m.onnx").endswith("there is no ONNX file at this path")
    (tmp_path / "m.onnx").mkdir()
    assert "Is a directory" in refused(tmp_path / "m.onnx")


def test_an_operator_nobody_knows(tmp_path: Path) -> None:
    model = dense()
    model.graph.node[1].op_type = "Vonc"
    onnx.save(model, tmp_path / "m.onnx")
    assert "Vonc" in refused(tmp_path / "m.onnx")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A folder with a model and its weights in a file beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    onnx.save(
        dense(weight=np.arange(640, dtype=np.float32).reshape(64, 10)),
        folder / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    return folder


def test_external_data_is_brought_in(split: Path) -> None:
    weight = read_onnx(split / "m.onnx").graph.initializer[0]
    assert numpy_helper.to_array(weight)[63, 9] == 639
    assert not weight.external_data


def test_external_data_that_is_missing(split: Path) -> None:
    (split / "w.bin").unlink()
    line = refused(split / "m.onnx")
    assert "w.bin" in line
    assert line.endswith("its weights must lie in files beside it")


@pytest.mark.parametrize("place", ["../w.bin", "absolute", "sub/../../w.bin"])
def test_external_data_outside_the_folder_is_not_read(split: Path, place: str) -> None:
    outside = split.parent / "w.bin"
    (split / "w.bin").rename(outside)
    (split / "sub").mkdir()
    model = onnx.load(split / "m.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = str(outside) if place == "absolute" else place
    (split / "m.onnx").write_bytes(model.SerializeToString())
    assert refused(split / "m.onnx").endswith("its weights must lie in files beside it")


def test_a_link_to_external_data_is_not_followed(split: Path) -> None:
    (split / "w.bin").rename(split.parent / "secret")
    (split / "w.bin").symlink_to(split.parent / "secret")
    refused(split / "m.onnx")


def test_external_data_that_is_too_short(split: Path) -> None:
    (split / "w.bin").write_bytes(b"\0" * 10)
    refused(split / "m.onnx")


def test_a_classifier() -> None:
    found = classifier_of(dense(), where="m")
    assert found.input_shape == (None, 1, 8, 8)
    assert found.output_shape == (None, 10)
    assert (found.input_name, found.output_name, found.opset) == ("x", "y", 17)
    assert classifier_of(dense(shape=(1, 1, 8, 8)), where="m").input_shape == (1, 1, 8, 8)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_that_is_written_as_no_size_is_free(batch: int) -> None:
    model = dense()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    found = classifier_of(model, where="m")
    assert found.input_shape == (None, 1, 8, 8)
    check_fits(found, (1, 8, 8), 10, where="m")


def test_weights_listed_as_inputs_are_none() -> None:
    model = dense()
    model.graph.input.append(value("w", FLOAT, [64, 10]))
    assert classifier_of(model, where="m").input_name == "x"


def identity(inputs, outputs) -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", [inputs[0].name], [o.name]) for o in outputs]
    return model_of(nodes, inputs, outputs)


IMAGE = ["N", 3, 8, 8]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            identity([value("a", FLOAT, IMAGE), value("b", FLOAT, IMAGE)], [value("y", FLOAT, [])]),
            "has 2 inputs and 1 outputs; a classifier has one of each",
        ),
        (
            identity(
                [value("a", FLOAT, ["N", 10])],
                [value("y", FLOAT, ["N", 10]), value("z", FLOAT, ["N", 10])],
            ),
            "has 1 inputs and 2 outputs",
        ),
        (
            identity(
                [value("a", TensorProto.UINT8, IMAGE)], [value("y", TensorProto.UINT8, IMAGE)]
            ),
            "the model's input is UINT8, not float32",
        ),
        (
            identity([value("a", TensorProto.FLOAT16, IMAGE)], [value("y", FLOAT, IMAGE)]),
            "the model's input is FLOAT16, not float32",
        ),
        (
            identity([value("a", FLOAT, IMAGE)], [value("y", FLOAT, IMAGE)]),
            "output 'y' has shape [N, 3, 8, 8]; a classifier gives [N, classes]",
        ),
        (
            identity([value("a", FLOAT, [10])], [value("y", FLOAT, [10])]),
            "output 'y' has shape [10]",
        ),
    ],
)
def test_what_is_no_classifier(model: onnx.ModelProto, text: str) -> None:
    with pytest.raises(ModelError) as caught:
        classifier_of(model, where="m.onnx")
    assert str(caught.value).startswith("m.onnx: ")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "text"),
    [
        ((1, 9, 9), 10, "takes inputs [N, 1, 8, 8], the data has [N, 1, 9, 9]; name data of the"),
        ((3, 8, 8), 10, "takes inputs [N, 1, 8, 8], the data has [N, 3, 8, 8]"),
        ((64,), 10, "the data has [N, 64]"),
        ((1, 8, 8), 7, "answers 10 classes, the data has 7"),
    ],
)
def test_a_model_for_other_data(shape: tuple[int, ...], classes: int, text: str) -> None:
    classifier = classifier_of(dense(), where="m.onnx")
    check_fits(classifier, (1, 8, 8), 10, where="m.onnx")
    with pytest.raises(ModelError) as caught:
        check_fits(classifier, shape, classes, where="m.onnx")
    assert text in str(caught.value)


def test_sizes_that_are_free_fit_everything() -> None:
    model = identity([value("a", FLOAT, ["N", "C", "H", "W"])], [value("y", FLOAT, ["N", "K"])])
    check_fits(classifier_of(model, where=""), (3, 5, 7), 10, where="")


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_the_parameters_of_a_float_model(network, exported, tools, name: str) -> None:
    # Normalisation and the biases before it are folded into one bias a channel.
    weights = sum(w.numel() for w in tools.weights_of(network(name)).values())
    biases = sum(len(w) for w in tools.weights_of(network(name)).values())
    assert count_parameters(read_onnx(exported(name))) == (weights + biases, 0)


@pytest.mark.parametrize("int8", ["u8s8", "s8s8-symmetric"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_an_integer_file_has_the_parameters_of_the_float_file(
    exported, context, tools, tmp_path: Path, int8: str, per_channel: bool
) -> None:
    path = tmp_path / "int8.onnx"
    options = tools.options_of("ptq", examples=32, per_channel=per_channel)
    TECHNIQUES.get("ptq")().apply(exported("resnet8"), path, options, context(int8=int8))
    expected = count_parameters(read_onnx(exported("resnet8")))[0]
    assert count_parameters(read_onnx(path))[0] == expected


def test_half_precision_has_the_parameters_of_the_float_file(
    exported, context, tools, tmp_path: Path
) -> None:
    path = tmp_path / "fp16.onnx"
    TECHNIQUES.get("cast")().apply(exported("resnet8"), path, tools.options_of("cast"), context())
    expected = count_parameters(read_onnx(exported("resnet8")))[0]
    assert count_parameters(read_onnx(path))[0] == expected


def test_bfloat16_has_the_parameters_of_the_float_file(
    exported, context, tools, tmp_path: Path
) -> None:
    path = tmp_path / "bf16.onnx"
    options = tools.options_of("cast", dtype="bf16")
    TECHNIQUES.get("cast")().apply(exported("resnet8"), path, options, context(precisions=["bf16"]))
    assert count_parameters(read_onnx(path)) == count_parameters(read_onnx(exported("resnet8")))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
@pytest.mark.parametrize("block", [0, 4])
def test_numbers_that_share_a_byte_count_each(kind: int, block: int) -> None:
    # Fifteen numbers in eight bytes, three of them zero.
    numbers = [1, 2, 0, 3, 4, 0, 5, 6, 7, 1, 0, 2, 3, 4, 5]
    tensor = helper.make_tensor("w", kind, [5, 3], numbers)
    scales = np.ones((2, 3) if block else 3, np.float32)
    settings = {"axis": 0, "block_size": block} if block else {"axis": 1}
    model = model_of(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["f"], **settings),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        [value("x", FLOAT, ["N", 5])],
        [value("y", FLOAT, ["N", 3])],
        [("s", scales)],
    )
    model.graph.initializer.append(tensor)
    model.opset_import[0].version, model.ir_version = 21, 10
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(model) == (15, 3)


def test_a_weight_behind_a_cast_counts() -> None:
    model = model_of(
        [
            helper.make_node("Cast", ["w"], ["i"], to=TensorProto.INT8),
            helper.make_node("DequantizeLinear", ["i", "s", "z"], ["f"], axis=1),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        [value("x", FLOAT, ["N", 2])],
        [value("y", FLOAT, ["N", 3])],
        [("s", np.ones(3, np.float32)), ("z", np.zeros(3, np.int8))],
    )
    model.graph.initializer.append(
        helper.make_tensor("w", TensorProto.INT4, [2, 3], [1, 0, 2, -8, 0, 7])
    )
    model.opset_import[0].version, model.ir_version = 21, 10
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(model) == (6, 2)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("points", ["none", "packed", "float"])
def test_packed_weights_of_matmul_nbits(bits: int, points: str) -> None:
    inputs, channels, block = 40, 3, 16
    blocks, per_byte = 3, 8 // bits
    rng = np.random.default_rng(bits)
    zero = rng.integers(0, 2**bits, (channels, blocks))
    if points == "none":
        zero[:] = 2 ** (bits - 1)
    integers = rng.integers(0, 2**bits, (channels, blocks * block))
    # Padding that looks like zeros is no weight.
    spread = np.repeat(zero, block, axis=1)
    integers[:, inputs:] = spread[:, inputs:]
    integers[:, :5] = spread[:, :5]
    expected = int((integers == spread)[:, :inputs].sum())
    assert expected >= 15

    def pack(numbers: np.ndarray) -> np.ndarray:
        rows = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % per_byte)))
        parts = rows.reshape(channels, -1, per_byte) << (bits * np.arange(per_byte))
        return parts.sum(axis=2).astype(np.uint8)

    tensors = [
        ("w", pack(integers).reshape(channels, blocks, -1)),
        ("s", np.ones((channels, blocks), np.float32)),
        ("b", np.float32([1, 0, 2])),
    ]
    names = ["x", "w", "s", "", "", "b"]
    if points != "none":
        names[3] = "z"
        tensors.append(("z", pack(zero) if points == "packed" else zero.astype(np.float32)))
    sizes = {"K": inputs, "N": channels, "bits": bits, "block_size": block}
    model = model_of(
        [helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **sizes)],
        [value("x", FLOAT, ["N", inputs])],
        [value("y", FLOAT, ["N", channels])],
        tensors,
    )
    # The bias has three numbers, one of them zero.
    assert count_parameters(model) == (inputs * channels + 3, expected + 1)


def test_scales_of_dynamic_quantization_are_no_parameters(exported, tmp_path: Path) -> None:
    from edgebench.quantization.dynamic import quantize_dynamically

    path = tmp_path / "dynamic.onnx"
    quantize_dynamically(exported("lenet"), path, per_channel=True, reduce_range=True, exclude=[])
    scales = [t for t in onnx.load(path).graph.initializer if "scale" in t.name and t.dims]
    assert scales
    expected = count_parameters(read_onnx(exported("lenet")))[0]
    assert count_parameters(onnx.load(path))[0] == expected


def test_integer_operators_have_parameters_too(data, exported, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"input": data.train_x[:32]}])

        def get_next(self):
            return next(self.feeds, None)

    path = tmp_path / "qoperator.onnx"
    quantize_static(exported("lenet"), path, Reader(), quant_format=QuantFormat.QOperator)
    model = onnx.load(path)
    assert "QLinearConv" in {node.op_type for node in model.graph.node}
    expected = count_parameters(read_onnx(exported("lenet")))[0]
    assert count_parameters(model)[0] == expected


def test_statistics_scales_and_shapes_are_no_parameters() -> None:
    ones = np.ones(3, np.float32)
    model = model_of(
        [
            helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            helper.make_node("Reshape", ["n", "shape"], ["y"]),
        ],
        [value("x", FLOAT, IMAGE)],
        [value("y", FLOAT, ["N", 192])],
        [
            ("s", ones),
            ("b", 0 * ones),
            ("m", 0 * ones),
            ("v", ones),
            ("shape", np.array([-1, 192])),
        ],
    )
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(model) == (6, 3)


def test_weights_written_as_constants_count() -> None:
    weight = np.ones((64, 10), np.float32)
    weight[:3] = 0
    model = dense(weight=weight)
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(model) == (640, 30)


def test_zeros_are_counted(data, network, context, tools, tmp_path: Path) -> None:
    from edgebench.exporters.onnx_from_torch import export_onnx

    options = tools.options_of("prune-unstructured", ratio=0.75)
    module, _ = TECHNIQUES.get("prune-unstructured")().apply(network("lenet"), options, context())
    export_onnx(module, data.test_x[:8], tmp_path / "m.onnx", opset=20)
    weights = sum(w.numel() for w in tools.weights_of(module).values())
    assert count_parameters(read_onnx(tmp_path / "m.onnx"))[1] == round(0.75 * weights)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 7])
def test_the_compressed_size_is_deflates(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(0).integers(0, 9, size, dtype=np.uint8).tobytes()
    (tmp_path / "f").write_bytes(content)
    assert compressed_size(tmp_path / "f") == len(zlib.compress(content, 6))
