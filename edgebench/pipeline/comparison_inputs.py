"""What two ONNX models take and give, whether that is alike, and inputs for both."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebench.data import load as load_data
from edgebench.errors import DataError, ModelError, NotComparableError, UsageError, nearest
from edgebench.exporters.onnx_file import read_onnx
from edgebench.recipe import DataLimits

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

# What an input may be made of (docs/bundle.md).
DTYPES = (
    *("float16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
EXAMPLES = 64
LARGEST_INPUTS = 256 << 20


@dataclass(frozen=True)
class Tensor:
    """An input or output; `shape` is None where its rank is free.

    A size is a number where it is fixed, else its name ("INPUT.AXIS" where it has none).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives; `below`: the numbers of rows an integer input points into."""

    where: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    below: dict[str, int]

    @property
    def fixed_batch(self) -> int | None:
        """The batch the model fixes, if it does."""
        sizes = [t.shape[0] for t in self.inputs if t.shape]
        return next((size for size in sizes if isinstance(size, int)), None)


@dataclass(frozen=True)
class Inputs:
    """One array [N, ...] for each input, in order; `words` say what they are."""

    names: tuple[str, ...]
    arrays: tuple[Array, ...]
    words: str
    random: bool


def read_signature(path: Path) -> tuple[Signature, onnx.ModelProto]:
    """What the model in a file takes and gives, and the model; raises ModelError in one line."""
    model = read_onnx(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(
        _tensor(value, str(path), "input")
        for value in model.graph.input
        if value.name not in weights
    )
    if not inputs:
        raise ModelError("the model takes no inputs", where=str(path))
    for one in inputs:
        if one.shape is None or not one.shape:
            raise ModelError(
                f"its input '{one.name}' has no dimension that counts the examples",
                where=str(path),
                hint="export it with a batch dimension in front of every input",
            )
        if one.dtype not in DTYPES:
            raise ModelError(
                f"its input '{one.name}' is {one.dtype}; edgebench knows {', '.join(DTYPES)}",
                where=str(path),
            )
    sizes = sorted({t.shape[0] for t in inputs if t.shape and isinstance(t.shape[0], int)})
    if len(sizes) > 1:
        raise ModelError(
            f"its inputs fix different batches: {sizes}",
            where=str(path),
            hint="the first dimension of every input has to count the examples",
        )
    outputs = tuple(_tensor(value, str(path), "output") for value in model.graph.output)
    return Signature(str(path), inputs, outputs, _rows_pointed_into(model)), model


def check_alike(a: Signature, b: Signature) -> None:
    """Raise NotComparableError unless one set of inputs can be fed to both."""

    def refuse(what: str) -> NotComparableError:
        return NotComparableError(
            what, where=f"{a.where} and {b.where}", hint="only models of the same inputs compare"
        )

    if len(a.inputs) != len(b.inputs):
        raise refuse(f"one takes {len(a.inputs)} inputs, the other {len(b.inputs)}")
    names = [[t.name for t in side.inputs] for side in (a, b)]
    if len(a.inputs) > 1 and names[0] != names[1]:
        order = " in another order" if sorted(names[0]) == sorted(names[1]) else ""
        raise refuse(
            f"their inputs are called {', '.join(names[0])} and {', '.join(names[1])}{order}"
        )
    for one, other in zip(a.inputs, b.inputs, strict=True):
        if np.dtype(one.dtype).kind != np.dtype(other.dtype).kind:
            raise refuse(f"the input '{one.name}' is {one.dtype} and {other.dtype}")
        first, second = one.shape or (), other.shape or ()
        if len(first) != len(second) or any(
            isinstance(x, int) and isinstance(y, int) and x != y
            for x, y in zip(first[1:], second[1:], strict=True)
        ):
            raise refuse(f"the input '{one.name}' is {_shown(first)} and {_shown(second)}")


def common_batch(a: Signature, b: Signature, asked: int | None) -> int:
    """The batch both are timed at; raises NotComparableError or UsageError."""
    fixed = {s.fixed_batch for s in (a, b)} - {None}
    if len(fixed) > 1:
        raise NotComparableError(
            f"their batches are fixed at {a.fixed_batch} and {b.fixed_batch}",
            where=f"{a.where} and {b.where}",
            hint="export them with a free batch dimension, or with the same one",
        )
    size = next(iter(fixed), None)
    if size is not None and asked not in (None, size):
        raise UsageError(
            f"a model fixes its batch at {size}, not {asked}",
            where="--set protocol.batch",
            hint="leave it out",
        )
    return size or asked or 1


def inputs_for(
    a: Signature,
    b: Signature,
    *,
    data: str | None,
    limits: DataLimits,
    seed: int,
    sizes: Mapping[str, int],
    batch: int,
) -> Inputs:
    """Inputs both models take: from `data`, else random ones under `seed`.

    `sizes` fixes free dimensions by name; those that nobody fixes are 1. Raises UsageError for a
    name that is no free dimension, and DataError where the data does not fit.
    """
    shapes = _example_shapes(a, b, sizes if data is None else {})
    if data is not None and sizes:
        raise UsageError(
            "the data decides the sizes",
            where=f"--set dim.{next(iter(sizes))}",
            hint="leave it out",
        )
    names = tuple(t.name for t in a.inputs)
    if data is None:
        arrays, words = _random(a, b, shapes, seed, batch)
        return Inputs(names, arrays, words, random=True)
    if data.endswith(".npz"):
        arrays, words = _from_npz(Path(data), a), f"{data}"
    else:
        arrays, words = _from_data(data, a, limits, seed)
    _check_fit(arrays, a, b, data)
    listed = ", ".join(
        f"{name} {array.dtype} {list(array.shape)}"
        for name, array in zip(names, arrays, strict=True)
    )
    return Inputs(names, arrays, f"{words}: {listed}", random=False)


def _tensor(value: onnx.ValueInfoProto, where: str, role: str) -> Tensor:
    import onnx

    if not value.type.HasField("tensor_type"):
        raise ModelError(f"its {role} '{value.name}' is no tensor", where=where)
    kind = value.type.tensor_type
    try:
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    except (KeyError, ValueError, TypeError):
        dtype = f"of type {kind.elem_type}"
    if not kind.HasField("shape"):
        return Tensor(value.name, dtype, None)
    sizes: list[int | str] = []
    for axis, dimension in enumerate(kind.shape.dim):
        # Some exporters write 0 or −1 for a size that is not fixed.
        free = dimension.dim_param or f"{value.name}.{axis}"
        sizes.append(dimension.dim_value if dimension.dim_value > 0 else free)
    return Tensor(value.name, dtype, tuple(sizes))


def _rows_pointed_into(model: onnx.ModelProto) -> dict[str, int]:
    """Of each input that selects rows of a weight (an embedding): how many rows there are."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    source = {value.name: value.name for value in model.graph.input}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in {"Cast", "Identity"} and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        elif node.op_type == "DequantizeLinear" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in weights and node.input[1] in source:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name, rows = source[node.input[1]], int(weights[node.input[0]][axis])
            found[name] = min(rows, found.get(name, rows))
    return found


