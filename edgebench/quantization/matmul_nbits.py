"""Weight-only quantization of dense layers into ONNX Runtime's MatMulNBits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError
from edgebench.quantization.on_host import Examples, operators_run, quiet_logging
from edgebench.quantization.onnx_graph import (
    constants_to_initializers,
    counted,
    drop_initializers,
    unused,
    uses_of,
)
from edgebench.quantization.weight_only import bytes_note, check_smaller

# What ONNX Runtime's quantizer takes.
GROUPS = (16, 32, 64, 128, 256)
DEFAULT_GROUP = 32


def quantize_dense_layers(
    model: onnx.ModelProto,
    destination: Path,
    *,
    bits: int,
    group: int | None,
    skip: Sequence[str],
    examples: Examples = None,
) -> list[str]:
    """Write `model` with its MatMul and Gemm as MatMulNBits; returns notes for the report.

    Activations stay float32. The model is changed in place. `examples`: inputs to run it on.

    Raises
    ------
    BuildError
        The group is of a size that ONNX Runtime has no kernel for, or nothing was quantized.
    """
    group = DEFAULT_GROUP if group is None else group
    if group not in GROUPS:
        raise BuildError(
            f"ONNX Runtime has no MatMulNBits with groups of {group}",
            hint=f"use one of {', '.join(map(str, GROUPS))}",
        )
    constants_to_initializers(model.graph)
    _gemm_to_matmul(model, skip)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    try:
        with quiet_logging():
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            quantizer = MatMulNBitsQuantizer(
                model, bits=bits, block_size=group, is_symmetric=True, nodes_to_exclude=list(skip)
            )
            quantizer.process()
    except Exception as error:
        raise BuildError(
            f"ONNX Runtime cannot quantize the dense layers: {plain_message(error)}"
        ) from error
    written = quantizer.model.model
    layers = [node for node in written.graph.node if node.op_type == "MatMulNBits"]
    convolutions = sum(node.op_type == "Conv" for node in written.graph.node)
    if not layers:
        raise BuildError(
            "the model has no dense layer with weights that MatMulNBits could take",
            hint="'kernel: dequantize' quantizes convolutions too",
        )
    after = {t.name: len(t.raw_data) for t in written.graph.initializer}
    gone = [t for name, t in tensors.items() if name not in after]
    before_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in gone)
    after_bytes = sum(size for name, size in after.items() if name not in tensors)
    check_smaller(before_bytes, after_bytes)
    onnx.checker.check_model(written)
    onnx.save(written, destination)
    operators_run(destination, examples)
    notes = [
        f"{counted(len(layers), 'dense layer')} at {bits} bits, one scale a group of {group} "
        f"inputs: {bytes_note(before_bytes, after_bytes)}"
    ]
    if convolutions:
        notes.append(f"MatMulNBits takes dense layers alone; left in float32: {convolutions} Conv")
    return notes


def _gemm_to_matmul(model: onnx.ModelProto, skip: Sequence[str]) -> None:
    """Write each Gemm with a constant weight as MatMul and Add, in place, where that is exact."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    # One tensor for all that read a weight in the same way: transposed, or times alpha.
    written: dict[tuple[str, int, float], str] = {}
    for node in model.graph.node:
        weight = tensors.get(node.input[1]) if node.op_type == "Gemm" else None
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bias = node.input[2] if len(node.input) > 2 else ""
        if (
            weight is None
            or weight.data_type != TensorProto.FLOAT
            or node.name in skip
            or settings.get("transA", 0)
            or (bias and settings.get("beta", 1.0) != 1.0)
        ):
            nodes.append(node)
            continue
        form = (weight.name, settings.get("transB", 0), settings.get("alpha", 1.0))
        if form not in written:
            values = numpy_helper.to_array(weight)
            values = np.float32(form[2]) * (values.T if form[1] else values)
            written[form] = unused(f"{weight.name}_matmul", model)
            model.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(values), written[form])
            )
            replaced.add(weight.name)
        name = written[form]
        product = unused(f"{node.output[0]}_product", model) if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if bias:
            added = f"{node.name}_bias" if node.name else ""
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], name=added))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    uses = uses_of(model.graph)
    drop_initializers(model.graph, {name for name in replaced if not uses[name]})
