"""Store the weights in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from edgebench.errors import BuildError, one_line
from edgebench.techniques.base import TECHNIQUES, Context, OnnxTechnique, Options, Outcome

# The largest finite number of half precision.
FP16_MAX = 65504.0


class CastOptions(Options):
    """Options of `cast`."""

    dtype: Literal["fp16"] = Field("fp16", description="the type of the weights")


@TECHNIQUES.register("cast")
class Cast(OnnxTechnique):
    """Convert weights and operators to fp16, with float32 inputs and outputs (ONNX Runtime's tool).

    A processor without fp16 kernels computes in float32 all the same: the file is half the size,
    and not faster.
    """

    name = "cast"
    summary = "fp16 weights and operators, float32 inputs and outputs"
    Options: ClassVar[type[Options]] = CastOptions
    last = "the other techniques expect float32"
    for_target = True

    def apply(self, source: Path, destination: Path, options: Any, context: Context) -> Outcome:
        """Convert, and say how many weights fp16 cannot hold."""
        import warnings

        import numpy as np
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        if options.dtype not in context.precisions:
            raise BuildError(
                f"the target runs no {options.dtype}", hint="see 'precisions' in its file"
            )
        model = onnx.load(source)
        over = sum(
            int((np.abs(onnx.numpy_helper.to_array(tensor)) > FP16_MAX).sum())
            for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.FLOAT
        )
        try:
            with warnings.catch_warnings():
                # It warns of every tensor it clips; the note below says it once.
                warnings.simplefilter("ignore")
                converted = convert_float_to_float16(model, keep_io_types=True)
            # The converter appends its casts at the end, which is no valid order of a graph.
            OnnxModel(converted).topological_sort()
            onnx.checker.check_model(converted)
        except Exception as error:
            raise BuildError(
                f"the model cannot be cast to {options.dtype}: {one_line(str(error), 200)}"
            ) from error
        onnx.save(converted, destination)
        notes = [f"{over} weights were beyond ±{FP16_MAX:g} and were clipped"] if over else []
        return Outcome(notes=notes)