def _example_shapes(a: Signature, b: Signature, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
    """The shape of one example of each input."""
    free: set[str] = set()
    shapes = []
    for one, other in zip(a.inputs, b.inputs, strict=True):
        shape = []
        for x, y in zip((one.shape or ())[1:], (other.shape or ())[1:], strict=True):
            fixed = next((size for size in (x, y) if isinstance(size, int)), None)
            if fixed is None:
                names = [str(x), str(y)]
                free.update(names)
                fixed = next((sizes[name] for name in names if name in sizes), 1)
            shape.append(fixed)
        shapes.append(tuple(shape))
    for name in sizes:
        if name not in free:
            near = nearest(name, free)
            known = f"free are: {', '.join(sorted(free)) or 'none'}"
            raise UsageError(
                f"no input has a free dimension '{name}'",
                where=f"--set dim.{name}",
                hint=f"did you mean 'dim.{near}'?" if near else known,
            )
    return shapes


def _random(
    a: Signature, b: Signature, shapes: Sequence[tuple[int, ...]], seed: int, batch: int
) -> tuple[tuple[Array, ...], str]:
    bytes_each = sum(
        int(np.prod(shape)) * np.dtype(t.dtype).itemsize
        for t, shape in zip(a.inputs, shapes, strict=True)
    )
    count = max(batch, min(max(EXAMPLES, batch), LARGEST_INPUTS // max(bytes_each, 1)))
    rng = np.random.default_rng([seed, 0x1A])
    arrays, parts = [], []
    for one, other, shape in zip(a.inputs, b.inputs, shapes, strict=True):
        # The wider of the two types: the agent narrows it for the other model.
        dtype = np.result_type(one.dtype, other.dtype)
        rows = min(
            (side.below[t.name] for side, t in ((a, one), (b, other)) if t.name in side.below),
            default=None,
        )
        array, range_ = _draw(rng, (count, *shape), dtype, rows)
        arrays.append(array)
        parts.append(f"{one.name} {dtype} {list(array.shape)} {range_}")
    return tuple(arrays), f"random (seed {seed}): {', '.join(parts)}"


def _draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], rows: int | None
) -> tuple[Array, str]:
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype), "normal"
    if dtype.kind in "iu" and rows is not None:
        return rng.integers(rows, size=shape).astype(dtype), f"below {rows}"
    if dtype.kind in "iu" and dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, size=shape, endpoint=True)
        return values.astype(dtype), f"{limits.min} to {limits.max}"
    values = rng.integers(2, size=shape)
    # An attention mask that hides everything has no answer.
    values.reshape(shape[0], -1)[:, 0] = 1
    return values.astype(dtype), "0 or 1"


