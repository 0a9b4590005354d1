"""Export a torch module to ONNX, and prove that ONNX Runtime answers as torch does."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgebench.agent.runtimes.onnxruntime import plain_message
from edgebench.errors import BuildError, one_line
from edgebench.exporters.failure import BATCH_HINT, BATCH_TAKEN, explained
from edgebench.exporters.onnx_answers import (
    Examples,
    arrays_of,
    file_answers,
    open_session,
    signal_to_noise,
)
from edgebench.exporters.parity import largest_gap_of_all
from edgebench.models.calling import answers

if TYPE_CHECKING:
    import onnx
    from torch import nn

INPUT_NAME = "input"
OUTPUT_NAME = "logits"

# Of the answers' spread: float models differ by rounding alone.
FLOAT_TOLERANCE = 1e-3

# Where torch's exporter says which module an operator comes from, as a list of names.
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
NAME = re.compile(r"'([^']*)'")


def export_onnx(module: nn.Module, examples: Examples, destination: Path, *, opset: int) -> str:
    """Write `module` as an ONNX file with a free batch size; returns what the check saw.

    `examples`: real inputs for tracing and for the comparison with torch: images [N, C, H, W] of a
    classifier, or the arrays of a module's inputs by name, which is what the file calls them. Its
    outputs are called as `named_answers` calls them, a classifier's `logits`.

    Raises
    ------
    BuildError
        The module cannot be exported, another opset came out, the answers differ, or none of the
        layers that should is an integer kernel.
    """
    import torch

    from edgebench.quantization.fake_quant import activation_quantizers

    write_onnx(module, examples, destination, opset=opset)
    quantizers = activation_quantizers(module)
    seen = check_parity(module, destination, examples, quantized=bool(quantizers))
    # What is symmetric is for TensorRT, whose kernels cannot be counted on this host.
    if quantizers and not quantizers[0].grid.symmetric:
        from edgebench.quantization.static_int8 import describe_kernels

        unsigned = quantizers[0].grid.dtype == torch.uint8
        return f"{seen}; {describe_kernels(destination, unsigned=unsigned)}"
    return seen


def write_onnx(module: nn.Module, examples: Examples, destination: Path, *, opset: int) -> None:
    """`export_onnx` without the comparison: of a network that is not trained it would say little.

    Raises BuildError where the module cannot be exported, or another opset came out.
    """
    import onnx
    import torch

    from edgebench.quantization.fake_quant import prepare_for_export, quantized_layers
    from edgebench.quantization.int4 import INT4_OPSET

    module = module.eval()
    if any(layer.bits == 4 for layer in quantized_layers(module)) and opset < INT4_OPSET:
        raise BuildError(
            f"4-bit weights need opset {INT4_OPSET}, and the target asks for {opset}",
            hint=f"set 'opset: {INT4_OPSET}' in the target, if its runtime reads it",
        )
    traced = deepcopy(module)
    prepare_for_export(traced)
    # Two examples: a batch of one would be taken for a constant.
    example = tuple(torch.from_numpy(array[:2]) for array in arrays_of(examples))
    inputs, outputs = [INPUT_NAME], [OUTPUT_NAME]
    if isinstance(examples, Mapping):
        inputs = list(examples)
        # One name stands for one tensor in a graph.
        outputs = [f"{n}-out" if n in inputs else n for n in answers(traced, example)]
    batch = torch.export.Dim("N")
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
                example,
                str(destination),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example),
                external_data=False,
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            # A full disk is no fault of the model.
            raise cause from None
        raise explained(cause, "to ONNX") from error
    finally:
        logging.disable(logged)
    model = onnx.load(destination)
    written = next(o.version for o in model.opset_import if o.domain == "")
    if written != opset:
        raise BuildError(
            f"torch wrote opset {written} where the target asks for {opset}",
            hint=f"set 'opset: {written}' in the target, if its runtime reads it",
        )
    # Torch says nothing where a size that the code fixes is the batch.
    first = [size for entry in model.graph.input for size in entry.type.tensor_type.shape.dim[:1]]
    if any(size.dim_value for size in first):
        raise BuildError(f"the model cannot be exported to ONNX: {BATCH_TAKEN}", hint=BATCH_HINT)
    _name_weights(model, traced)
    strip_metadata(model)
    _compact(model, module)
    onnx.save(model, destination)


def _name_weights(model: onnx.ModelProto, module: nn.Module) -> None:
    """Call the weight of a dense layer MODULE.weight where torch transposed and renamed it.

    It does so for inputs of more than two axes. Names are what `exclude` finds layers by.
    """
    from edgebench.quantization.onnx_graph import unused, uses_of

    modules, parameters = dict(module.named_modules()), dict(module.named_parameters())
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    declared = {value.name: value for value in model.graph.value_info}
    uses = uses_of(model.graph)
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or node.input[1] not in tensors:
            continue
        old = node.input[1]
        # From the whole module to the layer, and the operation in it.
        scopes = [NAME.findall(p.value) for p in node.metadata_props if p.key == NAME_SCOPES]
        layer = scopes[0][-2] if scopes and len(scopes[0]) > 1 else ""
        name = f"{layer}.weight"
        inner = any(user is None for user, _ in uses[old])
        if not layer or layer not in modules or old in parameters or inner:
            continue
        if unused(name, model) != name:
            continue
        tensors[old].name = name
        tensors[name] = tensors.pop(old)
        if old in declared:
            declared[old].name = name
        for user, place in uses[old]:
            assert user is not None  # noqa: S101 - `inner` said so
            user.input[place] = name


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


def check_parity(module: nn.Module, path: Path, examples: Examples, *, quantized: bool) -> str:
    """Compare all of ONNX Runtime's answers with torch's at batch 1 and at a larger batch.

    Returns a sentence for the record; raises BuildError where the answers differ.
    """
    import torch

    arrays = arrays_of(examples)
    wanted = answers(module, [torch.from_numpy(array) for array in arrays])
    try:
        session = open_session(path)
        names = [entry.name for entry in session.get_inputs()]
        whole, single = (
            session.run(None, {n: a[:count] for n, a in zip(names, arrays, strict=True)})
            for count in (len(arrays[0]), 1)
        )
    except Exception as error:
        # ONNX Runtime's exceptions have no common class of their own.
        raise BuildError(
            f"ONNX Runtime cannot run the exported file: {plain_message(error)}"
        ) from error
    if len(whole) != len(wanted):
        raise BuildError(f"the file has {len(whole)} outputs, and torch gives {len(wanted)}")
    gap = largest_gap_of_all(
        {name: tensor.numpy() for name, tensor in wanted.items()},
        whole,
        single,
        quantized=quantized,
        float_tolerance=FLOAT_TOLERANCE,
        names=("ONNX Runtime", "torch"),
    )
    return f"ONNX Runtime within {gap:.2g} of torch on {len(arrays[0])} examples"


def compare_files(before: Path, after: Path, examples: Examples) -> str:
    """Run a file before and after a technique that works on files, on the same examples.

    Returns a sentence for the record; raises BuildError where the file after does not run, or its
    answers are unusable.
    """
    wanted, got = (file_answers(path, examples) for path in (before, after))
    count = len(next(iter(wanted.values())))
    ratio = signal_to_noise(wanted, got)
    if ratio is None:
        return f"answers as before on {count} examples"
    return f"{ratio} against the file before, on {count} examples"
