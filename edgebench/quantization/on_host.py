"""What ONNX Runtime on this host's processor makes of a file: its answers, and what it runs."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError
from edgebench.quantization.optimised_session import open_optimised

# Real inputs, one array [N, ...] for each of a model's in its order; None where there are none.
Examples = Sequence[NDArray[Any]] | None

# For a size that is not fixed: the first axis is the batch, the others are mostly an image's.
BATCH, OTHER = 2, 32

# Operators that only move or convert values, so that the type they have them in is no arithmetic.
MOVING = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "ReorderInput"),
    *("ReorderOutput", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
    "Unsqueeze",
}


@dataclass(frozen=True)
class Operator:
    """One operator of an inference; `dtype` is its first result's, as ONNX Runtime names it."""

    name: str
    dtype: str


def answers(model: Path | bytes, examples: Examples = None) -> list[NDArray[Any]]:
    """The outputs for some inputs, without graph optimisation: what the file itself says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        given: list[NDArray[Any]] = session.run(None, inputs_for(session, examples))
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        raise BuildError(f"ONNX Runtime cannot run the file: {plain_message(error)}") from error
    return given


def operators_run(path: Path, examples: Examples = None) -> list[Operator]:
    """The operators of one inference, after all graph optimisation."""
    with tempfile.TemporaryDirectory(prefix="edgebench-profile-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, *(examples or ()))
        open_optimised(path, profile=Path(folder) / "profile", inputs=inputs)
        (written,) = Path(folder).glob("profile*")
        events = json.loads(written.read_text(encoding="utf-8"))
    found = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            results = event["args"].get("output_type_shape") or [{}]
            found.append(Operator(event["args"]["op_name"], next(iter(results[0]), "")))
    return found


def computed_in_float32(operators: list[Operator]) -> tuple[int, int]:
    """How many operators compute in float32, and how many compute in floats of any size."""
    floats = [
        operator.dtype
        for operator in operators
        if operator.name not in MOVING and operator.dtype in {"float", "float16", "bfloat16"}
    ]
    return floats.count("float"), len(floats)


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep the quantizers' log off the user's screen, and the root logger as it was.

    Some of ONNX Runtime's modules give the root logger a handler and a level when imported.
    """
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def inputs_for(session: Any, examples: Examples = None) -> dict[str, NDArray[Any]]:
    """The first of the examples, as many as the model takes at once; made up without any."""
    entries = session.get_inputs()
    if not examples or len(examples) != len(entries) or not len(examples[0]):
        return made_up(session)
    feed = {}
    for entry, array in zip(entries, examples, strict=True):
        size = entry.shape[0] if entry.shape else None
        count = size if isinstance(size, int) and size > 0 else min(BATCH, len(array))
        feed[entry.name] = np.resize(array, (count, *array.shape[1:]))
    return feed


def made_up(session: Any) -> dict[str, NDArray[Any]]:
    """Inputs of the right shapes and types, always the same: normal floats, zeros else."""
    rng = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {}
    for entry in session.get_inputs():
        shape = [
            size if isinstance(size, int) and size > 0 else (OTHER if axis else BATCH)
            for axis, size in enumerate(entry.shape)
        ]
        kind = entry.type.removeprefix("tensor(").removesuffix(")")
        dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
        values = rng.standard_normal(shape)
        feed[entry.name] = (values if "float" in dtype else np.zeros(shape)).astype(dtype)
    return feed
