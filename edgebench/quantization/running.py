"""Run ONNX files on the host as they are written, without ONNX Runtime's rewriting of the graph.

So the answers are those of the file's arithmetic, the same on every processor, and not what the
integer kernels of this host make of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Examples in batches that a model takes: `name` is its input, `batch` the examples at once."""

    name: str
    batch: int
    examples: NDArray[np.float32]

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(self.examples), self.batch):
            yield {self.name: self.examples[start : start + self.batch]}


def feed_for(model: Path, examples: NDArray[np.float32], *, what: str) -> Feed:
    """The examples [N, …] as a feed for the file `model`; `what` they are, for the message.

    A model of a fixed batch leaves out what does not fill the last one.

    Raises
    ------
    BuildError
        There are none, they have another shape than the model's input, or they do not fill the
        one batch that it takes; or the model has several inputs.
    """
    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise BuildError(
            f"the model has {len(inputs)} inputs, and the {what} hold one",
            hint="mode: weight-only and mode: dynamic need none",
        )
    if not len(examples):
        raise BuildError(
            f"there are no {what}", hint="does the data have a training part? See data_limits"
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise BuildError(f"the model's input is {name}, and the {what} are float32")
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
    fixed = sizes[0] if sizes else None
    if fixed is None:
        return Feed(inputs[0].name, MOST_AT_ONCE, examples)
    whole = len(examples) // fixed * fixed
    if not whole:
        raise BuildError(
            f"the model takes {fixed} examples at once, and there are {len(examples)} {what}",
            hint="export it with a free batch size, or give more",
        )
    return Feed(inputs[0].name, fixed, examples[:whole])


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
    session = open_session(model)
    parts = [session.run(None, batch)[0] for batch in feed]
    return np.concatenate(parts)


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
