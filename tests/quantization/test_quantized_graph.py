"""Where quantizers are put, and that every convolution then runs on integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.quantization.fake_quant import (
    GRIDS,
    ActivationQuantizer,
    QuantizedConv2d,
    Rounding,
    calibrate,
)
from edgebench.quantization.quantized_graph import left_in_float, quantized_graph
from edgebench.techniques.base import TECHNIQUES
from edgebench.training.loop import deterministic, predict

GRID = GRIDS["u8s8-reduced"]


def calibrated(module: nn.Module, x: torch.Tensor, grid=GRID, **choices) -> nn.Module:
    quantized = quantized_graph(module, grid, Rounding(**choices))
    calibrate(quantized, [x])
    return quantized


def kernels(path: Path, *, signed: bool) -> Counter[str]:
    """The operators that ONNX Runtime runs; `signed`: as it does on ARM.

    On x86 it rewrites signed activations to unsigned ones, where it can.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimised.onnx"))
    options.log_severity_level = 3
    if signed:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path.with_suffix(".optimised.onnx")).graph
    return Counter(node.op_type for node in graph.node)


@pytest.mark.parametrize(
    ("name", "int8", "choices"),
    [
        ("lenet", "s8s8", {}),
        ("resnet8", "u8s8-reduced", {}),
        ("resnet8", "u8s8", {"weight_bits": 4, "per_channel": False}),
        ("resnet8", "s8s8", {"learned": True}),
        ("mobilenetv1", "u8s8", {"learned": True}),
    ],
)
def test_every_layer_of_our_networks_runs_on_integers(
    data, network, tools, tmp_path: Path, name: str, int8: str, choices
) -> None:
    quantized = calibrated(network(name), torch.from_numpy(data.train_x), GRIDS[int8], **choices)
    path = tmp_path / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        # What the kernels answer is looked at elsewhere.
        patch.setattr("edgebench.exporters.onnx_from_torch.check_parity", lambda *_, **__: "")
        export_onnx(quantized, data.test_x[:8], path, opset=21)
    found = kernels(path, signed=int8 == "s8s8")
    wanted = {"QLinearConv": tools.convolutions(network(name)), "QuantizeLinear": 1, "Reshape": 1}
    if name == "lenet":
        wanted |= {"QGemm": 2, "MaxPool": 2}
    elif name == "resnet8":
        wanted |= {"QGemm": 1, "QLinearAdd": 3, "QLinearGlobalAveragePool": 1}
    else:
        wanted |= {"QGemm": 2, "QLinearGlobalAveragePool": 1}
    # Nothing else: no value goes through float32 on its way.
    assert dict(found) == wanted


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_folding_and_quantizing_keep_the_function_as_ort_does(
    data, network, exported, context, tools, tmp_path: Path, name: str
) -> None:
    x = torch.from_numpy(data.train_x)
    module = network(name)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    quantized = calibrated(module, x)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in quantized.modules())
    # The module itself is left as it was.
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    # ONNX Runtime's own quantizer on the same network, data and format is the reference.
    options = tools.options_of("ptq", examples=len(x))
    TECHNIQUES.get("ptq")().apply(exported(name), tmp_path / "ptq.onnx", options, context())
    theirs = tools.run_onnx(tmp_path / "ptq.onnx", data.train_x, optimised=False)
    wanted = predict(module, x).numpy()

    def decibels(given: np.ndarray) -> float:
        return 10 * np.log10(np.mean(wanted**2) / np.mean((wanted - given) ** 2))

    assert decibels(predict(quantized, x).numpy()) > decibels(theirs) - 2


class PreActivation(nn.Module):
    """Normalisation and activation before the convolution, and an addition after it."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        with deterministic(0):
            self.first = nn.Conv2d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)
            self.second = nn.Conv2d(8, 8, 3, padding=1)
            self.third = nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(4 * 64, 10)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = self.second(self.activation(self.norm(x))) + x
        return self.head(self.third(x).flatten(1))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Hardswish(), F.gelu, torch.tanh])
def test_what_cannot_be_folded_is_quantized_on_its_own(
    data, tools, tmp_path: Path, activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    quantized = calibrated(PreActivation(activation), torch.from_numpy(data.train_x))
    path = tmp_path / "model.onnx"
    export_onnx(quantized, data.test_x[:8], path, opset=20)
    assert tools.running_operators(path, tmp_path)["QLinearConv"] == 3


def test_a_quantizer_stands_behind_the_relu_and_none_behind_the_answer() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 10)
    )
    graph = quantized_graph(module, GRID).graph
    order = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    assert order == ["quantizer_0", "0", "1", "quantizer_1", "2", "3", "4"]


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.shared(F.relu(self.shared(x))).flatten(1))


def test_a_layer_that_runs_twice_keeps_one_weight() -> None:
    quantized = quantized_graph(Twice(), GRID)
    assert sum(isinstance(part, QuantizedConv2d) for part in quantized.modules()) == 1


class Branches(nn.Module):
    """Takes another way by the values it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = self.head(x.flatten(1))
        return answer if answer.sum() > 0 else -answer