def _from_npz(path: Path, a: Signature) -> tuple[Array, ...]:
    try:
        with np.load(path, allow_pickle=False) as found:
            if not hasattr(found, "files"):
                raise DataError("is no .npz file of arrays", where=str(path))
            names = list(found.files)
            missing = [t.name for t in a.inputs if t.name not in names]
            if missing and len(a.inputs) == len(names) == 1:
                missing, wanted = [], names
            else:
                wanted = [t.name for t in a.inputs]
            if missing:
                raise DataError(
                    f"there is no array '{missing[0]}'",
                    where=str(path),
                    hint=f"it holds {', '.join(names) or 'nothing'}; name one for each input",
                )
            return tuple(np.ascontiguousarray(found[name]) for name in wanted)
    except FileNotFoundError:
        raise DataError("there is no file at this path", where=str(path)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot be read as an .npz file: {error}",
            where=str(path),
            hint="write it with numpy.savez, without objects",
        ) from None


def _from_data(
    data: str, a: Signature, limits: DataLimits, seed: int
) -> tuple[tuple[Array, ...], str]:
    if len(a.inputs) != 1:
        raise DataError(
            f"a data set gives one input, the models take {len(a.inputs)}",
            where=f"--data {data}",
            hint="give an .npz file with one array for each input, or leave it out",
        )
    dataset = load_data(data, train=limits.train, test=limits.test, seed=seed)
    return (dataset.test_x,), f"{dataset.name}, test"


def _check_fit(arrays: Sequence[Array], a: Signature, b: Signature, data: str) -> None:
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) > 1 or not min(counts):
        raise DataError(
            f"its arrays hold {sorted(counts)} examples; all have to hold the same number, one at "
            "least",
            where=data,
        )
    for side in (a, b):
        for tensor, array in zip(side.inputs, arrays, strict=True):
            wanted = tensor.shape or ()
            if array.ndim != len(wanted) or any(
                isinstance(size, int) and size != given
                for size, given in zip(wanted[1:], array.shape[1:], strict=True)
            ):
                raise DataError(
                    f"'{tensor.name}' is {list(array.shape)}, {side.where} takes {_shown(wanted)}",
                    where=data,
                )
            if str(array.dtype) not in DTYPES or not np.can_cast(
                array.dtype, tensor.dtype, "same_kind"
            ):
                raise DataError(
                    f"'{tensor.name}' is {array.dtype}, {side.where} takes {tensor.dtype}",
                    where=data,
                )


def _shown(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"
