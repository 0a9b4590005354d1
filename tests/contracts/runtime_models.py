"""The same small networks as ONNX files and as torch programs, from one set of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10


def examples(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(0, 0.1, 4).astype(np.float32),
        "head.weight": rng.normal(0, 0.1, (CLASSES, 144)).astype(np.float32),
        "head.bias": rng.normal(0, 0.1, CLASSES).astype(np.float32),
    }


def write(folder: Path, suffix: str) -> None:
    """`network`, `fixed` (the same for two examples alone) and `pair` (several of each)."""
    maker = {".onnx": _onnx_files, ".pt2": _torch_files}[suffix]
    maker(folder)


def _onnx_files(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def save(name: str, nodes: list[Any], inputs: Any, outputs: Any, tensors: Any = ()) -> None:
        graph = helper.make_graph(nodes, name, inputs, outputs, list(tensors))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.save(model, folder / f"{name}.onnx")

    value = helper.make_tensor_value_info
    number, whole, truth = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
    for name, batch in (("network", "N"), ("fixed", 2)):
        save(
            name,
            [
                helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"]),
                helper.make_node("Relu", ["c"], ["r"]),
                helper.make_node("Flatten", ["r"], ["f"]),
                helper.make_node("Gemm", ["f", "head.weight", "head.bias"], ["y"], transB=1),
            ],
            [value("x", number, [batch, 3, 8, 8])],
            [value("y", number, [batch, CLASSES])],
            [numpy_helper.from_array(array, key) for key, array in weights().items()],
        )
    save(
        "pair",
        [
            helper.make_node("Cast", ["b"], ["bf"], to=number),
            helper.make_node("Add", ["a", "bf"], ["total"]),
            helper.make_node("Mul", ["b", "b"], ["square"]),
            helper.make_node("Greater", ["a", "bf"], ["more"]),
        ],
        [value("a", number, ["N", 4]), value("b", whole, ["N", 4])],
        [
            value("total", number, ["N", 4]),
            value("square", whole, ["N", 4]),
            value("more", truth, ["N", 4]),
        ],
    )


def _torch_files(folder: Path) -> None:
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(144, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.flatten(torch.relu(self.conv(x)), 1))

    class Pair(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
            number = b.to(torch.float32)
            return a + number, b * b, a > number

    free = {0: torch.export.Dim("N")}
    network = Network().eval()
    network.load_state_dict({key: torch.from_numpy(array) for key, array in weights().items()})
    x = torch.from_numpy(examples(2))
    pair = (torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))
    for name, module, given, shapes in (
        ("network", network, (x,), (free,)),
        ("fixed", network, (x,), None),
        ("pair", Pair(), pair, (free, free)),
    ):
        program = torch.export.export(module, given, dynamic_shapes=shapes)
        torch.export.save(program, folder / f"{name}.pt2")
