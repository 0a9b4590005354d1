"""Quantization-aware training: in the target's format, and better for the training."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from pydantic import ValidationError
from torch import nn

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx, write_onnx
from edgebench.exporters.pt2_from_torch import export_pt2
from edgebench.quantization.fake_quant import (
    activation_quantizers,
    is_quantized,
    quantized_layers,
)
from edgebench.quantization.quantized_graph import folded_graph
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import cross_entropy
from edgebench.training_settings import Training

QAT = TECHNIQUES.get("qat")
# As good as no training: what rounding alone gives.
UNTRAINED = {"epochs": 1, "learning_rate": 1e-9}


def train(tools, module: nn.Module, context, **options):
    return QAT().apply(module, tools.options_of("qat", **options), context)


@pytest.mark.parametrize("int8", ["u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric"])
def test_every_format_keeps_the_accuracy(
    data, network, context, tools, tmp_path: Path, int8: str
) -> None:
    before = tools.accuracy(tools.run_module(network("lenet"), data.test_x), data.test_y)
    module, outcome = train(tools, network("lenet"), context(int8=int8), epochs=2)
    limit = 63 if int8 == "u8s8-reduced" else 127
    assert outcome.notes == [
        f"4 layers with int8 weights in ±{limit}, one scale a channel; activations int8 in the "
        f"format {int8}"
    ]
    assert not any(part.training for part in module.modules())
    export_onnx(module, data.test_x[:32], tmp_path / "model.onnx", opset=20)
    answers = tools.run_onnx(tmp_path / "model.onnx", data.test_x, optimised=False)
    assert tools.accuracy(answers, data.test_y) > before - 0.05


def unequal(data, network) -> nn.Module:
    """A well trained network whose channels differ ninefold in size, as a real one's do.

    A ReLU lets a factor through, so that the next layer can take it back: the answers stay.
    """
    module = network("lenet")
    settings = Training(epochs=20, batch_size=32, learning_rate=1e-2)
    labels = torch.from_numpy(data.train_y)
    fit(module, torch.from_numpy(data.train_x), cross_entropy(labels), settings, seed=1, what="")
    factors = torch.tensor([3.0, 1 / 3]).repeat(4)
    with torch.no_grad():
        module[0].weight *= factors.view(-1, 1, 1, 1)
        module[0].bias *= factors
        module[3].weight /= factors.view(1, -1, 1, 1)
    return module


def test_training_at_four_bits_beats_rounding_to_them(data, network, context, tools) -> None:
    base = unequal(data, network)

    def accuracy(module: nn.Module) -> float:
        return tools.accuracy(tools.run_module(module, data.test_x), data.test_y)

    def trained(**options) -> float:
        options = {"dtype": "int4", "per_channel": False, **options}
        return accuracy(train(tools, deepcopy(base), context(), **options)[0])

    # It is not the training as such: in float32 nothing is left to gain.
    options = tools.options_of("qat", epochs=4, learning_rate=5e-3)
    longer = accuracy(QAT().reference(deepcopy(base), options, context()))
    assert longer <= accuracy(base) + 0.02
    rounded = trained(**UNTRAINED)
    for ranges in ("moving-average", "learned"):
        gained = trained(ranges=ranges, epochs=4, learning_rate=5e-3)
        assert gained > rounded + 0.3
        assert gained > longer - 0.1


def test_learned_steps_move_and_are_stored(data, network, context, tools) -> None:
    options = tools.options_of("qat", ranges="learned", dtype="int4", epochs=1)
    module, _ = QAT().apply(network("lenet"), options, context())
    steps = [part.step for part in [*quantized_layers(module), *activation_quantizers(module)]]
    assert len(steps) == 4 + 4
    for step in steps:
        assert step is not None
        assert torch.any(step.log_ratio != 0)
        assert torch.all(step().isfinite() & (step() > 0))
    again = QAT().restructure(network("lenet"), options, {}, context())
    again.load_state_dict(module.state_dict())
    x = torch.from_numpy(data.test_x)
    assert torch.equal(predict(again, x), predict(module, x))


@pytest.mark.parametrize(
    ("options", "scales"),
    [({}, [8, 16, 32, 10]), ({"per_channel": False}, [1, 1, 1, 1])],
)
def test_scales_of_weights(network, context, tools, options, scales: list[int]) -> None:
    for ranges in ("moving-average", "learned"):
        module, outcome = train(
            tools, network("lenet"), context(), ranges=ranges, **options, **UNTRAINED
        )
        assert [layer.scales().numel() for layer in quantized_layers(module)] == scales
        assert ("one scale a channel" in outcome.notes[0]) == (not options)


def test_four_bits_on_disk_and_integer_kernels(
    data, network, context, tools, tmp_path: Path
) -> None:
    module, outcome = train(tools, network("resnet8"), context(), dtype="int4", **UNTRAINED)
    assert "10 layers with int4 weights in ±7" in outcome.notes[0]
    path = tmp_path / "model.onnx"
    with pytest.raises(BuildError, match="4-bit weights need opset 21, and the target asks for 20"):
        export_onnx(module, data.test_x[:32], path, opset=20)
    export_onnx(module, data.test_x[:32], path, opset=21)
    stored = [t for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.INT4]
    weights = sum(layer.weight.numel() for layer in quantized_layers(module))
    assert sum(len(t.raw_data) for t in stored) == weights // 2
    found = tools.running_operators(path, tmp_path)
    assert found["QLinearConv"] == 9
    assert found["QGemm"] == 1


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_alone(data, network, exported, context, tools, tmp_path: Path, dtype: str) -> None:
    # Nothing runs on integers: a target without int8 will do.
    module, outcome = train(
        tools,
        network("lenet"),
        context(precisions=("fp32",)),
        dtype=dtype,
        activations="float",
        **UNTRAINED,
    )
    assert "activations float" in outcome.notes[0]
    assert not activation_quantizers(module)
    path = tmp_path / "model.onnx"
    note = export_onnx(module, data.test_x[:32], path, opset=21)
    assert float(note.split()[3]) < 1e-3
    # The weights are unpacked when the file is loaded, and not at every inference.
    found = tools.running_operators(path, tmp_path)
    assert found["Conv"] + found["FusedConv"] == 2
    assert not {"DequantizeLinear", "Cast", "Mul", "MatMulNBits"} & set(found)
    assert (
        path.stat().st_size < {"int8": 0.5, "int4": 0.4}[dtype] * exported("lenet").stat().st_size
    )


@pytest.mark.parametrize(
    ("dtype", "digits", "activations"), [("fp16", 11, "half"), ("bf16", 8, "float")]
)
def test_half_precision(
    data, network, exported, context, tools, tmp_path: Path, dtype: str, digits: int, activations
) -> None:
    options = tools.options_of("qat", dtype=dtype, activations=activations, epochs=1)
    # No int8 is needed.
    used = context(precisions=("fp32",))
    module, outcome = QAT().apply(network("resnet8"), options, used)
    count = sum(p.numel() for p in folded_graph(network("resnet8")).parameters())
    assert outcome.notes[0] == (
        f"{count} parameters rounded to {dtype}; the file computes in float32 anywhere"
    )
    assert outcome.notes[1].startswith(f"the target's 'precisions' do not name {dtype}: ")
    assert any("while training" in note for note in outcome.notes) == (activations == "half")
    for layer in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        mantissa, _ = torch.frexp(layer.weight.detach())
        assert torch.equal(mantissa * 2**digits, (mantissa * 2**digits).round())
    again = QAT().restructure(network("resnet8"), options, json.loads("{}"), used)
    again.load_state_dict(module.state_dict())

    path = tmp_path / "model.onnx"
    export_onnx(again, data.test_x[:32], path, opset=20)
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    graph = onnx.load(path).graph
    weights = [t for t in graph.initializer if t.data_type == kind]
    assert len(weights) >= 10
    assert not any(
        t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 64 for t in graph.initializer
    )
    assert path.stat().st_size < 0.6 * exported("resnet8").stat().st_size
    np.testing.assert_allclose(
        tools.run_onnx(path, data.test_x), tools.run_module(module, data.test_x), atol=1e-3
    )
    # Nothing is cast at inference.
    assert "Cast" not in tools.running_operators(path, tmp_path)


def test_a_target_that_names_the_half_format_is_not_warned_of(network, context, tools) -> None:
    _, outcome = train(tools, network("lenet"), context(), dtype="fp16", **UNTRAINED)
    assert not any("precisions" in note for note in outcome.notes)


def test_what_the_target_cannot_hold_is_refused_before_the_training(
    data, network, context, tools, tmp_path: Path
) -> None:
    epochs: list[int] = []

    def check(module: nn.Module) -> None:
        write_onnx(module, data.test_x[:8], tmp_path / "model.onnx", opset=20)

    used = context(check_export=check, on_epoch=lambda done, *_: epochs.append(done))
    with pytest.raises(BuildError, match="4-bit weights need opset 21, and the target asks for 20"):
        train(tools, network("lenet"), used, dtype="int4", epochs=1)
    assert not epochs
    train(tools, network("lenet"), used, epochs=1)
    assert epochs == [1]


@pytest.mark.parametrize(("dtype", "said"), [("int8", False), ("int4", True)])
def test_a_program_of_torch_keeps_a_byte_a_weight(
    data, network, context, tools, tmp_path: Path, dtype: str, said: bool
) -> None:
    module, _ = train(tools, network("lenet"), context(), dtype=dtype, **UNTRAINED)
    note = export_pt2(module, data.test_x[:8], tmp_path / "model.pt2")
    assert note.endswith("; 4-bit weights take a byte each") == said


def test_half_activations_change_the_training(network, context, tools) -> None:
    states = [
        train(tools, network("lenet"), context(), dtype="bf16", activations=a, epochs=1)[0]
        for a in ("half", "float")
    ]
    one, other = (state.state_dict() for state in states)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_excluded_layers_stay_in_float(
    data, network, context, tools, tmp_path: Path, dtype: str
) -> None:
    module, outcome = train(
        tools, network("resnet8"), context(), dtype=dtype, exclude=["0", "3.first"], **UNTRAINED
    )
    assert all("layers stay in float" not in note for note in outcome.notes)
    path = tmp_path / "model.onnx"
    export_onnx(module, data.test_x[:32], path, opset=20)
    stored = {t.name: t for t in onnx.load(path).graph.initializer}
    kinds = {stored[f"{name}.weight"].data_type for name in ("0", "3.first")}
    assert kinds == {TensorProto.FLOAT}
    if dtype == "int8":
        found = tools.running_operators(path, tmp_path)
        # A quantizer behind each of them, and none before the first, where it would only cost.
        assert found["QLinearConv"] == 7
        assert found["QLinearAdd"] == 3
        assert found["QGemm"] == 1
        assert found["Conv"] + found["FusedConv"] == found["QuantizeLinear"] == 2


def test_a_layer_to_exclude_that_is_not_there(network, context, tools) -> None:
    with pytest.raises(BuildError, match=r"no layer '3.frist' to exclude; did you mean '3.first'"):
        train(tools, network("resnet8"), context(), exclude=["3.frist"])
    with pytest.raises(BuildError, match="that is not excluded"):
        train(tools, network("lenet"), context(), exclude=["0", "3", "7", "9"])
    with pytest.raises(BuildError, match="that is not excluded"):
        train(tools, network("lenet"), context(), dtype="fp16", exclude=["0", "3", "7", "9"])


def test_the_control_is_trained_as_long_and_not_rounded(
    network, context, tools, tmp_path: Path
) -> None:
    options = tools.options_of("qat", epochs=1)
    technique, used = QAT(), context(scratch=tmp_path)
    assert technique.reference_text(options) == ("trained on as long in float32, without rounding")
    assert technique.reference_text(tools.options_of("qat", control=False)) is None
    # Each takes up its own checkpoint, not the other's.
    module, _ = technique.apply(network("lenet"), options, used)
    control = technique.reference(network("lenet"), options, used)
    assert not is_quantized(control)
    assert not control.training
    assert any(not torch.equal(a, b) for a, b in zip(
        control.parameters(), network("lenet").parameters(), strict=True
    ))  # fmt: skip
    assert len(list(tmp_path.rglob("*.pt"))) == 2
    twin = technique.reference(network("lenet"), options, context())
    assert all(
        torch.equal(a, b) for a, b in zip(control.parameters(), twin.parameters(), strict=True)
    )
    again, _ = technique.apply(network("lenet"), options, used)
    assert all(torch.equal(again.state_dict()[k], v) for k, v in module.state_dict().items())


def test_nothing_may_follow(tools) -> None:
    for dtype in ("int8", "int4"):
        assert "ranges" in str(QAT().closed_by(tools.options_of("qat", dtype=dtype)))
    for dtype in ("fp16", "bf16"):
        assert f"trained for {dtype}" in str(QAT().closed_by(tools.options_of("qat", dtype=dtype)))


@pytest.mark.parametrize("ranges", ["moving-average", "learned"])
def test_averaged_weights_bring_their_ranges(
    data, network, context, tools, tmp_path: Path, ranges: str
) -> None:
    settings = Training(epochs=2, batch_size=32, learning_rate=5e-3, ema=0.9, weight_decay=1e-4)
    module, _ = train(tools, network("lenet"), context(training=settings), ranges=ranges, epochs=2)
    for quantizer in activation_quantizers(module):
        assert bool(quantizer.seen)
        assert float(quantizer.scale_and_zero()[0].detach()) > 1e-4
    export_onnx(module, data.test_x[:32], tmp_path / "model.onnx", opset=20)


@pytest.mark.parametrize(
    ("options", "dtype", "activations"),
    [
        ({}, "int8", "int8"),
        ({"bits": 8}, "int8", "int8"),
        ({"bits": 4}, "int4", "int8"),
        ({"bits": 4, "dtype": "int4", "activations": "float"}, "int4", "float"),
        ({"dtype": "fp16"}, "fp16", "half"),
        ({"dtype": "bf16", "activations": "float"}, "bf16", "float"),
    ],
)
def test_the_record_says_it_in_one_word(tools, options, dtype: str, activations: str) -> None:
    validated = tools.options_of("qat", **options)
    record = validated.model_dump(mode="json")
    assert "bits" not in record
    assert (record["dtype"], record["activations"]) == (dtype, activations)
    assert tools.options_of("qat", **record) == validated


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 8, "dtype": "int4"}, "bits: 8 contradicts dtype: int4"),
        ({"bits": 4, "dtype": "fp16"}, "bits: 4 contradicts dtype: fp16"),
        ({"bits": 16}, "bits must be 8 or 4, not 16; 'dtype: fp16' or 'bf16' for 16"),
        ({"bits": "8"}, "bits must be 8 or 4, not '8'"),
        ({"dtype": "int7"}, "Input should be 'int8', 'int4', 'fp16' or 'bf16'"),
        ({"dtype": "fp16", "activations": "int8"}, "with dtype fp16 activations are half or float"),
        ({"dtype": "int4", "activations": "half"}, "with dtype int4 activations are int8 or float"),
        ({"dtype": "bf16", "ranges": "learned"}, "bf16 has no ranges to learn"),
        ({"dtype": "fp16", "per_channel": False}, "fp16 has no scales"),
        ({"ranges": "fixed"}, "Input should be 'moving-average' or 'learned'"),
    ],
)
def test_options_that_contradict_one_another(tools, options, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.options_of("qat", **options)
    assert text in str(caught.value)


class SharedConvolution(nn.Module):
    """One convolution before two normalisations: it cannot be folded into both."""

    def __init__(self) -> None:
        super().__init__()
        with deterministic(0):
            self.convolution = nn.Conv2d(1, 1, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(1), nn.BatchNorm2d(1)])
            self.head = nn.Linear(64, 10)
        self.norms[0].running_mean.fill_(3.0)
        self.norms[1].running_var.fill_(9.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm in self.norms:
            x = norm(self.convolution(x))
        return self.head(x.flatten(1))


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_folding_that_changes_the_function_is_refused(context, tools, dtype: str) -> None:
    with pytest.raises(BuildError, match="folding batch normalisation changes the model's answers"):
        train(tools, SharedConvolution().eval(), context(), dtype=dtype, epochs=1)


class Branches(nn.Module):
    """Takes another way by the values it sees, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        with deterministic(0):
            self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1) if x.sum() > -1e9 else -x)


