"""Post-training quantization of ONNX files: static int8, dynamic int8, or the weights alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError, EdgebenchError
from edgebench.techniques.base import TECHNIQUES, Context, OnnxTechnique, Options, Outcome

if TYPE_CHECKING:
    from edgebench.quantization.mixed_precision import Judge
    from edgebench.quantization.prepare import Prepared
    from edgebench.quantization.running import Feed

# Options that only one mode knows.
STATIC = ("calibration", "percentile", "bias_correction", "keep_float")
WEIGHT_ONLY = ("group_size", "kernel")
SMALLEST_GROUP = 16


class KeepFloat(Options):
    """Which limit decides how many operators stay in float."""

    metric: Literal["accuracy", "functional_preservation", "sqnr"] = Field(
        "accuracy", description="what is limited, on validation examples"
    )
    limit: float = Field(
        description="largest accuracy loss (percentage points), least functional preservation, "
        "or least SQNR (dB)"
    )
    most: int | None = Field(
        None, ge=1, description="most operators left in float; unset: all but one"
    )

    @model_validator(mode="after")
    def _possible(self) -> KeepFloat:
        if self.metric == "accuracy" and not 0 <= self.limit <= 100:
            raise ValueError("an accuracy loss is a limit from 0 to 100 percentage points")
        if self.metric == "functional_preservation" and not self.limit < 1:
            raise ValueError("a functional preservation of 1 is the float file itself: take less")
        if self.metric == "sqnr" and not 0 < self.limit < np.inf:
            raise ValueError("an SQNR is a limit above 0 dB")
        return self


class PtqOptions(Options):
    """Options of `ptq`."""

    mode: Literal["static", "dynamic", "weight-only"] = Field(
        "static", description="int8 calibrated, int8 with ranges found at run time, or weights only"
    )
    bits: Literal[8, 4] = Field(8, description="bits of the weights; 4 for mode: weight-only")
    calibration: Literal["minmax", "percentile", "mse"] = Field(
        "minmax",
        description="static: ranges from extremes, a percentile, or the least squared error "
        "(of activations and of weights)",
    )
    percentile: float = Field(
        99.999, gt=90, le=100, description="for calibration: percentile; % of values in the range"
    )
    examples: int = Field(256, ge=1, le=100000, description="training examples to calibrate on")
    per_channel: bool = Field(True, description="one weight scale a channel, else one a tensor")
    group_size: int | None = Field(
        None, description="weight-only: weights that share a scale, a power of two from 16"
    )
    kernel: Literal["dequantize", "matmul-nbits"] = Field(
        "dequantize",
        description="weight-only: DequantizeLinear, or ONNX Runtime's MatMulNBits (dense layers)",
    )
    bias_correction: bool = Field(
        False, description="static: take the mean error of each layer's output from its bias"
    )
    equalize: bool = Field(
        False, description="even out channel ranges between consecutive layers first"
    )
    exclude: list[str] = Field(
        [], description="layers left in float: the module's name or the ONNX operator's"
    )
    keep_float: KeepFloat | None = Field(
        None, description="static: leave the most damaged operators in float until a limit holds"
    )

    @model_validator(mode="after")
    def _make_sense(self) -> PtqOptions:
        fields = type(self).model_fields
        set_ = {name for name in fields if getattr(self, name) != fields[name].default}
        for names, mode in ((STATIC, "static"), (WEIGHT_ONLY, "weight-only")):
            foreign = next((name for name in names if name in set_), None)
            if foreign is not None and self.mode != mode:
                raise ValueError(f"'{foreign}' is for mode: {mode}, not {self.mode}")
        if self.bits == 4 and self.mode != "weight-only":
            raise ValueError("bits: 4 needs mode: weight-only; no runtime computes in 4 bits")
        if "percentile" in set_ and self.calibration != "percentile":
            raise ValueError(f"'percentile' is for calibration: percentile, not {self.calibration}")
        if "examples" in set_ and self.mode != "static" and not self.equalize:
            raise ValueError(f"mode: {self.mode} uses no calibration examples")
        if self.group_size is not None:
            size = self.group_size
            if size < SMALLEST_GROUP or size & (size - 1):
                raise ValueError(
                    f"'group_size' is {size}, not a power of two from {SMALLEST_GROUP} on"
                )
            if not self.per_channel:
                raise ValueError("groups lie within a channel: leave 'per_channel' on")
        if self.kernel == "matmul-nbits" and not self.per_channel:
            raise ValueError("matmul-nbits has scales within channels: leave 'per_channel' on")
        return self


@TECHNIQUES.register("ptq")
class Ptq(OnnxTechnique):
    """Quantize a trained file with ONNX Runtime's quantizers, without training.

    Static int8 follows the target's format: x86 without VNNI gets seven-bit weights, since its
    kernels saturate; TensorRT gets symmetric ranges and float biases, since its parser takes
    nothing else.
    """

    name = "ptq"
    summary = "static int8 in the target's format, dynamic int8, or int8 or int4 weights"
    Options: ClassVar[type[Options]] = PtqOptions
    last = "its ranges hold only for the weights it saw"
    for_target = True

    def apply(self, source: Path, destination: Path, options: Any, context: Context) -> Outcome:
        """Quantize in the mode asked for; what was achieved is counted, not assumed."""
        from edgebench.quantization.on_host import quiet_logging

        if options.mode != "weight-only" and "int8" not in context.precisions:
            raise BuildError("the target runs no int8", hint="see 'precisions' in its file")
        try:
            with tempfile.TemporaryDirectory(prefix="edgebench-ptq-") as name, quiet_logging():
                make = _static if options.mode == "static" else _without_calibration
                return make(source, destination, options, context, Path(name))
        except (EdgebenchError, OSError):
            # A full disk is no fault of the model.
            raise
        except Exception as error:
            raise BuildError(
                f"ONNX Runtime cannot quantize this model: {plain_message(error)}"
            ) from error


def calibration_examples(context: Context, count: int) -> NDArray[np.float32]:
    """`count` training examples drawn by the seed, as many of each class as there are."""
    return np.ascontiguousarray(context.train_x[_calibration_rows(context, count)])


def calibration_inputs(context: Context, count: int) -> list[NDArray[Any]]:
    """The same examples, one array [count, …] for each input of the model."""
    rows = _calibration_rows(context, count)
    return [np.ascontiguousarray(one.numpy()[rows]) for one in context.inputs()]


def first_examples(context: Context) -> list[NDArray[Any]]:
    """A few training examples, one array [N, ...] for each input of the model, to run a file on."""
    return [one.numpy() for one in context.examples()]


def _calibration_rows(context: Context, count: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(context.seed_for("ptq/calibration"))
    order = rng.permutation(len(context.train_x))
    if not context.labelled:
        return np.sort(order[:count])
    # Sorting by how many of its class came before takes the classes in turn.
    labels = context.train_y[order]
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn, kind="stable")][:count])


def _static(
    source: Path, destination: Path, options: PtqOptions, context: Context, folder: Path
) -> Outcome:
    """Static int8: prepare, equalize, calibrate, choose what stays float, quantize, correct."""
    from edgebench.quantization.bias_correction import Correction, correct_biases
    from edgebench.quantization.calibration import Calibration
    from edgebench.quantization.mixed_precision import keep_in_float
    from edgebench.quantization.prepare import prepare
    from edgebench.quantization.static_int8 import FORMATS, calibrated, describe_achieved

    prepared = prepare(source, folder / "prepared.onnx", first_examples(context))
    leave: Sequence[str] = prepared.nodes(options.exclude)
    feed = _calibration_feed(prepared, options, context)
    notes = [f"int8 format {context.int8}, {len(feed)} calibration examples"]
    judged = None if options.keep_float is None else _judge(prepared, source, options, context)
    if options.equalize:
        from edgebench.quantization.equalization import equalize

        notes += equalize(prepared, feed)
    int8 = FORMATS[context.int8]
    quantizer = calibrated(
        prepared,
        feed,
        Calibration(options.calibration, options.percentile),
        int8,
        per_channel=options.per_channel,
        folder=folder,
    )
    correction: list[Correction] = []

    def build(left: Sequence[str]) -> Path:
        quantizer.quantize(destination, leave=left)
        return destination

    def correct(path: Path) -> None:
        correction[:] = [correct_biases(prepared, path, feed, int8)]

    figures = []
    finish = correct if options.bias_correction else None
    if options.keep_float is None or judged is None:
        build(leave)
        if finish is not None:
            finish(destination)
    else:
        kept = keep_in_float(
            prepared,
            quantizer,
            build,
            judged[0],
            judged[1],
            leave=leave,
            most=options.keep_float.most,
            folder=folder,
            finish=finish,
        )
        notes += [*kept.notes, f"decided on {context.decided_on()}"]
        figures = kept.figures
    notes.append(describe_achieved(destination, prepared, int8))
    notes += [one.sentence() for one in correction]
    return Outcome(notes=notes, figures=figures)


def _without_calibration(
    source: Path, destination: Path, options: PtqOptions, context: Context, folder: Path
) -> Outcome:
    """Dynamic int8, or integer weights alone."""
    from edgebench.quantization.prepare import named_copy, prepare

    notes: list[str] = []
    examples = first_examples(context)
    if options.equalize:
        from edgebench.quantization.equalization import equalize

        prepared = prepare(source, folder / "prepared.onnx", examples)
        notes = equalize(prepared, _calibration_feed(prepared, options, context))
    else:
        prepared = named_copy(source, folder / "named.onnx")
    exclude = prepared.nodes(options.exclude)
    if options.mode == "dynamic":
        from edgebench.quantization.dynamic import quantize_dynamically

        notes += quantize_dynamically(
            prepared.path,
            destination,
            per_channel=options.per_channel,
            reduce_range=context.int8 == "u8s8-reduced",
            exclude=exclude,
            examples=examples,
        )
    else:
        from edgebench.quantization.weight_only import quantize_weights

        notes += quantize_weights(
            prepared.path,
            destination,
            bits=options.bits,
            per_channel=options.per_channel,
            group_size=options.group_size,
            kernel=options.kernel,
            exclude=exclude,
            opset=context.opset,
            examples=examples,
        )
    return Outcome(notes=[*notes, prepared.describe(destination)])


def _calibration_feed(prepared: Prepared, options: PtqOptions, context: Context) -> Feed:
    from edgebench.quantization.running import feed_for

    chosen = calibration_inputs(context, options.examples)
    return feed_for(prepared.path, chosen, what="calibration examples")


def _judge(
    prepared: Prepared, source: Path, options: PtqOptions, context: Context
) -> tuple[Judge, Feed]:
    """What `keep_float` decides by, and the validation examples it decides on."""
    from edgebench.metrics.base import Outputs
    from edgebench.quantization.mixed_precision import Judge, outputs_of_all
    from edgebench.quantization.running import answers, feed_for

    assert options.keep_float is not None  # noqa: S101 - the caller asked
    metric = options.keep_float.metric
    stranger = None
    if metric == "functional_preservation":
        if context.stranger_distance is None:
            raise BuildError(
                "keep_float by functional_preservation needs controls, whose distance is its scale",
                hint="controls: {independent: 2}, or limit accuracy or sqnr",
            )
        stranger = context.stranger_distance()
    if metric == "sqnr" and not context.labelled:
        given = [one.numpy() for one in context.validation_examples()]
        feed = feed_for(prepared.path, given, what="validation examples")
        file = base = outputs_of_all(source, feed)
        return Judge(metric, options.keep_float.limit, file, base), feed
    x, y = context.validation()
    feed = feed_for(prepared.path, x.numpy(), what="validation examples")
    labels = y.numpy()[: len(feed)]
    file = Outputs(answers(source, feed), labels, context.probabilities)
    base = file
    if context.base is not None:
        from edgebench.training.loop import predict

        answered = predict(context.base, x[: len(feed)]).numpy()
        base = Outputs(answered, labels, context.probabilities)
    return Judge(metric, options.keep_float.limit, file, base, stranger), feed
