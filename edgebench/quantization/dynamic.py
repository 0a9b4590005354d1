"""Dynamic int8: integer weights, and activations whose range is found at each inference."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError
from edgebench.quantization.on_host import Examples, operators_run, quiet_logging
from edgebench.quantization.onnx_graph import check_node_names, counted


def quantize_dynamically(
    source: Path,
    destination: Path,
    *,
    per_channel: bool,
    reduce_range: bool,
    exclude: Sequence[str],
    examples: Examples = None,
) -> list[str]:
    """Quantize a file with ONNX Runtime's dynamic quantizer; returns notes for the report.

    Weights become signed int8, seven bits of it with `reduce_range`; with `per_channel` those of
    dense layers have one scale an output channel. `exclude` names nodes that stay as they are;
    `examples` are real inputs to run the result on.

    Raises
    ------
    BuildError
        A node named is not there, nothing was quantized, or ONNX Runtime cannot run the result.
    """
    check_node_names(onnx.load(source, load_external_data=False), exclude)
    try:
        with tempfile.TemporaryDirectory(prefix="edgebench-dynamic-") as folder, quiet_logging():
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(
                str(source),
                str(prepared),
                skip_symbolic_shape=True,
                # Fused nodes have other names, and one to leave out would be quantized.
                skip_optimization=bool(exclude),
            )
            _forget_weight_shapes(prepared)
            quantize_dynamic(
                str(prepared),
                str(destination),
                per_channel=per_channel,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(exclude),
            )
        written = onnx.load(destination)
    except OSError:
        # A full disk is no fault of the model.
        raise
    except Exception as error:
        raise BuildError(
            f"ONNX Runtime cannot quantize this model dynamically: {plain_message(error)}"
        ) from error
    counts = Counter(node.op_type for node in written.graph.node)
    dense, convolutions = counts["MatMulInteger"], counts["ConvInteger"]
    if not dense and not convolutions:
        raise BuildError("ONNX Runtime found no operator to quantize dynamically in this model")
    operators_run(destination, examples)
    notes = [
        f"{counted(dense, 'MatMulInteger')} and {counted(convolutions, 'ConvInteger')}, the ranges "
        "of activations found at each inference by "
        f"{counted(counts['DynamicQuantizeLinear'], 'DynamicQuantizeLinear')}"
    ]
    if per_channel and convolutions:
        notes.append(
            "ConvInteger has one weight scale a tensor: one scale a channel holds for dense layers"
        )
    return notes


def _forget_weight_shapes(path: Path) -> None:
    """Remove the declared shapes of weights: the quantizer transposes some, then trips over them.

    torch's exporter declares them; without the shapes, shape inference takes the tensors' own.
    """
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    onnx.save(model, path)
