"""Changes to an ONNX graph, in place, and questions about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from edgebench.errors import BuildError, nearest, one_line
from edgebench.quantization.on_host import Examples, answers

# A node that reads a tensor, and at which of its inputs. (None, 0): the graph gives it as an
# output, or a graph within a node reads it.
Use = tuple[onnx.NodeProto | None, int]


def uses_of(graph: onnx.GraphProto) -> dict[str, list[Use]]:
    """Who reads each tensor of a graph; names nobody reads have an empty list."""
    uses: dict[str, list[Use]] = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            uses[name].append((node, place))
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                for name in uses_of(inner):
                    uses[name].append((None, 0))
    for value in graph.output:
        uses[value.name].append((None, 0))
    return uses


def unused(name: str, model: onnx.ModelProto) -> str:
    """`name`, or `name` with a number behind it where the model has a tensor of that name."""
    graph = model.graph
    taken = {tensor.name for tensor in graph.initializer} | {v.name for v in graph.input}
    taken.update(output for node in graph.node for output in node.output)
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes that read initializers alone before all others."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn float tensors that Constant nodes hold into initializers, in place."""
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        tensors = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type != "Constant" or not tensors or not tensors[0].dims:
            continue
        if tensors[0].data_type == TensorProto.FLOAT:
            graph.initializer.append(tensors[0])
            graph.initializer[-1].name = node.output[0]
            del graph.node[index]


def drop_initializers(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Remove initializers, and their entries among the inputs."""
    forget_inputs(graph, names)
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in names:
            del graph.initializer[index]


def forget_inputs(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Take weights off the graph's inputs, where files of old IR versions list them."""
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in names:
            del graph.input[index]


def check_node_names(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Raise BuildError where the model has no node of one of these names."""
    known = {node.name for node in model.graph.node if node.name}
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise BuildError(
                f"the model has no node '{name}' to exclude",
                hint=f"did you mean '{near}'?" if near else "see the names of its nodes",
            )


def raise_opset(model: onnx.ModelProto, opset: int, examples: Examples = None) -> None:
    """Raise the model to an operator set in place, unless it has that or a higher one.

    `examples`: what its answers before and after are compared on.

    Raises
    ------
    BuildError
        The model cannot be converted, or it answers otherwise after.
    """
    given = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    if given >= opset:
        return
    from onnx import version_converter

    hint = f"export it with opset {opset}"
    before = answers(model.SerializeToString(), examples)
    try:
        converted = version_converter.convert_version(model, opset)
        after = answers(converted.SerializeToString(), examples)
    except Exception as error:
        raise BuildError(
            f"the model cannot be raised from opset {given} to {opset}: "
            f"{one_line(str(error), 200)}",
            hint=hint,
        ) from error
    if not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)):
        raise BuildError(
            f"the model answers otherwise when raised from opset {given} to {opset}", hint=hint
        )
    model.CopyFrom(converted)


def counted(count: int, what: str) -> str:
    """A number with its noun, for a note."""
    return f"{count} {what}{'' if count == 1 else 's'}"
