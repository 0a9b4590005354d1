"""What an ONNX file holds: its shape as a classifier, its parameters, its zeros, its size."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebench.errors import ModelError, one_line

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

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

    A number counts as one whatever its bits, also where several share a byte; padding counts as
    none. Scales and zero points of quantization, statistics of batch normalisation and integer
    constants (shapes, axes) are no weights.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                tensors[node.output[0]] = attribute.t
    integers, others = _integer_weights(model)
    packed = {n.input[1]: n for n in model.graph.node if n.op_type == "MatMulNBits"}
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    total = zeros = 0
    for name, tensor in tensors.items():
        if name in packed:
            values: NDArray[Any] = _unpacked(packed[name], tensors)
        elif tensor.dims and (
            name in integers or (tensor.data_type in floats and name not in others)
        ):
            values = numpy_helper.to_array(tensor)
        else:
            continue
        total += values.size
        zeros += values.size - int(np.count_nonzero(values))
    return total, zeros


def _integer_weights(model: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """The tensors that can be weights of integer operators, and those that are none anywhere."""
    weights: set[str] = set()
    others: set[str] = set()
    dynamic = {n.output[1] for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            others.update(node.input[3:5])
        elif node.op_type == "Mul" and not dynamic.isdisjoint(node.input):
            # The scale of an activation, found at each inference, times that of a weight.
            others.update(node.input)
        elif node.op_type == "MatMulNBits":
            # Its sixth input is a bias.
            others.update(node.input[2:5])
        elif node.op_type in INTEGER_WEIGHTS:
            places = INTEGER_WEIGHTS[node.op_type]
            for place, name in enumerate(node.input):
                (weights if place in places else others).add(name)
    rounded, factors = _rounded_weights(model)
    weights |= rounded
    others |= factors
    for node in model.graph.node:
        # A weight of fewer bits than the kernels take stands behind a Cast.
        if node.op_type == "Cast" and node.output[0] in weights:
            weights.add(node.input[0])
    return weights, others - weights


def _rounded_weights(model: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Integer weights that loading casts and multiplies by their scales, and these scales."""
    from onnx import TensorProto

    small = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type in small}
    casts = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
    weights: set[str] = set()
    factors: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "Mul":
            continue
        for own, factor in (node.input, reversed(node.input)):
            source = own
            while source in casts:
                source = casts[source]
            if source != own and source in integers:
                weights.add(source)
                factors.add(factor)
    return weights, factors


def compressed_size(path: Path) -> int:
    """The bytes of a file after deflate (level 6): what a download costs."""
    compressor = zlib.compressobj(6)
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _unpacked(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> NDArray[Any]:
    """The integers [N, K] of a MatMulNBits' weight, less their zero points.

    Source: ONNX Runtime's contrib operators, "MatMulNBits".
    """
    import numpy as np
    from onnx import numpy_helper

    settings = {attribute.name: attribute.i for attribute in node.attribute}
    bits, inputs, channels = settings.get("bits", 4), settings["K"], settings["N"]
    block = settings["block_size"]
    blocks = -(-inputs // block)

    def split(array: NDArray[Any], width: int) -> NDArray[Any]:
        parts = array.reshape(channels, -1, 1) >> np.arange(0, 8, bits, dtype=np.uint8)
        flat: NDArray[Any] = (parts & (2**bits - 1)).reshape(channels, -1)[:, :width]
        return flat.astype(np.int64)

    weight = split(numpy_helper.to_array(tensors[node.input[1]]), blocks * block)
    given = tensors.get(node.input[3]) if len(node.input) > 3 else None
    zero: Any = 2 ** (bits - 1)
    if given is not None:
        points = numpy_helper.to_array(given)
        # Zero points are packed as the weights are, or floats, one a block.
        packed = points.dtype == np.uint8
        zero = split(points, blocks) if packed else points.reshape(channels, blocks)
        zero = np.repeat(zero, block, axis=1)
    numbers: NDArray[Any] = (weight - zero)[:, :inputs]
    return numbers


def _shape(value: Any) -> tuple[int | None, ...]:
    dimensions = value.type.tensor_type.shape.dim
    # Some exporters write 0 or −1 for a size that is not fixed.
    return tuple(d.dim_value if d.dim_value > 0 else None for d in dimensions)


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if s is None else str(s) for s in shape) + "]"