class NoLayers(nn.Module):
    """A matrix product, and no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.matrix


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            Branches(),
            "qat cannot trace this module at `return answer if answer.sum() > 0 else -answer` "
            "(test_quantized_graph.py, line ",
        ),
        (Branches(), "in forward): TraceError: symbolically traced"),
        (NoLayers(), "no 2-D convolution or dense layer to quantize"),
        (nn.Sequential(nn.Flatten(), nn.Conv1d(1, 1, 1)), "no 2-D convolution or dense layer"),
    ],
)
def test_what_cannot_be_quantized_is_said_in_one_line(module: nn.Module, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        quantized_graph(module, GRID)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


class Attention(nn.Module):
    """One block of a transformer over the rows of an image, with what stays in float."""

    def __init__(self) -> None:
        super().__init__()
        with deterministic(0):
            self.norm = nn.LayerNorm(8)
            self.qkv = nn.Linear(8, 24)
            self.out = nn.Linear(8, 8)
            self.hidden = nn.Linear(8, 16)
            self.back = nn.Linear(16, 8)
            self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = x + self.out(torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v)
        x = x + self.back(F.gelu(self.hidden(self.norm(x))))
        return self.head(x.mean(1))


@pytest.mark.parametrize(("int8", "bits"), [("u8s8-reduced", 4), ("s8s8", 8)])
def test_dense_layers_of_attention_run_on_integers(
    data, tools, tmp_path: Path, int8: str, bits: int
) -> None:
    x = torch.from_numpy(data.train_x)
    quantized = calibrated(Attention(), x, GRIDS[int8], weight_bits=bits)
    assert left_in_float(quantized) == [
        "2 products of two activations (as in attention) stay in float"
    ]
    path = tmp_path / "model.onnx"
    export_onnx(quantized, data.test_x[:8], path, opset=21)
    found = tools.running_operators(path, tmp_path)
    assert found["MatMulIntegerToFloat"] == 4
    assert found["QGemm"] == 1
    assert found["MatMul"] + found["FusedMatMul"] == 2
    # The sums beside the blocks go on in float: no integer kernel takes them.
    assert found["QLinearAdd"] == 0


class Means(nn.Module):
    """The mean over height and width in the ways a user may write it."""

    def __init__(self, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        with deterministic(0):
            self.convolution = nn.Conv2d(1, 4, 3)
            self.head = nn.Linear(4, 10)
        self.mean = mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mean(F.relu(self.convolution(x))))


@pytest.mark.parametrize(
    "mean",
    [
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: x.mean((2, 3), keepdim=True).flatten(1),
        lambda x: x.mean((-2, -1)),
        lambda x: F.avg_pool2d(x, 6).flatten(1),
    ],
)
def test_a_mean_over_the_image_runs_on_integers(
    data, tools, tmp_path: Path, mean: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    quantized = calibrated(Means(mean), torch.from_numpy(data.train_x))
    path = tmp_path / "model.onnx"
    export_onnx(quantized, data.test_x[:8], path, opset=20)
    found = tools.running_operators(path, tmp_path)
    assert found["QLinearGlobalAveragePool"] + found["QLinearAveragePool"] == 1
    assert found["QLinearConv"] == found["QGemm"] == found["QuantizeLinear"] == 1


class Clipped(nn.Module):
    """An activation between two convolutions."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        with deterministic(0):
            self.first = nn.Conv2d(1, 4, 3)
            self.second = nn.Conv2d(4, 4, 3)
            self.head = nn.Linear(64, 10)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.activation(self.first(x))).flatten(1))


