"""Small trained networks, their exports, and what ONNX Runtime makes of a file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgebench.data import Dataset, load
from edgebench.exporters.onnx_from_torch import export_onnx
from edgebench.models.base import MODELS
from edgebench.techniques.base import TECHNIQUES, Context
from edgebench.training.loop import deterministic, fit, predict
from edgebench.training.losses import cross_entropy
from edgebench.training_settings import Training

OPSET = 20
WIDTHS = {"lenet": 0.25, "resnet8": 0.5, "mobilenetv1": 0.125}
FORMATS = ("u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric")

# Made once for the folders of tests that share this module.
TRAINED: dict[str, nn.Module] = {}
EXPORTED: dict[str, Path] = {}

MakeContext = Callable[..., Context]
Network = Callable[[str], nn.Module]
Exported = Callable[[str], Path]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks on one thread: as fast on a busy machine, and the same on every one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data() -> Dataset:
    """Three hundred digits to train on, a hundred to judge by."""
    return load("digits", train=300, test=100)


@pytest.fixture(scope="session")
def network(data: Dataset) -> Network:
    """A trained network by name, a copy of its own for each call."""

    def give(name: str) -> nn.Module:
        if name not in TRAINED:
            with deterministic(1):
                module = MODELS.get(name)(data.input_shape, data.classes, WIDTHS.get(name, 0.25))
            settings = Training(epochs=8, batch_size=32, learning_rate=5e-3)
            labels = torch.from_numpy(data.train_y)
            x = torch.from_numpy(data.train_x)
            fit(module, x, cross_entropy(labels), settings, seed=1, what=name)
            TRAINED[name] = module
        return deepcopy(TRAINED[name])

    return give


@pytest.fixture(scope="session")
def exported(network: Network, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The ONNX file of a trained network, not to be changed."""

    def give(name: str) -> Path:
        if name not in EXPORTED:
            path = tmp_path_factory.mktemp("exported") / f"{name}.onnx"
            export_onnx(network(name), data.test_x[:32], path, opset=OPSET)
            EXPORTED[name] = path
        return EXPORTED[name]

    return give


@pytest.fixture(scope="session")
def context(data: Dataset, network: Network) -> MakeContext:
    """A context as the builder makes it; keyword arguments replace its fields."""

    def make(**changes: Any) -> Context:
        def new_module(**options: Any) -> nn.Module:
            return MODELS.get("lenet")(data.input_shape, data.classes, **options)

        fields: dict[str, Any] = {
            "train_x": data.train_x,
            "train_y": data.train_y,
            "classes": data.classes,
            "training": Training(epochs=2, batch_size=32, learning_rate=5e-3),
            "int8": "u8s8-reduced",
            "precisions": ("fp32", "fp16", "int8"),
            "seed": 0,
            "new_module": new_module,
            "base": network("lenet"),
        }
        return Context(**{**fields, **changes})

    return make


def options_of(name: str, **values: Any) -> Any:
    """A technique's validated options."""
    return TECHNIQUES.get(name).Options.model_validate(values)


def run_module(module: nn.Module, x: np.ndarray) -> np.ndarray:
    """A network's answers."""
    return predict(module, torch.from_numpy(x)).numpy()


def run_onnx(path: Path, x: np.ndarray, *, optimised: bool = True) -> np.ndarray:
    """ONNX Runtime's answers, with or without its rewriting of the graph."""
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def running_operators(path: Path, folder: Path) -> Counter[str]:
    """How often each operator occurs after ONNX Runtime's extended optimisation."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operators(folder / "optimised.onnx")


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs in a file."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def convolutions(module: nn.Module) -> int:
    """How many convolutions a network has."""
    return sum(isinstance(layer, nn.Conv2d) for layer in module.modules())


def weights_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The convolutions' and dense layers' weights, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {n: m.weight.detach() for n, m in module.named_modules() if isinstance(m, kinds)}


def accuracy(answers: np.ndarray, labels: np.ndarray) -> float:
    """The share of the answers whose largest is the label."""
    return float((answers.argmax(axis=1) == labels).mean())


@pytest.fixture(scope="session")
def tools() -> Any:
    """The functions of this module."""
    return sys.modules[__name__]
