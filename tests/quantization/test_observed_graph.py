"""Observers become quantizers, and layers lie on the grid: without the package that places them."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.ao.quantization import MinMaxObserver

from edgebench.errors import BuildError
from edgebench.quantization.fake_quant import GRIDS, activation_quantizers, quantized_layers
from edgebench.quantization.observed_graph import observe_layers, on_grid
from edgebench.training.loop import deterministic


class Residual(nn.Module):
    """A convolution, one before an addition, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        return self.head((self.second(x) + x).mean((2, 3)))


def observed(
    module: nn.Module, example: torch.Tensor, places: set[str], left: str | None = None
) -> fx.GraphModule:
    """`module` as aten operators, observers on the nodes named and all weights but `left`'s."""
    shapes = ({0: torch.export.Dim("N")},)
    prepared = torch.export.export(module.eval(), (example,), dynamic_shapes=shapes).module()
    graph = prepared.graph
    for index, node in enumerate(list(graph.nodes)):
        weight = str(node.target).endswith("weight") and node.target != left
        if not weight and node.name not in places:
            continue
        prepared.add_submodule(f"observer_{index}", MinMaxObserver(dtype=torch.quint8))
        with graph.inserting_after(node):
            observer = graph.call_module(f"observer_{index}", (node,))
        node.replace_all_uses_with(observer)
        observer.args = (node,)
    prepared.recompile()
    return prepared


def make() -> tuple[Residual, torch.Tensor]:
    with deterministic(1):
        return Residual(), torch.rand(5, 1, 9, 9)


def test_layers_and_ranges_are_taken_over() -> None:
    module, x = make()
    wanted = module(x)
    prepared = observed(module, x, {"x", "relu", "mean"})
    assert observe_layers(prepared) == 1
    prepared(x)
    made = on_grid(prepared, GRIDS["u8s8"], calibrated=True)
    assert len(quantized_layers(made)) == 3
    quantizers = activation_quantizers(made)
    assert len(quantizers) == 4
    scale, zero = quantizers[0].scale_and_zero()
    assert float(scale) == pytest.approx(float(x.max()) / 255, rel=1e-5)
    assert int(zero) == 0
    torch.testing.assert_close(made(x), wanted, rtol=0.05, atol=0.02)
    assert not torch.equal(made(x), wanted)
    made.train()
    assert made(x[:2]).shape == (2, 3)


class Clipped(nn.Module):
    """A convolution, what clips its answer, and another one."""

    def __init__(self, lowest: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.clip = nn.Hardtanh(lowest, 6.0)
        self.second = nn.Conv2d(4, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.clip(self.first(x)))


@pytest.mark.parametrize(("lowest", "added"), [(0.0, 0), (-1.0, 1)])
def test_only_what_clips_at_zero_is_joined_with_the_layer(lowest: float, added: int) -> None:
    prepared = observed(Clipped(lowest), torch.rand(5, 1, 9, 9), {"x", "hardtanh"})
    assert observe_layers(prepared) == added


def test_without_calibration_the_same_graph_waits_for_its_ranges() -> None:
    module, x = make()
    prepared = observed(module, x, {"x", "relu", "mean"})
    prepared(x)
    made = on_grid(prepared, GRIDS["u8s8"], calibrated=True)
    empty = on_grid(observed(module, x, {"x", "relu", "mean"}), GRIDS["u8s8"], calibrated=False)
    assert not any(quantizer.seen for quantizer in activation_quantizers(empty))
    empty.load_state_dict(made.state_dict())
    assert torch.equal(empty(x), made(x))


def test_a_layer_that_is_not_observed_stays() -> None:
    module, x = make()
    prepared = observed(module, x, {"x"}, left="second.weight")
    assert observe_layers(prepared) == 1
    made = on_grid(prepared, GRIDS["u8s8"], calibrated=False)
    assert len(activation_quantizers(made)) == 2
    assert len(quantized_layers(made)) == 2
    torch.testing.assert_close(made.get_parameter("second.weight"), module.second.weight)


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_done_is_said() -> None:
    module, x = make()
    prepared = torch.export.export(module.eval(), (x,)).module()
    with pytest.raises(BuildError, match="no 2-D convolution or dense layer to quantize"):
        on_grid(prepared, GRIDS["u8s8"], calibrated=False)
    prepared = observed(module, x, {"x"})
    prepared(x / 0)
    with pytest.raises(BuildError, match="an activation is not finite on the calibration"):
        on_grid(prepared, GRIDS["u8s8"], calibrated=True)
