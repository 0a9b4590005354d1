"""Where quantizers are put, and that every convolution then runs on integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgebench.errors import BuildError
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.techniques.base import TECHNIQUES
from edgebench.quantization.fake_quant import GRIDS, ActivationQuantizer, QuantizedConv2d
from edgebench.training.loop import deterministic, predict
from edgebench.quantization.quantized_graph import quantized_graph

GRID = GRIDS["u8s8-reduced"]


def calibrated(module: nn.Module, x: torch.Tensor, grid=GRID) -> nn.Module:
    quantized = quantized_graph(module, grid)
    quantized.eval()
    for part in quantized.modules():
        if isinstance(part, ActivationQuantizer):
            part.train()
    with torch.no_grad():
        quantized(x)
    return quantized.eval()


@pytest.mark.parametrize("name", ["lenet", "resnet8", "mobilenetv1"])
def test_every_convolution_of_our_networks_runs_on_integers(
    data, network, tools, tmp_path: Path, name: str
) -> None:
    x = torch.from_numpy(data.train_x)
    quantized = calibrated(network(name), x, GRIDS["u8s8"])
    path = tmp_path / "model.onnx"
    export_onnx(quantized, data.test_x[:8], path, opset=20)
    found = tools.running_operators(path, tmp_path)
    assert found["QLinearConv"] == tools.convolutions(network(name)) > 0
    assert found["Conv"] == found["FusedConv"] == found["BatchNormalization"] == 0
    # The last layer's answer stays float; the other dense layers do not.
    assert found["Gemm"] == 1
    if name == "resnet8":
        assert found["QLinearAdd"] == 3
        assert found["Add"] == 0


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
        (Branches(), "qat cannot trace this module: TraceError: symbolically traced"),
        (NoLayers(), "no 2-D convolution or dense layer to quantize"),
        (nn.Sequential(nn.Flatten(), nn.Conv1d(1, 1, 1)), "no 2-D convolution or dense layer"),
    ],
)
def test_what_cannot_be_quantized_is_said_in_one_line(module: nn.Module, text: str) -> None:
    with pytest.raises(BuildError) as caught:
        quantized_graph(module, GRID)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
