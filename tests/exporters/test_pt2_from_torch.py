"""The exported program answers as the module does, and says nothing of this machine."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgebench.agent.evidence import inspection_notes
from edgebench.agent.runtimes import RUNTIMES
from edgebench.errors import BuildError
from edgebench.exporters.pt2_from_torch import count_pt2_parameters, export_pt2


@pytest.mark.parametrize("name", ["lenet", "mobilenetv1"])
def test_it_answers_as_the_module_at_every_batch(
    data, network, tools, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "m.pt2"
    note = export_pt2(network(name), data.test_x[:8], path)
    assert note.startswith("exported program within ")
    assert note.endswith(" of the module on 8 examples")
    wanted = tools.run_module(network(name), data.test_x)
    model = RUNTIMES["torch"].load(path, ["cpu"], 1, {})
    for batch in (1, 2, 5, 100):
        given = model.infer((data.test_x[:batch],))[0]
        np.testing.assert_allclose(given, wanted[:batch], atol=1e-4 * wanted.std())


def test_it_holds_no_paths_no_examples_and_no_clock(data, network, tmp_path: Path) -> None:
    first, second = tmp_path / "1.pt2", tmp_path / "2.pt2"
    for path in (first, second):
        export_pt2(network("lenet"), data.test_x[:4], path)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert not any(b"site-packages" in part or b"File " in part for part in parts.values())
    assert parts["model/data/sample_inputs/model.pt"] == b""


def test_parameters_and_zeros_are_counted(data, network, tmp_path: Path) -> None:
    module = network("mobilenetv1")
    with torch.no_grad():
        head = next(m for m in module.modules() if isinstance(m, nn.Linear))
        head.weight.zero_()
    path = tmp_path / "m.pt2"
    export_pt2(module, data.test_x[:4], path)
    total, zeros = count_pt2_parameters(path)
    assert total == sum(p.numel() for p in module.parameters())
    assert zeros == sum(int((p == 0).sum()) for p in module.parameters())
    assert zeros >= head.weight.numel()


def test_a_quantized_module_keeps_its_integer_weights(data, network, tmp_path: Path) -> None:
    from edgebench.quantization.fake_quant import GRIDS
    from edgebench.quantization.quantized_graph import quantized_graph

    module = quantized_graph(network("lenet"), GRIDS["u8s8"])
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(data.train_x[:64]))
    path = tmp_path / "q.pt2"
    export_pt2(module.eval(), data.test_x[:16], path)
    ran = RUNTIMES["torch"].inspect(path, ["cpu"], 1, {}, (data.test_x[:4],))
    assert ran is not None
    assert inspection_notes({"providers": ["cpu"], "auto": False}, ran, RUNTIMES["torch"]) == [
        "int8 in the file, float in the runtime: it converts integers, and no integer operator ran"
    ]
    # Batch normalisation is folded away: one integer for each weight, one float for each bias.
    total, _ = count_pt2_parameters(path)
    layers = [m for m in network("lenet").modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert total == sum(m.weight.numel() + len(m.weight) for m in layers)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.head(x) if x.sum() > 0 else self.head(-x)


class _Looping(_Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.head(one.flatten()) for one in x])


class _Counting(_Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.flatten(1)) * (int(x.sum().item()) % 3)


class _Through(_Branching):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.from_numpy(x.numpy()).flatten(1))


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            _Branching,
            (
                "it cannot be traced at `return self.head(x) if x.sum() > 0 else self.head(-x)` "
                "(test_pt2_from_torch.py:",
                ": it branches on values; use torch.where in place of the branch",
            ),
        ),
        (
            _Looping,
            ("the batch size was taken for a constant; do not loop over the batch",),
        ),
        (
            _Counting,
            (
                "it cannot be traced at `return self.head(x.flatten(1)) * (int(x.sum().item()) % "
                "3)` (test_pt2_",
                ": it makes a Python number of a tensor; compute with tensors alone",
            ),
        ),
        (
            _Through,
            (
                "RuntimeError: .numpy() is not supported",
                "(test_pt2_from_torch.py:",
                "; torch.export has to follow its forward pass",
            ),
        ),
    ],
)
def test_a_module_that_cannot_be_traced_is_one_line_with_the_place_and_a_way_out(
    data, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind, texts: tuple[str, ...]
) -> None:
    with pytest.raises(BuildError) as caught:
        export_pt2(kind(), data.test_x[:4], tmp_path / "m.pt2")
    line = str(caught.value)
    assert line.startswith("the model cannot be exported with torch.export: ")
    assert all(text in line for text in texts), line
    assert "cpu-torch" not in line
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_none_cannot_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(BuildError, match=r"the weights of m\.pt2 cannot be counted"):
        count_pt2_parameters(path)
