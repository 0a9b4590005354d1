"""Run ONNX files on the host as they are written, without ONNX Runtime's rewriting of the graph.

So the answers are those of the file's arithmetic, the same on every processor, and not what the
integer kernels of this host make of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from edgebench.errors import BuildError

# Bounds the memory that the activations of one batch take.
MOST_AT_ONCE = 32


@dataclass(frozen=True)
class Feed:
    """Examples in batches that a model takes: [N, ...] for each input by name, `batch` at once."""

    inputs: Mapping[str, NDArray[Any]]
    batch: int

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, len(self), self.batch):
            yield {name: array[start : start + self.batch] for name, array in self.inputs.items()}

    @property
    def examples(self) -> NDArray[Any]:
        """Those of the first input."""
        return next(iter(self.inputs.values()))

    def only(self, rows: NDArray[np.int64]) -> Feed:
        """The same feed with these examples alone."""
        inputs = {name: np.ascontiguousarray(array[rows]) for name, array in self.inputs.items()}
        return Feed(inputs, self.batch)


def feed_for(model: Path, examples: NDArray[Any] | Sequence[NDArray[Any]], *, what: str) -> Feed:
    """The examples as a feed for the file `model`; `what` they are, for the message.

    One array [N, …], or one for each of the model's inputs in their order. A model of a fixed batch
    leaves out what does not fill the last one.

    Raises
    ------
    BuildError
        There are none, they have another shape or type than the model's inputs, or are of
        another number, or do not fill the one batch that it takes.
    """
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    entries = [value for value in graph.input if value.name not in weights]
    arrays = [examples] if isinstance(examples, np.ndarray) else list(examples)
    if len(entries) != len(arrays):
        raise BuildError(
            f"the model has {len(entries)} inputs, and the {what} hold {len(arrays)}",
            hint="mode: weight-only and mode: dynamic need none",
        )
    if not len(arrays[0]):
        raise BuildError(
            f"there are no {what}", hint="does the data have a training part? See data_limits"
        )
    batches = {
        _check(entry, array, what, alone=len(arrays) == 1)
        for entry, array in zip(entries, arrays, strict=True)
    }
    fixed = next((size for size in batches if size is not None), None)
    names = [entry.name for entry in entries]
    if fixed is None:
        return Feed(dict(zip(names, arrays, strict=True)), MOST_AT_ONCE)
    count = len(arrays[0])
    whole = count // fixed * fixed
    if not whole:
        raise BuildError(
            f"the model takes {fixed} examples at once, and there are {count} {what}",
            hint="export it with a free batch size, or give more",
        )
    return Feed({n: array[:whole] for n, array in zip(names, arrays, strict=True)}, fixed)


def _check(
    entry: onnx.ValueInfoProto, examples: NDArray[Any], what: str, *, alone: bool
) -> int | None:
    """The batch that an input of a model fixes; raises BuildError where `examples` do not fit."""
    name = "input" if alone else f"input '{entry.name}'"
    kind = entry.type.tensor_type
    if onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) != examples.dtype:
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise BuildError(f"the model's {name} is {dtype}, and the {what} are {examples.dtype}")
    # A free size has a name, or 0 or −1.
    sizes = [dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim]
    given = examples.shape[1:]
    if kind.HasField("shape") and (
        len(sizes) != examples.ndim
        or any(size not in (None, got) for size, got in zip(sizes[1:], given, strict=True))
    ):
        raise BuildError(
            f"the {what} have shape [N, {_shown(given)}], and the model takes "
            f"[{_shown(s or 'N' for s in sizes)}]",
            hint="name data of the size the model was made for",
        )
    return sizes[0] if sizes else None


def open_session(model: Path | bytes) -> Any:
    """A session on the host's processor that computes what the file says, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def answers(model: Path, feed: Feed) -> NDArray[np.float32]:
    """A file's first output for every example."""
    return np.concatenate(all_answers(model, feed)[0])


def all_answers(model: Path, feed: Feed) -> list[list[NDArray[Any]]]:
    """Every output of a file: of each, its answers to one batch after the other."""
    session = open_session(model)
    return [list(parts) for parts in zip(*(session.run(None, b) for b in feed), strict=True)]


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` that answers these float tensors, without what they do not need."""
    wanted = set(names)
    needed: list[onnx.NodeProto] = []
    # A branch or a loop reads tensors that its operator does not list.
    everything = any(a.HasField("g") for node in model.graph.node for a in node.attribute)
    for node in reversed(model.graph.node):
        if everything or wanted.intersection(node.output):
            needed.append(node)
            wanted.update(name for name in node.input if name)
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.node[:]
    kept.graph.node.extend(reversed(needed))
    constants = [t for t in model.graph.initializer if everything or t.name in wanted]
    del kept.graph.initializer[:]
    kept.graph.initializer.extend(constants)
    del kept.graph.output[:]
    kept.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return kept


def _shown(sizes: Any) -> str:
    return ", ".join(str(size) for size in sizes)
