"""What an ONNX file holds: its shape as a classifier, its parameters, its zeros, its size."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.errors import ModelError, one_line

if TYPE_CHECKING:
    import onnx

# The inputs of the integer operators that can be weights; all their others are scales, zero points
# or activations.
INTEGER_WEIGHTS = {
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3, 6),
}


@dataclass(frozen=True)
class OnnxClassifier:
    """The one input and one output of an ONNX classifier; None where a size is not fixed."""

    input_name: str
    input_shape: tuple[int | None, ...]
    output_name: str
    output_shape: tuple[int | None, ...]
    opset: int


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model in a file, its external data included; raises ModelError in one line."""
    import onnx

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        missing = error.filename or path
        raise ModelError("there is no ONNX file at this path", where=str(missing)) from None
    except Exception as error:
        outside = "external" in str(error).lower() or "TensorProto" in str(error)
        raise ModelError(
            f"the ONNX file cannot be read: {one_line(str(error), 240)}",
            where=str(path),
            hint="its weights must lie in files beside it" if outside else "is it complete?",
        ) from error
    if not model.graph.output:
        raise ModelError("the ONNX file holds no graph", where=str(path), hint="is it complete?")
    return model


def classifier_of(model: onnx.ModelProto, *, where: str) -> OnnxClassifier:
    """The input and output of a classifier; raises ModelError where the model is none."""
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelError(
            f"the model has {len(inputs)} inputs and {len(model.graph.output)} outputs; "
            "a classifier has one of each",
            where=where,
        )
    entry, answer = inputs[0], model.graph.output[0]
    if entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(entry.type.tensor_type.elem_type)
        raise ModelError(f"the model's input is {kind}, not float32", where=where)
    output_shape = _shape(answer)
    if answer.type.tensor_type.HasField("shape") and len(output_shape) != 2:
        raise ModelError(
            f"the model's output '{answer.name}' has shape {_shown(output_shape)}; "
            "a classifier gives [N, classes]",
            where=where,
        )
    opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
    return OnnxClassifier(entry.name, _shape(entry), answer.name, output_shape, opset)


def check_fits(
    classifier: OnnxClassifier, input_shape: tuple[int, ...], classes: int, *, where: str
) -> None:
    """Raise ModelError where the model takes other inputs or gives other classes than the data."""
    wanted = classifier.input_shape[1:]
    if len(wanted) != len(input_shape) or any(
        a is not None and a != b for a, b in zip(wanted, input_shape, strict=True)
    ):
        raise ModelError(
            f"the model takes inputs {_shown(classifier.input_shape)}, "
            f"the data has [N, {', '.join(map(str, input_shape))}]",
            where=where,
            hint="name data of the size the model was made for",
        )
    given = classifier.output_shape[1] if len(classifier.output_shape) == 2 else None
    if given is not None and given != classes:
        raise ModelError(f"the model answers {given} classes, the data has {classes}", where=where)


def count_parameters(model: onnx.ModelProto) -> tuple[int, int]:
    """How many numbers the weight tensors hold, and how many of them are zero.

    Scales and zero points of quantization, statistics of batch normalisation and integer constants
    (shapes, axes) are no weights.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    helpers: set[str] = set()
    quantized: set[str] = set()
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            helpers.update(node.input[3:5])
        elif node.op_type == "Constant":
            tensors += [(node.output[0], a.t) for a in node.attribute if a.name == "value"]
        elif node.op_type in INTEGER_WEIGHTS:
            places = INTEGER_WEIGHTS[node.op_type]
            for place, name in enumerate(node.input):
                (quantized if place in places else helpers).add(name)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    total = zeros = 0
    for name, tensor in tensors:
        if name in helpers - quantized or not tensor.dims:
            continue
        if tensor.data_type in floats or name in quantized:
            values = numpy_helper.to_array(tensor)
            total += values.size
            zeros += values.size - int(np.count_nonzero(values))
    return total, zeros


def compressed_size(path: Path) -> int:
    """The bytes of a file after deflate (level 6): what a download costs."""
    compressor = zlib.compressobj(6)
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _shape(value: Any) -> tuple[int | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    # Some exporters write 0 or −1 for a size that is not fixed.
    return tuple(d.dim_value if d.dim_value > 0 else None for d in dimensions)


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if s is None else str(s) for s in shape) + "]"
