"""A model that cannot be exported is told of before it is trained, not after."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgebench.data import load
from edgebench.errors import BuildError
from edgebench.models.source import find_model
from edgebench.pipeline.build import Builder
from edgebench.pipeline.exporting import Exporter
from edgebench.pipeline.plan import plan_variants
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.task import Classification
from edgebench.protocol import resolve_protocol
from edgebench.recipe import Recipe
from edgebench.store import Store
from edgebench.target import load_target

NETS = """
import torch
from torch import nn


class Branch(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        y = self.head(x.flatten(1))
        return y * 2 if y.sum() > 0 else y
"""


class Watcher(Silent):
    """Remembers which steps there were, and which of them were found in the store."""

    def __init__(self) -> None:
        self.steps: dict[str, bool] = {}
        self._step = ""

    def begin(self, step: str, total: float | None = None) -> None:
        self._step = step

    def end(self, *, reused: bool = False) -> None:
        self.steps[self._step] = reused


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[str]:
    """The name of a module with a network that cannot be traced."""
    (tmp_path / "branching_nets.py").write_text(NETS)
    sys.path.insert(0, str(tmp_path))
    yield "branching_nets"
    sys.path.remove(str(tmp_path))
    sys.modules.pop("branching_nets", None)


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., Builder]:
    def make(model: str = "lenet", target: str = "cpu", epochs: int = 1, **more: Any) -> Builder:
        options = {"width": 0.25} if model == "lenet" else {}
        recipe = Recipe.model_validate(
            {
                "model": model,
                "model_options": options,
                "data": "digits",
                "training": {"epochs": epochs, "batch_size": 32},
                "variants": {"half": [{"technique": "cast"}]},
                "protocol": resolve_protocol("quick", where="test"),
                "gates": [{"metric": "size_ratio", "max": 0.9}],
                **more,
            }
        )
        return Builder(
            recipe,
            load_target(target),
            find_model(model, weights=None, options=options),
            Classification(load("digits", train=100, test=80)),
            "u8s8",
            Store(tmp_path / "cache"),
            Watcher(),
        )

    return make


@pytest.mark.parametrize(("target", "form"), [("cpu", "to ONNX"), ("cpu-torch", "with torch.exp")])
def test_a_base_that_cannot_be_exported_is_not_trained(builder, nets, target, form) -> None:
    work = builder(f"{nets}:Branch", target)
    with pytest.raises(BuildError, match=rf"cannot be exported {form}.*branching_nets\.py:13\)"):
        work.base()
    assert list(work.progress.steps) == ["base: try the export"]


def test_it_is_tried_once_whatever_the_training(builder) -> None:
    def steps(**more: Any) -> dict[str, bool]:
        work = builder(**more)
        assert work.base().file is not None
        return work.progress.steps

    trial = "base: try the export"
    assert steps() == {trial: False, "train base": False, "base: export": False}
    assert steps(epochs=2) == {trial: True, "train base": False, "base: export": False}
    # There is nothing left to train.
    assert steps() == {"train base": True, "base: export": True}
    assert steps(target="cpu-torch") == {"train base": True, "base: export": False}
    assert steps(target="cpu-torch", epochs=3)[trial] is False


def test_a_student_that_cannot_be_exported_is_not_trained(builder, nets) -> None:
    chain = [{"technique": "distill", "student": f"{nets}:Branch"}]
    work = builder(variants={"student": chain})
    work.base()
    told: list[str] = []
    work.bench.on_epoch = lambda *_, what="": told.append(what)
    [built] = work.variant(plan_variants(work.recipe)[0])
    assert built.problem is not None
    assert built.problem.startswith(
        f"student '{nets}:Branch': the model cannot be exported to ONNX: it cannot be traced at "
    )
    assert built.problem.endswith("use torch.where in place of the branch")
    assert not told


class Widening(nn.Module):
    """Another function of larger batches, which an export does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x.flatten(1))
        return y * 2 if x.shape[0] > 3 else y


def test_first_weights_are_not_compared(builder, tmp_path: Path) -> None:
    # What they answer may vary so little that rounding would be taken for a difference.
    work = builder()
    exporter = Exporter(work.target, work.task)
    exporter.check(Widening())
    with pytest.raises(BuildError, match="answers differ"):
        exporter.write(Widening(), tmp_path / "m.onnx")
