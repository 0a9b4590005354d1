"""Write the bundle the agent reads, and the record of what was built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebench import __version__
from edgebench.errors import storage_error
from edgebench.exporters.onnx_file import compressed_size, count_parameters, read_onnx
from edgebench.hashing import file_digest
from edgebench.pipeline.built import Built
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.task import Task
from edgebench.recipe import Recipe
from edgebench.records import Artifact, Variant
from edgebench.store import write_atomically
from edgebench.target import Target


def write_bundle(
    folder: RunFolder,
    built: Sequence[Built],
    task: Task,
    *,
    recipe: Recipe,
    target: Target,
    run_id: str,
) -> tuple[Variant, ...]:
    """Fill `folder.bundle`; returns the variants as they go to be measured."""
    try:
        models = folder.bundle / "models"
        models.mkdir(parents=True, exist_ok=True)
        inputs = _place_inputs(folder, task)
        variants = tuple(_place(one, models, folder.path) for one in built)
    except OSError as error:
        raise storage_error(error, folder.bundle) from error
    # The agent measures again, in fresh processes, what misses the tightest of these.
    ratios = [g for g in recipe.gates if g.metric == "latency_ratio"]
    tightest = {
        "min": max((g.min for g in ratios if g.min is not None), default=None),
        "max": min((g.max for g in ratios if g.max is not None), default=None),
    }
    limits = {"latency_ratio": tightest} if ratios else {}
    manifest = {
        "schema": "edgebench.bundle/1",
        "run_id": run_id,
        "edgebench_version": __version__,
        "seed": recipe.seed,
        "runtime": target.runtime.model_dump(mode="json"),
        "protocol": recipe.protocol.model_dump(mode="json"),
        "answers": "all" if task.answers == "any" else task.answers,
        "inputs": inputs,
        "models": [
            {
                "name": v.name,
                "file": f"models/{v.name}.{v.artifact.format}",
                "sha256": v.artifact.sha256,
                "bytes": v.artifact.bytes,
                "timed": not v.beside,
                "limits": limits if v.judged else {},
            }
            for v in variants
            if v.artifact is not None
        ],
    }
    write_atomically(folder.bundle / "manifest.json", json.dumps(manifest, indent=1))
    return variants


def _place_inputs(folder: RunFolder, task: Task) -> list[dict[str, Any]]:
    """Write the test inputs, and the labels beside the bundle; the inputs' entries."""
    entries = []
    given = task.inputs()
    for index, (name, array) in enumerate(given):
        file = folder.bundle / ("inputs.npy" if len(given) == 1 else f"inputs-{index}.npy")
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        entries.append(
            {
                "name": name,
                "file": file.name,
                "sha256": file_digest(file),
                "shape": list(array.shape),
                "dtype": str(array.dtype),
            }
        )
    labels = task.labels()
    if labels is not None:
        np.save(folder.labels_file, labels)
    return entries


def _place(built: Built, models: Path, root: Path) -> Variant:
    """Copy a built file into the bundle, and describe it."""
    chain: tuple[dict[str, Any], ...] = tuple(step.record() for step in built.steps)
    if built.file is None:
        return Variant(
            name=built.name,
            chain=chain,
            control=built.control,
            reference=built.reference,
            status="skipped" if built.skipped else "failed",
            problem=built.problem,
        )
    place = models / f"{built.name}.{built.format}"
    # Not copyfile: its error names the source, and it is the destination's disk that is full.
    with built.file.open("rb") as source, place.open("wb") as destination:
        shutil.copyfileobj(source, destination)
    parameters, zeros = _count(place, built.format)
    size, compressed = place.stat().st_size, compressed_size(place)
    return Variant(
        name=built.name,
        chain=chain,
        control=built.control,
        reference=built.reference,
        status="not_measured",
        problem="not measured yet",
        artifact=Artifact(
            format=built.format,
            sha256=file_digest(place),
            bytes=size,
            compressed_bytes=compressed,
            path=str(place.relative_to(root)),
        ),
        metrics={
            "size_bytes": size,
            "compressed_bytes": compressed,
            "parameters": parameters,
            "sparsity": zeros / parameters if parameters else 0.0,
        },
        notes=built.notes,
        figures=built.figures,
    )


def _count(place: Path, format: str) -> tuple[int, int]:
    """How many numbers a file's weights hold, and how many of them are zero."""
    if format == "pt2":
        from edgebench.exporters.pt2_from_torch import count_pt2_parameters

        return count_pt2_parameters(place)
    return count_parameters(read_onnx(place))
