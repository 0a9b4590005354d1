"""What building leaves behind: a file or the reason there is none, and the record of each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebench.pipeline.plan import PlannedStep
from edgebench.records import Figure
from edgebench.techniques.base import Outcome

if TYPE_CHECKING:
    from torch import nn

NOTES = "step.json"


@dataclass(frozen=True)
class Built:
    """One model file, or why there is none.

    `format`: "onnx", or "pt2" where torch itself runs it; files of it end so. `skipped`: the chain
    does not apply to this model or to this target. `reference`: what is measured beside a variant.
    """

    name: str
    file: Path | None
    control: bool = False
    reference: str | None = None
    steps: tuple[PlannedStep, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    problem: str | None = None
    skipped: bool = False
    format: str = "onnx"


@dataclass(frozen=True)
class Done:
    """A step on the module that is done: what it was, and the record of the shape it left."""

    step: PlannedStep
    structure: dict[str, Any]
    folder: Path


def answers_of_module(
    module: nn.Module,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function from examples [N, ...] to the module's answers."""

    def answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        from edgebench.training.loop import predict

        answers: NDArray[np.float32] = predict(module, torch.from_numpy(x)).numpy()
        return answers

    return answer


def answers_of_file(file: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A function from examples [N, ...] to the first answers of an ONNX file on this host."""

    def answer(x: NDArray[np.float32]) -> NDArray[np.float32]:
        from edgebench.exporters.onnx_answers import file_answers

        first, *_ = file_answers(file, x).values()
        return first.astype(np.float32)

    return answer


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Keep what a step said in the folder of its entry."""
    (folder / NOTES).write_text(
        json.dumps(
            {
                "structure": outcome.structure,
                "notes": outcome.notes,
                "figures": [figure.model_dump(mode="json") for figure in outcome.figures],
            }
        )
    )


def read_outcome(folder: Path) -> Outcome:
    """What a step said when its entry was made."""
    kept = json.loads((folder / NOTES).read_text())
    return Outcome(
        kept["structure"], kept["notes"], [Figure.model_validate(one) for one in kept["figures"]]
    )
