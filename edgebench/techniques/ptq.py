"""Post-training quantization: int8, static, calibrated on training data (ONNX Runtime)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError
from edgebench.techniques.base import TECHNIQUES, Context, OnnxTechnique, Options, Outcome


class PtqOptions(Options):
    """Options of `ptq`."""

    bits: Literal[8] = Field(8, description="bits of weights and activations")
    calibration: Literal["minmax", "percentile"] = Field(
        "minmax", description="how activation ranges are found"
    )
    percentile: float = Field(99.999, gt=90, le=100, description="for calibration: percentile")
    examples: int = Field(256, ge=1, le=100000, description="training examples to calibrate on")
    per_channel: bool = Field(True, description="one weight scale a channel, else one a tensor")


@TECHNIQUES.register("ptq")
class Ptq(OnnxTechnique):
    """Quantize weights and activations to int8 with ONNX Runtime's static quantizer.

    The format follows the target: x86 without VNNI gets seven-bit weights, since its kernels
    saturate; TensorRT gets symmetric ranges and a float bias, since its parser takes nothing else.
    """

    name = "ptq"
    summary = "static int8, calibrated on training data, in the target's format"
    Options: ClassVar[type[Options]] = PtqOptions
    last = "its ranges hold only for the weights it saw"
    for_target = True

    def apply(self, source: Path, destination: Path, options: Any, context: Context) -> Outcome:
        """Prepare, calibrate and quantize; check that something was quantized."""
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        if "int8" not in context.precisions:
            raise BuildError("the target runs no int8", hint="see 'precisions' in its file")
        symmetric = context.int8 == "s8s8-symmetric"
        methods = {
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
        }
        extra: dict[str, Any] = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
        if symmetric:
            extra["QuantizeBias"] = False
        if options.calibration == "percentile":
            extra["CalibPercentile"] = options.percentile
        unsigned = context.int8.startswith("u8")
        chosen = calibration_examples(context, options.examples)
        try:
            with tempfile.TemporaryDirectory(prefix="edgebench-ptq-") as folder, _quiet():
                prepared = Path(folder) / "prepared.onnx"
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                quantize_static(
                    str(prepared),
                    str(destination),
                    _reader(prepared, chosen),
                    quant_format=QuantFormat.QDQ,
                    per_channel=options.per_channel,
                    reduce_range=context.int8 == "u8s8-reduced",
                    activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=methods[options.calibration],
                    extra_options=extra,
                )
            model = onnx.load(destination)
        except OSError:
            # A full disk is no fault of the model.
            raise
        except Exception as error:
            raise BuildError(
                f"ONNX Runtime cannot quantize this model: {plain_message(error)}"
            ) from error
        count = sum(node.op_type == "DequantizeLinear" for node in model.graph.node)
        if not count:
            raise BuildError("ONNX Runtime found no operator to quantize in this model")
        return Outcome(notes=[f"int8 format {context.int8}, {len(chosen)} calibration examples"])


def calibration_examples(context: Context, count: int) -> NDArray[np.float32]:
    """`count` training examples drawn by the seed, as many of each class as there are."""
    rng = np.random.default_rng(context.seed_for("ptq/calibration"))
    order = rng.permutation(len(context.train_y))
    # Sorting by how many of its class came before takes the classes in turn.
    labels = context.train_y[order]
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        turn[mine] = np.arange(len(mine))
    chosen = order[np.argsort(turn, kind="stable")][:count]
    return np.ascontiguousarray(context.train_x[np.sort(chosen)])


def _reader(model: Path, examples: NDArray[np.float32]) -> Any:
    """A calibration reader in batches the model takes."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    graph = onnx.load(model, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    entry = next(value for value in graph.input if value.name not in weights)
    # One example at a time also serves a model whose batch is fixed at one.
    batch = max(1, entry.type.tensor_type.shape.dim[0].dim_value)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds the examples once."""

        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, Any]] = (
                {entry.name: examples[i : i + batch]}
                for i in range(0, len(examples) - batch + 1, batch)
            )

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, or None at the end."""
            return next(self.feeds, None)

    return Reader()


class _quiet:  # noqa: N801 - a context manager used like a function
    """Keeps the quantizer's advice, and the tracebacks it logs, off the user's screen."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)
