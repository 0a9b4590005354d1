"""All answers of an ONNX file to real inputs, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError, ModelError

# Real examples [N, ...]: one array for a model's only input, or one for each input by name.
Examples = NDArray[np.float32] | Mapping[str, NDArray[Any]]


def arrays_of(examples: Examples) -> list[NDArray[Any]]:
    """The arrays of examples, one for each input of the model, in its order."""
    found = list(examples.values()) if isinstance(examples, Mapping) else [examples]
    return [np.ascontiguousarray(array) for array in found]


def open_session(path: Path, *, optimised: bool = True):  # type: ignore[no-untyped-def] # onnxruntime has no types
    """An ONNX Runtime session on the host's processor, one thread, quiet."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def file_answers(path: Path, examples: Examples) -> dict[str, NDArray[Any]]:
    """The answers of a file by output, [N, ...] each, in batches it takes.

    Without graph optimisation: what the file says, not what this host's kernels make of it, and an
    optimiser that crashes takes only the agent's process down. Examples that do not fill a fixed
    batch are left out. Raises BuildError where the file does not run on them.
    """
    arrays = arrays_of(examples)
    try:
        session = open_session(path, optimised=False)
        names = [entry.name for entry in session.get_inputs()]
        shapes = [entry.shape for entry in session.get_inputs()]
        fixed = next((s[0] for s in shapes if s and isinstance(s[0], int) and s[0] > 0), 0)
        batch = fixed or len(arrays[0])
        parts = [
            session.run(None, {n: a[i : i + batch] for n, a in zip(names, arrays, strict=True)})
            for i in range(0, len(arrays[0]) - batch + 1, batch)
        ]
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        raise BuildError(f"ONNX Runtime cannot run the file: {plain_message(error)}") from error
    if not parts:
        raise BuildError(f"the model's batch is fixed at {batch}, more than there are examples")
    outputs = [entry.name for entry in session.get_outputs()]
    try:
        joined = [np.concatenate(each) for each in zip(*parts, strict=True)]
    except ValueError:
        # Numbers without an axis, or of another size in each batch.
        joined = [each[0] for each in zip(*parts, strict=True)]
    return dict(zip(outputs, joined, strict=True))


def answer_shapes(path: Path, examples: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """The shape of one example of each answer of a user's file.

    Raises
    ------
    ModelError
        The file does not run on the examples, or an answer does not count them along its first
        axis, or is not finite.
    """
    count = len(next(iter(examples.values())))
    try:
        found = file_answers(path, examples)
    except BuildError as error:
        raise ModelError(error.what, where=str(path)) from error
    for name, answer in found.items():
        if not answer.ndim or len(answer) != count:
            raise ModelError(
                f"the model's answer '{name}' has shape {list(answer.shape)} for {count} examples; "
                "its first axis has to count them",
                where=str(path),
            )
        if answer.dtype.kind == "f" and not np.isfinite(answer).all():
            raise ModelError(
                f"the model's answer '{name}' is not finite (NaN or infinity)", where=str(path)
            )
    return {name: answer.shape[1:] for name, answer in found.items()}


def signal_to_noise(
    wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]
) -> str | None:
    """How far answers moved, as `SQNR 35.1 dB`, of several outputs each; None where nothing did.

    Raises BuildError where an answer has another shape, or is not finite.
    """
    if list(got) != list(wanted):
        raise BuildError(f"the file answers {', '.join(got)} where it answered {', '.join(wanted)}")
    told, moved = [], False
    for name, before in wanted.items():
        after = got[name]
        if after.shape != before.shape:
            raise BuildError(
                f"the file answers {list(after.shape)} where it answered {list(before.shape)}"
            )
        first, second = before.astype(np.float64), after.astype(np.float64)
        if not np.isfinite(second).all():
            raise BuildError("the file's answers are not finite (NaN or infinity)")
        noise, signal = float(((second - first) ** 2).sum()), float((first**2).sum())
        moved = moved or noise > 0
        with np.errstate(divide="ignore"):
            ratio = f"{10 * np.log10(signal / noise):.1f} dB" if noise else "as before"
        told.append(f"{name} {ratio}" if len(wanted) > 1 else ratio)
    return f"SQNR {', '.join(told)}" if moved else None
