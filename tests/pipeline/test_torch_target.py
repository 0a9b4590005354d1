"""What is built for a target that runs torch itself: programs of torch.export, no ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebench.agent.runtimes import RUNTIMES
from edgebench.data import load
from edgebench.errors import UsageError
from edgebench.models.source import find_model
from edgebench.pipeline.build import Builder
from edgebench.pipeline.built import Built
from edgebench.pipeline.plan import plan_variants
from edgebench.pipeline.progress import Silent
from edgebench.pipeline.task import Classification
from edgebench.recipe import Recipe
from edgebench.store import Store
from edgebench.target import TargetError, load_target

RECIPE = {
    "model": "lenet",
    "model_options": {"width": 0.25},
    "data": "digits",
    "training": {"epochs": 1, "batch_size": 32, "learning_rate": 3.0e-3},
    "variants": {
        "sparse": [{"technique": "prune-unstructured", "ratio": 0.5}],
        "int8": [{"technique": "ptq"}],
        "trained": [{"technique": "qat", "epochs": 1}],
    },
    "controls": {"independent": 1},
    "protocol": "quick",
    "gates": [{"metric": "size_ratio", "max": 0.9}],
}


@pytest.fixture
def builder(tmp_path: Path) -> Callable[..., Builder]:
    from edgebench.protocol import resolve_protocol

    def make(target: str = "cpu-torch", model: str = "lenet") -> Builder:
        options: dict[str, Any] = {"width": 0.25} if model == "lenet" else {}
        recipe = Recipe.model_validate(
            {
                **RECIPE,
                "model": model,
                "model_options": options,
                "protocol": resolve_protocol("quick", where="test"),
            }
        )
        data = load("digits", train=200, test=80)
        source = find_model(model, weights=None, options=options)
        return Builder(
            recipe,
            load_target(target),
            source,
            Classification(data),
            "u8s8",
            Store(tmp_path / "cache"),
            Silent(),
        )

    return make


def _answers(built: Built, x: np.ndarray) -> np.ndarray:
    assert built.file is not None, built.problem
    return RUNTIMES["torch"].load(built.file, ["cpu"], 1, {}).infer((x,))[0]


def test_every_artifact_is_a_program_and_onnx_techniques_are_skipped(
    builder: Callable[..., Builder],
) -> None:
    work = builder()
    x = work.dataset.test_x
    variants = {v.name: v for v in plan_variants(work.recipe)}
    base = work.base()
    sparse, int8, trained = (work.variant(variants[n])[0] for n in ("sparse", "int8", "trained"))
    made = [base, work.control(1), sparse, trained]
    assert [(b.format, b.file and b.file.suffix) for b in made] == [("pt2", ".pt2")] * 4
    answers = [_answers(b, x) for b in made]
    assert all(a.shape == (len(x), 10) for a in answers)
    assert all(not np.allclose(answers[0], a) for a in answers[1:])
    assert int8.skipped
    assert int8.file is None
    assert int8.problem == (
        "'ptq' works on an ONNX file, and the runtime 'torch' runs .pt2 files; "
        "use a target whose runtime reads ONNX"
    )


def test_an_onnx_file_is_no_model_for_torch(
    builder: Callable[..., Builder], tmp_path: Path
) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"the runtime 'torch' runs \.pt2 files, no ONNX file"):
        builder(model=str(path)).base()


def test_the_two_formats_have_keys_of_their_own(builder: Callable[..., Builder]) -> None:
    torch, onnx = builder(), builder("cpu")
    assert (torch.format, onnx.format) == ("pt2", "onnx")
    assert torch.keys.network("base") == onnx.keys.network("base")
    assert torch._export_key("k") != onnx._export_key("k")


def test_openvino_takes_the_same_files_as_onnx_runtime(builder: Callable[..., Builder]) -> None:
    assert builder("cpu-openvino")._export_key("k") == builder("cpu")._export_key("k")


def test_a_runtime_there_is_not_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("runtime: {name: tflite}\n")
    with pytest.raises(TargetError) as caught:
        load_target(str(path))
    assert "there is no runtime 'tflite'; there is onnxruntime, openvino, torch" in str(
        caught.value.line()
    )
