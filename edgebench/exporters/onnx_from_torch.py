"""Export a torch module to ONNX, and prove that ONNX Runtime answers as torch does."""

from __future__ import annotations

import logging
import math
import re
import warnings
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError, one_line
from edgebench.exporters.parity import largest_gap
from edgebench.training.loop import predict

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT_NAME = "input"
OUTPUT_NAME = "logits"

# Of the answers' spread: float models differ by rounding alone.
FLOAT_TOLERANCE = 1e-3

# Torch colours some of its messages for a terminal.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def export_onnx(
    module: nn.Module, examples: NDArray[np.float32], destination: Path, *, opset: int
) -> str:
    """Write `module` as an ONNX file with a free batch size; returns what the check saw.

    `examples`: [N, C, H, W], real inputs for tracing and for the comparison with torch.

    Raises
    ------
    BuildError
        The module cannot be exported, another opset came out, or the answers differ.
    """
    import onnx
    import torch

    from edgebench.quantization.fake_quant import (
        activation_quantizers,
        prepare_for_export,
        quantized_layers,
    )
    from edgebench.quantization.int4 import INT4_OPSET

    module = module.eval()
    quantizers = activation_quantizers(module)
    if any(layer.bits == 4 for layer in quantized_layers(module)) and opset < INT4_OPSET:
        raise BuildError(
            f"4-bit weights need opset {INT4_OPSET}, and the target asks for {opset}",
            hint=f"set 'opset: {INT4_OPSET}' in the target, if its runtime reads it",
        )
    traced = deepcopy(module)
    prepare_for_export(traced)
    # Two examples: a batch of one would be taken for a constant.
    example = torch.from_numpy(np.ascontiguousarray(examples[:2]))
    logged = logging.root.manager.disable
    try:
        # The exporter writes its progress to standard output, its plans to the log, and the graphs
        # it gave up on to standard error.
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            torch.onnx.export(
                traced,
                (example,),
                str(destination),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("N")},),
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            # A full disk is no fault of the model.
            raise cause from None
        raise BuildError(
            f"the model cannot be exported to ONNX: {type(cause).__name__}: "
            f"{one_line(COLOUR.sub('', str(cause)).strip().split(chr(10))[0], 240)}"
        ) from error
    finally:
        logging.disable(logged)
    model = onnx.load(destination)
    written = next(o.version for o in model.opset_import if o.domain == "")
    if written != opset:
        raise BuildError(
            f"torch wrote opset {written} where the target asks for {opset}",
            hint=f"set 'opset: {written}' in the target, if its runtime reads it",
        )
    strip_metadata(model)
    _compact(model, module)
    onnx.save(model, destination)
    return check_parity(module, destination, examples, quantized=bool(quantizers))


def _compact(model: onnx.ModelProto, module: nn.Module) -> None:
    """Write what torch's exporter cannot: integer pooling and biases, 4-bit and half weights."""
    from edgebench.quantization import exported_graph as graph
    from edgebench.quantization.fake_quant import activation_quantizers, quantized_layers
    from edgebench.quantization.half_precision import half_format
    from edgebench.quantization.int4 import pack_int4

    quantizers, layers = activation_quantizers(module), quantized_layers(module)
    if quantizers:
        graph.pool_globally(model)
        graph.quantize_after_moves(model)
        graph.keep_in_float(model)
        # TensorRT, for which activations are symmetric, takes float biases alone.
        if not quantizers[0].grid.symmetric:
            graph.quantize_biases(model)
    if any(layer.bits == 4 for layer in layers):
        pack_int4(model)
        left = [t.name for t in model.graph.initializer if _is_byte_weight(t)]
        if left:
            named = one_line(", ".join(left), 80)
            raise BuildError(f"{len(left)} weights could not be stored in 4 bits: {named}")
    if layers and not quantizers:
        graph.fold_weights_at_load(model)
    half = half_format(module)
    if half is not None and not graph.store_in_half(model, half):
        raise BuildError(f"no weight could be stored as {half}")


def _is_byte_weight(tensor: onnx.TensorProto) -> bool:
    import onnx

    # A single number cannot share its byte.
    return tensor.data_type == onnx.TensorProto.INT8 and math.prod(tensor.dims) > 1 < len(
        tensor.dims
    )


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove the stack traces torch writes: up to hundreds of kilobytes, and paths of the host."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]


def check_parity(
    module: nn.Module, path: Path, examples: NDArray[np.float32], *, quantized: bool
) -> str:
    """Compare ONNX Runtime's answers with torch's at batch 1 and at a larger batch.

    Returns a sentence for the record; raises BuildError where the answers differ.
    """
    import torch

    wanted = predict(module, torch.from_numpy(np.ascontiguousarray(examples))).numpy()
    try:
        session = open_session(path)
        name = session.get_inputs()[0].name
        whole = session.run(None, {name: examples})[0]
        single = session.run(None, {name: examples[:1]})[0]
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        raise BuildError(
            f"ONNX Runtime cannot run the exported file: {plain_message(error)}"
        ) from error
    gap = largest_gap(
        wanted,
        whole,
        single,
        quantized=quantized,
        float_tolerance=FLOAT_TOLERANCE,
        names=("ONNX Runtime", "torch"),
    )
    return f"ONNX Runtime within {gap:.2g} of torch on {len(examples)} examples"


def compare_files(before: Path, after: Path, examples: NDArray[np.float32]) -> str:
    """Run a file before and after a technique that works on files, on the same examples.

    Without graph optimisation: what the file says, not what this host's kernels make of it, and an
    optimiser that crashes takes only the agent's process down. Returns a sentence for the record;
    raises BuildError where the file after does not run, or its answers are unusable.
    """
    wanted, got = (_answers(path, examples) for path in (before, after))
    if got.shape != wanted.shape:
        raise BuildError(
            f"the file answers {list(got.shape)} where it answered {list(wanted.shape)}"
        )
    if not np.isfinite(got).all():
        raise BuildError("the file's answers are not finite (NaN or infinity)")
    noise = float(((got - wanted) ** 2).sum())
    if noise == 0:
        return f"answers as before on {len(wanted)} examples"
    ratio = 10 * np.log10(float((wanted**2).sum()) / noise)
    return f"SQNR {ratio:.1f} dB against the file before, on {len(wanted)} examples"


def _answers(path: Path, examples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The answers of a file [N, classes] in batches it takes."""
    try:
        session = open_session(path, optimised=False)
        entry = session.get_inputs()[0]
        fixed = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else 0
        batch = fixed if fixed > 0 else len(examples)
        parts = [
            session.run(None, {entry.name: examples[i : i + batch]})[0]
            for i in range(0, len(examples) - batch + 1, batch)
        ]
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        raise BuildError(f"ONNX Runtime cannot run the file: {plain_message(error)}") from error
    if not parts:
        raise BuildError(f"the model's batch is fixed at {batch}, more than there are examples")
    return np.concatenate(parts).astype(np.float64)


def open_session(path: Path, *, optimised: bool = True):  # type: ignore[no-untyped-def] # onnxruntime has no types
    """An ONNX Runtime session on the host's processor, one thread, quiet."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
