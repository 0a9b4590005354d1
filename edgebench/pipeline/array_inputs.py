"""Which array goes to which input of a model: by its name, or by its place in the file."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from edgebench.data.arrays import Arrays, matched
from edgebench.data.npz import LABELS
from edgebench.errors import DataError
from edgebench.hashing import named_seed
from edgebench.pipeline.comparison_inputs import Signature, read_signature
from edgebench.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from edgebench.models.source import ModelSource


def arranged(data: Arrays, source: ModelSource, recipe: Recipe) -> tuple[Arrays, str]:
    """The examples in the order and of the types that the model takes them, and how, in words.

    An ONNX file takes them by name (one input: whatever the array is called). A module takes them
    by name where `forward` has arguments of these names, else by their place in the file. Floats
    take the type of the model's.

    Raises
    ------
    DataError, ModelError
        The arrays are not the model's inputs.
    """
    if source.onnx_file is not None:
        signature, _ = read_signature(source.onnx_file)
        return _for_file(data, signature, recipe.data)
    from edgebench.training.loop import deterministic

    with deterministic(named_seed(recipe.seed, "base", "init")):
        module = source.build_for(_without_labels(data, ()).shapes)
    return _for_module(data, module, recipe.data)


def check_arrays(signature: Signature, data: Arrays) -> None:
    """Raise DataError unless the arrays, arranged for base, are what this file takes too."""
    if len(signature.inputs) != len(data.names):
        raise DataError(
            f"takes {len(signature.inputs)} inputs, and base takes {len(data.names)}",
            where=signature.where,
        )
    if len(data.names) > 1 and (names := tuple(t.name for t in signature.inputs)) != data.names:
        raise DataError(
            f"its inputs are {', '.join(names)}, and base's are {', '.join(data.names)}",
            where=signature.where,
            hint="export it with the same inputs in the same order",
        )
    for tensor, array in zip(signature.inputs, data.test_inputs, strict=True):
        wanted = tensor.shape or ()
        if array.ndim != len(wanted) or any(
            isinstance(size, int) and size != given
            for size, given in zip(wanted[1:], array.shape[1:], strict=True)
        ):
            raise DataError(
                f"the model takes '{tensor.name}' as [{', '.join(map(str, wanted))}], the data has "
                f"{['N', *array.shape[1:]]}".replace("'N'", "N"),
                where=signature.where,
            )
        if not np.can_cast(array.dtype, tensor.dtype, "same_kind"):
            raise DataError(
                f"the model takes '{tensor.name}' as {tensor.dtype}, the data has {array.dtype}",
                where=signature.where,
            )


def _for_file(data: Arrays, signature: Signature, spec: str) -> tuple[Arrays, str]:
    wanted = [tensor.name for tensor in signature.inputs]
    data = _without_labels(data, wanted)
    order = wanted
    if len(wanted) == len(data.names) == 1:
        order = list(data.names)
    else:
        matched(data.names, wanted, where=spec)
    data = data.arranged(order, _types(data))
    check_arrays(signature, data)
    types = [tensor.dtype for tensor in signature.inputs]
    cast = data.arranged(order, dict(zip(order, types, strict=True)))
    return cast, f"by name: {', '.join(wanted)}"


def _for_module(data: Arrays, module: nn.Module, spec: str) -> tuple[Arrays, str]:
    from edgebench.models.calling import argument_order, float_type

    data = _without_labels(data, inspect.signature(module.forward).parameters)
    order = argument_order(module, data.names, where=spec)
    floats = float_type(module)
    types = {n: floats if t.startswith("float") else t for n, t in _types(data).items()}
    listed = ", ".join(order or data.names)
    words = f"by name: {listed}" if order else f"by their place in the file: {listed}"
    return data.arranged(order or data.names, types), words


def _types(data: Arrays) -> dict[str, str]:
    return {n: str(a.dtype) for n, a in zip(data.names, data.train_inputs, strict=True)}


def _without_labels(data: Arrays, wanted: Collection[str]) -> Arrays:
    """The examples without an array of labels that is no input."""
    kept = [name for name in data.names if name != LABELS or name in wanted]
    return data.arranged(kept, _types(data))