@pytest.mark.parametrize(
    ("activation", "learned", "apart"),
    [
        (nn.ReLU6(), False, None),
        (nn.ReLU6(), True, None),
        (nn.Hardtanh(0, 4), True, None),
        (lambda x: F.hardtanh(x, 0.0, max_val=6.0), False, None),
        (lambda x: x.clamp(0, max=6), True, None),
        # What they clip at from below is not the lowest integer, and so they stay.
        (nn.Hardtanh(), False, "Clip"),
        (nn.Hardtanh(), True, "Clip"),
        (F.hardtanh, False, "Clip"),
        (lambda x: x.clamp(-3.0, 3.0), False, "Clip"),
        (lambda x: torch.clamp(x, min=0), False, "Max"),
        (lambda x: torch.clamp(x, max=6.0), False, "Clip"),
    ],
)
def test_an_activation_that_clips_is_part_of_the_kernel(
    tools,
    tmp_path: Path,
    activation: Callable[[torch.Tensor], torch.Tensor],
    learned: bool,
    apart: str | None,
) -> None:
    module = Clipped(activation)
    # Far beyond six, so that the range ends there.
    x = 100 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    quantized = calibrated(module, x, learned=learned)
    if learned:
        with torch.no_grad():
            for part in quantized.modules():
                if isinstance(part, ActivationQuantizer) and part.ceiling is not None:
                    part.step.log_ratio += 0.5
    path = tmp_path / "model.onnx"
    note = export_onnx(quantized, x[:8].numpy(), path, opset=20)
    found = tools.running_operators(path, tmp_path)
    assert found["QLinearConv"] == 2
    assert [name for name in ("Clip", "Max") if found[name]] == ([apart] if apart else [])
    assert note.endswith("; 3 of 3 layers run as integer kernels in ONNX Runtime")


def test_layers_that_are_no_integer_kernels_are_said(
    data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the quantizer between a layer and its activation the layer runs in float."""
    x = 100 * torch.from_numpy(data.train_x)
    modules = {
        name: calibrated(Clipped(nn.Hardtanh()), x, GRIDS[name])
        for name in ("u8s8", "s8s8-symmetric")
    }
    for quantized in modules.values():
        (between,) = (n for n in quantized.graph.nodes if n.prev.name == "first")
        between.replace_all_uses_with(between.all_input_nodes[0])
        quantized.graph.erase_node(between)
        quantized.recompile()
    path = tmp_path / "model.onnx"
    note = export_onnx(modules["u8s8"], data.test_x[:8], path, opset=20)
    assert note.endswith("; 2 of 3 layers run as integer kernels in ONNX Runtime")
    # TensorRT has kernels of its own.
    assert "kernels" not in export_onnx(modules["s8s8-symmetric"], data.test_x[:8], path, opset=20)
    monkeypatch.setattr("edgebench.quantization.static_int8.integer_kernels", lambda *_, **__: 0)
    with pytest.raises(BuildError, match="none of the 3 layers with integer weights is an integer"):
        export_onnx(modules["u8s8"], data.test_x[:8], path, opset=20)


class AsFunctions(nn.Module):
    """Layers that are called as functions, and kinds that have no integer kernel here."""

    def __init__(self) -> None:
        super().__init__()
        with deterministic(0):
            self.first = nn.Conv2d(1, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.up = nn.ConvTranspose2d(4, 4, 2)
            self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
            self.head = nn.Linear(4 * 81, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.conv2d(self.first(x), self.second.weight, padding=1))
        x = self.mirrored(self.up(x)).flatten(1)
        return F.linear(self.head(x), torch.eye(10))


def test_what_stays_in_float_is_said(data, tools, tmp_path: Path) -> None:
    quantized = calibrated(AsFunctions(), torch.from_numpy(data.train_x))
    assert left_in_float(quantized) == [
        "2 layers stay in float: up (ConvTranspose2d), mirrored (Conv2d); quantized are Conv2d "
        "padded with zeros, and Linear",
        "2 convolutions or dense layers called as functions stay in float: F.conv2d, F.linear; as "
        "modules (nn.Conv2d, nn.Linear) they would be quantized",
    ]
    assert len(left_in_float(quantized, ["up", "mirrored"])) == 1
    export_onnx(quantized, data.test_x[:8], tmp_path / "model.onnx", opset=20)
    assert tools.running_operators(tmp_path / "model.onnx", tmp_path)["QLinearConv"] == 1


def test_excluded_layers_have_no_quantizers_of_their_own() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(32, 10)
    )

    def order(exclude: list[str]) -> list[str]:
        graph = quantized_graph(module, GRID, exclude=exclude).graph
        return [str(node.target) for node in graph.nodes if node.op == "call_module"]

    assert order(["0"]) == ["0", "1", "quantizer_0", "2", "quantizer_1", "3", "4"]
    # What follows is float: the convolution alone asks for a grid behind it.
    assert order(["4"]) == ["quantizer_0", "0", "1", "quantizer_1", "2", "quantizer_2", "3", "4"]
    assert order(["2", "4"]) == ["quantizer_0", "0", "1", "quantizer_1", "2", "3", "4"]
    with pytest.raises(BuildError, match="that is not excluded"):
        quantized_graph(module, GRID, exclude=["0", "2", "4"])
