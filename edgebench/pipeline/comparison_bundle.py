"""What is asked of two models, and the bundle that answers it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgebench import __version__
from edgebench.errors import ModelError, one_line, storage_error
from edgebench.hashing import file_digest
from edgebench.pipeline.comparison_inputs import Inputs
from edgebench.pipeline.folder import RunFolder
from edgebench.protocol import Protocol
from edgebench.recipe import DataLimits
from edgebench.store import write_atomically
from edgebench.target import Target

if TYPE_CHECKING:
    import onnx

# A goes by the name the agent knows the reference by.
NAMES = ("base", "b")


@dataclass(frozen=True)
class Question:
    """Is B slower than A on this target, by more than `limit`, or another function?

    `sizes` fixes free dimensions by name. `max_disagreement`: the share of predictions that may
    differ; None: not asked.
    """

    a: Path
    b: Path
    target: Target
    protocol: Protocol
    batch: int | None = None
    seed: int = 0
    data: str | None = None
    limits: DataLimits = field(default_factory=DataLimits)
    sizes: Mapping[str, int] = field(default_factory=dict)
    limit: float = 0.0
    max_disagreement: float | None = None


def write_comparison_bundle(
    folder: RunFolder,
    run_id: str,
    question: Question,
    *,
    protocol: Protocol,
    inputs: Inputs,
    models: tuple[onnx.ModelProto, onnx.ModelProto],
) -> None:
    """Fill the bundle (docs/bundle.md): A as `base`, B as `b`, one file for each input."""
    try:
        place = folder.bundle / "models"
        place.mkdir(parents=True, exist_ok=True)
        listed = []
        for index, (name, array) in enumerate(zip(inputs.names, inputs.arrays, strict=True)):
            file = folder.bundle / f"input-{index}.npy"
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            listed.append(
                {
                    "name": name,
                    "file": file.name,
                    "sha256": file_digest(file),
                    "shape": list(array.shape),
                    "dtype": str(array.dtype),
                }
            )
        entries = []
        for name, path, model in zip(NAMES, (question.a, question.b), models, strict=True):
            file = place / f"{name}.onnx"
            _copy_model(path, model, file)
            entries.append(
                {
                    "name": name,
                    "file": f"models/{file.name}",
                    "sha256": file_digest(file),
                    "bytes": file.stat().st_size,
                    "timed": True,
                    # What lies above is measured again, in fresh processes.
                    "limits": {"latency_ratio": {"max": 1 + question.limit}} if name == "b" else {},
                }
            )
    except OSError as error:
        raise storage_error(error, folder.bundle) from error
    manifest = {
        "schema": "edgebench.bundle/1",
        "run_id": run_id,
        "edgebench_version": __version__,
        "seed": question.seed,
        "runtime": question.target.runtime.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
        "answers": "any",
        "inputs": listed,
        "models": entries,
    }
    write_atomically(folder.bundle / "manifest.json", json.dumps(manifest, indent=1))


def _copy_model(path: Path, model: onnx.ModelProto, place: Path) -> None:
    """Copy a model file; one whose weights lie in files beside it becomes one file."""
    import onnx

    bare = onnx.load(path, load_external_data=False)
    if not any(onnx.external_data_helper.uses_external_data(t) for t in bare.graph.initializer):
        with path.open("rb") as source, place.open("wb") as destination:
            shutil.copyfileobj(source, destination)
        return
    try:
        content = model.SerializeToString()
    except Exception as error:
        raise ModelError(
            f"its weights do not fit into one file: {one_line(str(error), 120)}",
            where=str(path),
            hint="an ONNX file holds at most 2 GiB",
        ) from error
    place.write_bytes(content)
