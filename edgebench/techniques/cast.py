"""Store the weights in half precision: fp16 or bf16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field

from edgebench.errors import BuildError, one_line
from edgebench.techniques.base import TECHNIQUES, Context, OnnxTechnique, Options, Outcome

if TYPE_CHECKING:
    import onnx

# The largest finite number of half precision.
FP16_MAX = 65504.0

# The first operator set whose Cast knows bfloat16.
BF16_OPSET = 13

# Operators whose constants are no weights: a size or a scale that is rounded is another one.
EXACT = {"Resize", "Upsample", "QuantizeLinear", "DequantizeLinear"}


class CastOptions(Options):
    """Options of `cast`."""

    dtype: Literal["fp16", "bf16"] = Field("fp16", description="the type of the weights")


@TECHNIQUES.register("cast")
class Cast(OnnxTechnique):
    """Convert the weights to fp16 or bf16, rounded to nearest even, with float32 at both ends.

    fp16 converts the operators too (ONNX Runtime's tool); a processor without fp16 kernels computes
    in float32 all the same. bf16 converts the stored weights alone, since ONNX Runtime has bf16
    kernels for few operators: they become float32 when the file is loaded. Either file is half the
    size, and the notes say what ONNX Runtime computes in.
    """

    name = "cast"
    summary = "fp16 weights and operators, or bf16 weights; float32 inputs and outputs"
    Options: ClassVar[type[Options]] = CastOptions
    last = "the other techniques expect float32"
    for_target = True

    def apply(self, source: Path, destination: Path, options: Any, context: Context) -> Outcome:
        """Convert; say what did not fit, and what ONNX Runtime computes in on this host."""
        import onnx

        from edgebench.quantization.on_host import computed_in_float32, operators_run
        from edgebench.quantization.onnx_graph import constants_to_initializers

        if options.dtype not in context.precisions:
            raise BuildError(
                f"the target runs no {options.dtype}", hint="see 'precisions' in its file"
            )
        examples = [one.numpy() for one in context.examples()]
        model = onnx.load(source)
        constants_to_initializers(model.graph)
        if options.dtype == "fp16":
            converted, notes = _to_fp16(model)
        else:
            converted, notes = _to_bf16(model, examples)
        onnx.save(converted, destination)
        operators = operators_run(destination, examples)
        if options.dtype == "bf16":
            # Casts of weights that the optimiser had not folded would cost time.
            before = sum(operator.name == "Cast" for operator in operators_run(source, examples))
            left = sum(operator.name == "Cast" for operator in operators) - before
            when = f", {left} of them at each inference" if left > 0 else " when the file is loaded"
            notes.append(f"ONNX Runtime converts the bf16 weights to float32{when}")
        single, computing = computed_in_float32(operators)
        notes.append(
            f"ONNX Runtime computes {single} of {computing} operators in float32 on this host's "
            "processor"
        )
        return Outcome(notes=notes)


def _to_fp16(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with fp16 weights and operators, and how many weights fp16 cannot hold."""
    import warnings

    import numpy as np
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    if not weights:
        raise BuildError("the model has no float32 weights to cast")
    over = sum(
        int((np.abs(onnx.numpy_helper.to_array(tensor)) > FP16_MAX).sum()) for tensor in weights
    )
    try:
        with warnings.catch_warnings():
            # It warns of every tensor it clips; the note says it once.
            warnings.simplefilter("ignore")
            converted = convert_float_to_float16(model, keep_io_types=True)
        # The converter appends its casts at the end, which is no valid order of a graph.
        OnnxModel(converted).topological_sort()
        onnx.checker.check_model(converted)
    except Exception as error:
        raise BuildError(
            f"the model cannot be cast to fp16: {one_line(str(error), 200)}"
        ) from error
    return converted, [f"{over} weights were beyond ±{FP16_MAX:g} and were clipped"] if over else []


def _to_bf16(
    model: onnx.ModelProto, examples: Sequence[NDArray[Any]]
) -> tuple[onnx.ModelProto, list[str]]:
    """The model, changed in place, with its weights as bf16 behind a Cast to float32."""
    import numpy as np
    import onnx
    import torch
    from onnx import TensorProto, helper

    from edgebench.quantization.onnx_graph import (
        forget_inputs,
        prepend,
        raise_opset,
        unused,
        uses_of,
    )

    raise_opset(model, BF16_OPSET, examples)
    uses, casts = uses_of(model.graph), []
    for tensor in model.graph.initializer:
        name = tensor.name
        readers = [node.op_type if node is not None else None for node, _ in uses[name]]
        if tensor.data_type != TensorProto.FLOAT or not tensor.dims:
            continue
        if not readers or None in readers or not EXACT.isdisjoint(readers):
            continue
        values = np.array(onnx.numpy_helper.to_array(tensor))
        rounded = torch.from_numpy(values).to(torch.bfloat16)
        raw = rounded.view(torch.int16).numpy().tobytes()
        stored = unused(f"{name}_bf16", model)
        tensor.CopyFrom(
            helper.make_tensor(stored, TensorProto.BFLOAT16, tensor.dims, raw, raw=True)
        )
        casts.append(
            helper.make_node("Cast", [stored], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
        )
    if not casts:
        raise BuildError("the model has no float32 weights to cast")
    forget_inputs(model.graph, {cast.output[0] for cast in casts})
    prepend(model.graph, casts)
    onnx.checker.check_model(model)
    return model, []
