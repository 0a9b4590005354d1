"""Export a torch module as a program of torch.export, for the torch runtime."""

from __future__ import annotations

import io
import json
import logging
import math
import tempfile
import warnings
from contextlib import redirect_stderr
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes.pt2_archive import WEIGHTS, clean_archive, read_parts
from edgebench.agent.runtimes.torch import Torch
from edgebench.errors import BuildError
from edgebench.exporters.failure import explained
from edgebench.exporters.onnx_answers import Examples, arrays_of
from edgebench.exporters.parity import largest_gap_of_all
from edgebench.models.calling import answers

if TYPE_CHECKING:
    from torch import nn

# Of the answers' spread: it is torch on both sides.
FLOAT_TOLERANCE = 1e-4

# torch._export.serde.schema.ScalarType: the numbers a weight can be made of.
# numpy has no bfloat16; which of its bits are zero can be told from integers as well.
_SCALARS = {1: "uint8", 2: "int8", 6: "float16", 7: "float32", 8: "float64", 13: "uint16"}


def export_pt2(module: nn.Module, examples: Examples, destination: Path) -> str:
    """Write `module` as a .pt2 file with a free batch size; returns what the check saw.

    `examples`: real inputs for tracing and for the comparison, [N, C, H, W] or one array for each
    input by name. The file holds neither them nor stack traces, which carry paths of the host.

    Raises
    ------
    BuildError
        The module cannot be exported, or the file answers otherwise than the module.
    """
    from edgebench.quantization.fake_quant import is_quantized, quantized_layers

    write_pt2(module, examples, destination)
    seen = _check_parity(module, destination, examples, quantized=is_quantized(module))
    if any(layer.bits == 4 for layer in quantized_layers(module)):
        return f"{seen}; 4-bit weights take a byte each"
    return seen


def write_pt2(module: nn.Module, examples: Examples, destination: Path) -> None:
    """`export_pt2` without the comparison: of a network that is not trained it would say little.

    Raises BuildError where the module cannot be exported.
    """
    import torch

    from edgebench.quantization.fake_quant import is_quantized, prepare_for_export

    module = module.eval()
    traced = deepcopy(module)
    prepare_for_export(traced)
    if is_quantized(module):
        _drop_float_weights(traced)
    # Two examples: a batch of one would be taken for a constant.
    example = tuple(torch.from_numpy(array[:2]) for array in arrays_of(examples))
    batch = torch.export.Dim("N")
    logged = logging.root.manager.disable
    buffer = io.BytesIO()
    try:
        # The exporter writes the graphs it gave up on to standard error.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
            program = torch.export.export(
                traced, example, dynamic_shapes=tuple({0: batch} for _ in example)
            )
            torch.export.save(program, buffer)
    except Exception as error:
        raise explained(error, "with torch.export") from error
    finally:
        logging.disable(logged)
    with tempfile.TemporaryDirectory(prefix="edgebench-pt2-") as folder:
        raw = Path(folder) / "program.pt2"
        raw.write_bytes(buffer.getvalue())
        try:
            cleaned = clean_archive(raw)
        except ModelFailedError as error:
            raise BuildError(f"the model's program has no plain form: {error}") from error
    destination.write_bytes(cleaned)


def _drop_float_weights(module: nn.Module) -> None:
    """Leave out the floats that integers replace; a program keeps them, used or not."""
    for part in module.modules():
        if "weight_int8" in dict(part.named_buffers(recurse=False)):
            part.register_parameter("weight", None)


def _check_parity(module: nn.Module, path: Path, examples: Examples, *, quantized: bool) -> str:
    import torch

    arrays = arrays_of(examples)
    wanted = answers(module, [torch.from_numpy(array) for array in arrays])
    threads = torch.get_num_threads()
    try:
        loaded = Torch().load(path, ["cpu"], threads, {})
        whole, single = (
            loaded.infer(tuple(array[:count] for array in arrays)) for count in (len(arrays[0]), 1)
        )
    except ModelFailedError as error:
        raise BuildError(f"the exported program does not run: {error}") from error
    gap = largest_gap_of_all(
        {name: tensor.numpy() for name, tensor in wanted.items()},
        whole,
        single,
        quantized=quantized,
        float_tolerance=FLOAT_TOLERANCE,
        names=("the program", "the module"),
    )
    return f"exported program within {gap:.2g} of the module on {len(arrays[0])} examples"


def count_pt2_parameters(path: Path) -> tuple[int, int]:
    """How many numbers the weights of a .pt2 file hold, and how many of them are zero.

    Weights are the parameters, and int8 buffers, which quantized layers keep theirs in; statistics
    of batch normalisation and scales are none. Raises BuildError.
    """
    try:
        parts = read_parts(path)
        entries = json.loads(parts[WEIGHTS])["config"].values()
        # Two names may share one tensor.
        files = {e["path_name"]: e for e in entries if _is_weight(e)}
        total = zeros = 0
        for name, entry in files.items():
            values = np.frombuffer(parts[f"data/weights/{name}"], dtype=_dtype(entry))
            count = math.prod(size["as_int"] for size in entry["tensor_meta"]["sizes"])
            total += count
            zeros += int(count - np.count_nonzero(values[:count]))
    except (ModelFailedError, KeyError, ValueError, TypeError) as error:
        raise BuildError(f"the weights of {path.name} cannot be counted: {error}") from error
    return total, zeros


def _is_weight(entry: dict[str, Any]) -> bool:
    dtype = _dtype(entry)
    return entry["is_param"] or (dtype == "int8" and bool(entry["tensor_meta"]["sizes"]))


def _dtype(entry: dict[str, Any]) -> str:
    # The rest (integers that count batches, say) is never a weight.
    return _SCALARS.get(entry["tensor_meta"]["dtype"], "uint8")