def test_half_precision_needs_no_trace_where_there_is_nothing_to_fold(context, tools) -> None:
    train(tools, Branches(), context(), dtype="fp16", epochs=1)
    with pytest.raises(BuildError, match="cannot trace this module at"):
        train(tools, Branches(), context(), epochs=1)
    with pytest.raises(BuildError, match="cannot trace this module at"):
        train(
            tools, nn.Sequential(nn.BatchNorm2d(1), Branches()), context(), dtype="fp16", epochs=1
        )


def test_dropout_before_a_range_draws_nothing(data, context, tools) -> None:
    def trained(seed: int) -> dict[str, torch.Tensor]:
        with deterministic(0):
            module = nn.Sequential(
                nn.Dropout(0.5), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
            )
        torch.manual_seed(seed)
        return train(tools, module, context(), epochs=1)[0].state_dict()

    one, other = trained(1), trained(2)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_the_module_that_was_given_may_go_on(network, context, tools, dtype: str) -> None:
    module = network("resnet8")
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    train(tools, module, context(), dtype=dtype, epochs=1)
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_target_without_int8(network, context, tools, dtype: str) -> None:
    with pytest.raises(BuildError, match="the target runs no int8; see 'precisions'"):
        train(tools, network("lenet"), context(precisions=("fp32",)), dtype=dtype)
