"""Integer weights and float activations: the grid, the scales, the bytes, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError
from edgebench.exporters.onnx_file import count_parameters
from edgebench.exporters.onnx_from_torch import compare_files
from edgebench.quantization.weight_only import quantize_weights

value = helper.make_tensor_value_info
node = helper.make_node
FLOAT = TensorProto.FLOAT
rng = np.random.default_rng(5)

CONV = rng.standard_normal((6, 8, 3, 3)).astype(np.float32)
DENSE = rng.standard_normal((216, 48)).astype(np.float32)
HEAD = rng.standard_normal((10, 48)).astype(np.float32)
X = rng.standard_normal((8, 8, 8, 8)).astype(np.float32)
WEIGHTS = {"wc": CONV, "wd": DENSE, "wh": HEAD}


def model_of(nodes, tensors, shape=("N", 8, 8, 8), classes=10, opset=21) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, list(shape))],
        [value("y", FLOAT, ["N", classes])],
        [numpy_helper.from_array(np.asarray(array, np.float32), n) for n, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def network(opset: int = 21, weights=WEIGHTS) -> onnx.ModelProto:
    """A convolution, a MatMul and a Gemm with its weight transposed and its answer scaled."""
    return model_of(
        [
            node("Conv", ["x", "wc"], ["c"], name="conv"),
            node("Relu", ["c"], ["r"], name="relu"),
            node("Flatten", ["r"], ["f"]),
            node("MatMul", ["f", "wd"], ["d"], name="dense"),
            node("Gemm", ["d", "wh", "b"], ["y"], name="head", transB=1, alpha=0.5),
        ],
        {**weights, "b": np.arange(10)},
        opset=opset,
    )


def stored(model: onnx.ModelProto, folder: Path, name: str = "float.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


def quantize(source: Path, **changes) -> tuple[Path, list[str]]:
    """Quantize to four bits, a scale an output channel, unless told otherwise."""
    options = {
        "bits": 4,
        "per_channel": True,
        "group_size": None,
        "kernel": "dequantize",
        "exclude": [],
        "opset": 21,
        **changes,
    }
    path = source.parent / "quantized.onnx"
    return path, quantize_weights(source, path, **options)


def tensors_of(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


def rounded(weight: np.ndarray, axes: dict[str, int], bits: int, how: str, group: int = 1):
    """A weight on its grid, one scale at a time: the slow way."""
    limit = 2 ** (bits - 1) - 1
    out = np.empty_like(weight)
    moved = np.moveaxis(weight, (axes["channel"], axes["input"]), (0, 1))
    result = np.moveaxis(out, (axes["channel"], axes["input"]), (0, 1))
    channels, inputs = moved.shape[:2]
    flat = moved.reshape(channels, inputs, -1)
    answer = np.empty_like(flat)
    for c in range(channels):
        for first in range(0, inputs, group if how == "group" else inputs):
            span = slice(first, first + group) if how == "group" else slice(None)
            for tap in range(flat.shape[2]):
                if how == "tensor":
                    seen = weight
                elif how == "channel":
                    seen = flat[c]
                else:
                    seen = flat[c, span, tap]
                scale = np.float32(np.abs(seen).max()) / np.float32(limit) or np.float32(1)
                answer[c, span, tap] = np.round(flat[c, span, tap] / scale) * scale
    result[...] = answer.reshape(moved.shape)
    return out


AXES = {
    "wc": {"channel": 0, "input": 1},
    "wd": {"channel": 1, "input": 0},
    "wh": {"channel": 0, "input": 1},
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("how", ["tensor", "channel", "group"])
@pytest.mark.parametrize("group", [4, 7])
def test_the_answers_are_those_of_rounded_weights(
    tools, tmp_path: Path, bits: int, how: str, group: int
) -> None:
    source = stored(network(), tmp_path)
    path, _ = quantize(
        source,
        bits=bits,
        per_channel=how != "tensor",
        group_size=group if how == "group" else None,
    )
    weights = {n: rounded(w, AXES[n], bits, how, group) for n, w in WEIGHTS.items()}
    expected = stored(network(weights=weights), tmp_path, "expected.onnx")
    given, wanted = (tools.run_onnx(p, X, optimised=False) for p in (path, expected))
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-3)
    # The test's own bite: other weights answer otherwise by far more than that.
    assert np.abs(wanted - tools.run_onnx(source, X, optimised=False)).max() > 0.05
    kind = {4: TensorProto.INT4, 8: TensorProto.INT8}[bits]
    assert sum(t.data_type == kind for t in tensors_of(path).values()) == 3


def linear(weight) -> onnx.ModelProto:
    return model_of(
        [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"], name="dense")],
        {"w": weight},
        shape=("N", np.shape(weight)[0]),
        classes=np.shape(weight)[1],
    )


def test_the_grid_by_hand(tmp_path: Path) -> None:
    # Halves go to the even neighbour; the largest is 7; a channel of zeros stays zero.
    weight = np.float32([[7, 0, -14], [2.5, 0, 3], [-1.5, 0, 1], [-6.6, 0, 13.2]])
    path, notes = quantize(stored(linear(weight), tmp_path))
    tensors = tensors_of(path)
    integers = numpy_helper.to_array(tensors["w_int4"]).astype(int)
    assert integers.tolist() == [[7, 0, -7], [2, 0, 2], [-2, 0, 0], [-7, 0, 7]]
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["w_scale"]), [1, 1, 2])
    assert len(tensors["w_int4"].raw_data) == 6
    assert notes[0] == (
        "1 weight at 4 bits, one scale an output channel: 18 bytes with their scales, 48 in float32"
    )


def test_one_scale_a_tensor_by_hand(tmp_path: Path) -> None:
    weight = np.float32([[14, 1], [-2, 5.1]])
    path, notes = quantize(stored(linear(weight), tmp_path), per_channel=False)
    tensors = tensors_of(path)
    assert numpy_helper.to_array(tensors["w_int4"]).astype(int).tolist() == [[7, 0], [-1, 3]]
    assert numpy_helper.to_array(tensors["w_scale"]) == 2
    assert "one scale a tensor: 6 bytes" in notes[0]


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
@pytest.mark.parametrize(("bits", "share"), [(4, 0.30), (8, 0.42)])
def test_exported_networks_take_the_bytes_they_should(
    data, exported, tools, tmp_path: Path, name: str, bits: int, share: float
) -> None:
    source = stored(onnx.load(exported(name)), tmp_path)
    path, notes = quantize(source, bits=bits)
    parameters = sum(
        np.prod(t.dims) for t in tensors_of(source).values() if len(t.dims) > 1 and t.data_type == 1
    )
    integers = sum(
        len(t.raw_data)
        for t in tensors_of(path).values()
        if t.data_type in {TensorProto.INT4, TensorProto.INT8}
    )
    assert integers == parameters * bits // 8
    assert path.stat().st_size < share * source.stat().st_size
    assert count_parameters(onnx.load(path))[0] == count_parameters(onnx.load(source))[0]
    assert "SQNR" in compare_files(source, path, data.test_x[:16])
    assert any("to float32 at each inference" in note for note in notes)


def test_int8_reads_at_a_lower_opset_and_int4_does_not(tools, tmp_path: Path) -> None:
    source = stored(network(18), tmp_path)
    path, _ = quantize(source, bits=8, opset=18)
    assert onnx.load(path).opset_import[0].version == 18
    with pytest.raises(BuildError) as caught:
        quantize(source, opset=20)
    assert str(caught.value) == (
        "4-bit weights need opset 21, and the target's runtime reads 20; set 'opset: 21' in the "
        "target if its runtime reads that, or use 'kernel: matmul-nbits' (dense layers, ONNX "
        "Runtime only)"
    )
    with pytest.raises(BuildError, match="scales of groups need opset 21"):
        quantize(source, bits=8, group_size=4, opset=20)


def test_a_file_of_a_lower_opset_is_raised(tools, tmp_path: Path) -> None:
    old, _ = quantize(stored(network(12), tmp_path))
    given = tools.run_onnx(old, X)
    assert onnx.load(old).opset_import[0].version == 21
    new, _ = quantize(stored(network(21), tmp_path))
    np.testing.assert_array_equal(given, tools.run_onnx(new, X))


def test_excluded_layers_stay_float(tmp_path: Path) -> None:
    source = stored(network(), tmp_path)
    path, notes = quantize(source, exclude=["conv", "head"])
    tensors = tensors_of(path)
    assert tensors["wc"].data_type == tensors["wh"].data_type == FLOAT
    assert "wd" not in tensors
    assert notes[0].startswith("1 weight at 4 bits")
    with pytest.raises(BuildError, match="no node 'haed' to exclude; did you mean 'head'"):
        quantize(source, exclude=["haed"])
    with pytest.raises(BuildError, match="no convolution or dense layer with weights to quantize"):
        quantize(source, exclude=["conv", "dense", "head"])


def test_a_weight_that_other_operators_read_stays(tmp_path: Path) -> None:
    model = network()
    model.graph.node.append(node("Identity", ["wd"], ["copy"]))
    path, notes = quantize(stored(model, tmp_path))
    assert tensors_of(path)["wd"].data_type == FLOAT
    assert "left in float32, since other operators read them too: wd" in notes


def shared(second: str, **settings: int) -> onnx.ModelProto:
    """One square weight read by two layers."""
    return model_of(
        [
            node("MatMul", ["x", "w"], ["a"], name="first"),
            node(second, ["a", "w"], ["y"], name="second", **settings),
        ],
        {"w": rng.standard_normal((32, 32))},
        shape=("N", 32),
        classes=32,
    )


def test_a_shared_weight_is_quantized_once(tmp_path: Path) -> None:
    path, notes = quantize(stored(shared("MatMul"), tmp_path))
    assert sorted(tensors_of(path)) == ["w_int4", "w_scale"]
    assert notes[0].startswith("1 weight at")


def test_a_weight_shared_along_other_axes_stays(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="with weights to quantize"):
        quantize(stored(shared("Gemm", transB=1), tmp_path))


def test_weights_as_constants_and_among_the_inputs(tools, tmp_path: Path) -> None:
    plain, _ = quantize(stored(network(), tmp_path))
    wanted = tools.run_onnx(plain, X)
    model = network()
    constant = model.graph.initializer[1]
    assert constant.name == "wd"
    model.graph.node.insert(0, node("Constant", [], ["wd"], value=constant))
    del model.graph.initializer[1]
    model.graph.input.append(value("wc", FLOAT, CONV.shape))
    path, notes = quantize(stored(model, tmp_path))
    assert [entry.name for entry in onnx.load(path).graph.input] == ["x"]
    assert notes[0].startswith("3 weights")
    np.testing.assert_array_equal(tools.run_onnx(path, X), wanted)


def test_layers_with_fewer_inputs_than_a_group_get_a_scale_a_channel(tmp_path: Path) -> None:
    path, notes = quantize(stored(network(), tmp_path), group_size=16)
    dims = {name: list(t.dims) for name, t in tensors_of(path).items()}
    assert dims["wc_scale"] == [6]
    assert dims["wd_scale"] == [14, 48]
    assert dims["wh_scale"] == [10, 3]
    assert notes[1].startswith(
        "of fewer than 16 inputs, and so with one scale an output channel: 1"
    )


def test_a_depthwise_convolution(tools, tmp_path: Path) -> None:
    weight = rng.standard_normal((8, 1, 3, 3))
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"], group=8),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ],
        {"w": weight},
        classes=8,
    )
    source = stored(model, tmp_path)
    path, _ = quantize(source, bits=8)
    gap = tools.run_onnx(path, X) - tools.run_onnx(source, X)
    assert 0 < np.abs(gap).max() < 0.02


@pytest.mark.parametrize("how", ["tensor", "channel", "group"])
def test_a_transposed_convolution(tools, tmp_path: Path, how: str) -> None:
    def network_of(weight: np.ndarray) -> onnx.ModelProto:
        nodes = [
            node("ConvTranspose", ["x", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ]
        return model_of(nodes, {"w": weight}, classes=6)

    # Channels of unequal size: one scale a tensor is not one a channel.
    weight = rng.standard_normal((8, 6, 3, 3)).astype(np.float32)
    weight *= np.array([1, 2, 4, 8, 16, 32], np.float32)[:, None, None]
    path, _ = quantize(
        stored(network_of(weight), tmp_path),
        per_channel=how != "tensor",
        group_size=4 if how == "group" else None,
    )
    grid = rounded(weight, {"channel": 1, "input": 0}, 4, how, 4)
    expected = stored(network_of(grid), tmp_path, "expected.onnx")
    given, wanted = (tools.run_onnx(p, X, optimised=False) for p in (path, expected))
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-4)


def test_a_transposed_convolution_in_groups_stays(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "wc"], ["c"]),
        node("ConvTranspose", ["c", "w"], ["t"], group=2),
        node("GlobalAveragePool", ["t"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    model = model_of(nodes, {"wc": CONV, "w": rng.standard_normal((6, 5, 2, 2))}, classes=10)
    path, notes = quantize(stored(model, tmp_path))
    assert tensors_of(path)["w"].data_type == FLOAT
    assert notes[1] == (
        "left in float32, since no axis of theirs is the output channel (transposed convolutions "
        "in groups): w"
    )


def test_weights_that_would_not_be_smaller(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="take 46656 bytes, the float32 ones 41472; use larger gr"):
        quantize(stored(linear(DENSE), tmp_path), group_size=1)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    weight = DENSE.copy()
    weight[3, 3] = np.inf
    with pytest.raises(BuildError, match="the weight 'w' is not finite"):
        quantize(stored(linear(weight), tmp_path))


def test_what_onnx_runtime_makes_of_it_is_said(tmp_path: Path) -> None:
    _, notes = quantize(stored(network(), tmp_path))
    # It fuses MatMul alone.
    assert "ONNX Runtime converts 2 of the weights to float32 at each inference" in notes[1]
    assert "ONNX Runtime runs 1 of the layers as MatMulNBits on this host's processor" in notes[2]


@pytest.mark.parametrize("kernel", ["dequantize", "matmul-nbits"])
def test_the_same_file_every_time(tmp_path: Path, kernel: str) -> None:
    source = stored(network(), tmp_path)
    content = source.read_bytes()
    path, notes = quantize(source, kernel=kernel)
    first = path.read_bytes()
    assert quantize(source, kernel=kernel)[1] == notes
    assert path.read_bytes() == first
    assert source.read_bytes() == content
    assert str(tmp_path).encode() not in first


def dequantized(path: Path) -> dict[str, np.ndarray]:
    """The weights [K, N] of a file's MatMulNBits nodes, by the nodes' first output."""
    tensors = {n: numpy_helper.to_array(t) for n, t in tensors_of(path).items()}
    found = {}
    for part in onnx.load(path).graph.node:
        if part.op_type != "MatMulNBits":
            continue
        settings = {a.name: a.i for a in part.attribute}
        packed, scales = (tensors[name] for name in part.input[1:3])
        if settings["bits"] == 4:
            packed = np.stack([packed & 15, packed >> 4], axis=-1)
        numbers = packed.reshape(settings["N"], -1, settings["block_size"]).astype(np.float32)
        numbers -= 2 ** (settings["bits"] - 1)
        numbers *= scales.reshape(settings["N"], -1, 1)
        found[part.output[0]] = numbers.reshape(settings["N"], -1)[:, : settings["K"]].T
    return found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("opset", [12, 18, 21])
def test_matmul_nbits(tools, tmp_path: Path, bits: int, opset: int) -> None:
    source = stored(network(opset), tmp_path)
    path, notes = quantize(source, bits=bits, kernel="matmul-nbits", opset=18)
    operators = tools.operators(path)
    assert operators["MatMulNBits"] == 2
    assert not operators["Gemm"]
    assert onnx.load(path).opset_import[0].version == opset
    weights = dequantized(path)
    limit = {4: 8, 8: 128}[bits]
    assert np.abs(weights["d"] - DENSE).max() <= np.abs(DENSE).max() / limit
    # The transposed weight, times alpha.
    (head,) = (w for name, w in weights.items() if name != "d")
    assert np.abs(head - 0.5 * HEAD.T).max() <= 0.5 * np.abs(HEAD).max() / limit
    expected = network(weights={"wc": CONV, "wd": weights["d"], "wh": 2 * head.T})
    wanted = tools.run_onnx(stored(expected, tmp_path, "expected.onnx"), X)
    # Activations stay float32, also where the graph is optimised.
    np.testing.assert_allclose(tools.run_onnx(path, X), wanted, rtol=1e-4, atol=1e-3)
    assert notes == [
        f"2 dense layers at {bits} bits, one scale a group of 32 inputs: "
        f"{(224 * 48 + 64 * 10) * bits // 8 + (7 * 48 + 2 * 10) * 4} bytes with their scales, "
        f"{(216 * 48 + 48 * 10) * 4} in float32",
        "MatMulNBits takes dense layers alone; left in float32: 1 Conv",
    ]
    assert "SQNR" in compare_files(source, path, X)


def test_matmul_nbits_leaves_what_is_excluded(tmp_path: Path) -> None:
    source = stored(network(), tmp_path)
    path, notes = quantize(source, kernel="matmul-nbits", exclude=["head"])
    assert "wh" in tensors_of(path)
    assert "Gemm" in {part.op_type for part in onnx.load(path).graph.node}
    assert notes[0].startswith("1 dense layer at 4 bits")
    with pytest.raises(BuildError, match="no node 'dens' to exclude; did you mean 'dense'"):
        quantize(source, kernel="matmul-nbits", exclude=["dens"])


@pytest.mark.parametrize("settings", [{"transA": 1}, {"beta": 2.0}])
def test_a_gemm_that_is_no_matmul_is_left(tools, tmp_path: Path, settings) -> None:
    model = network()
    head = model.graph.node[4]
    if "transA" in settings:
        model.graph.node.insert(4, node("Transpose", ["d"], ["t"], perm=[1, 0]))
        model.graph.node[5].input[0] = "t"
        head = model.graph.node[5]
    head.attribute.extend([helper.make_attribute(*pair) for pair in settings.items()])
    path, _ = quantize(stored(model, tmp_path), kernel="matmul-nbits")
    assert tools.operators(path)["Gemm"] == 1
    assert tools.operators(path)["MatMulNBits"] == 1


def test_matmul_nbits_of_a_shared_weight(tools, tmp_path: Path) -> None:
    source = stored(shared("MatMul"), tmp_path)
    path, notes = quantize(source, kernel="matmul-nbits")
    names = [t.name for t in onnx.load(path).graph.initializer]
    assert len(names) == len(set(names)) == 2
    assert f"{32 * 32 // 2 + 32 * 4} bytes" in notes[0]
    assert tools.run_onnx(path, X[:1, 0, :4].reshape(1, 32)).shape == (1, 32)


def test_matmul_nbits_without_a_dense_layer(tmp_path: Path) -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["p"]),
            node("Flatten", ["p"], ["y"]),
        ],
        {"w": CONV},
        classes=6,
    )
    with pytest.raises(BuildError, match="no dense layer with weights that MatMulNBits"):
        quantize(stored(model, tmp_path), kernel="matmul-nbits")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"per_channel": False, "group_size": 32},
            "groups lie within output channels; leave 'per_channel' on",
        ),
        (
            {"per_channel": False, "kernel": "matmul-nbits"},
            "the groups of matmul-nbits lie within output channels; leave 'per_channel' on",
        ),
        (
            {"kernel": "matmul-nbits", "group_size": 48},
            "ONNX Runtime has no MatMulNBits with groups of 48; use one of 16, 32, 64, 128, 256",
        ),
    ],
)
def test_options_that_contradict_one_another(tmp_path: Path, options, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        quantize(stored(network(), tmp_path), **options)
    assert str(caught.value) == text


def test_the_log_stays_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, root.manager.disable)
    quantize(stored(network(), tmp_path), kernel="matmul-nbits")
    assert (list(root.handlers), root.level, root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
