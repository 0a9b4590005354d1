"""Whether an exported file answers as the module it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.errors import BuildError

# Of the answers' spread. On the integer grid of a quantized model a value at the middle of a step
# may fall to either side.
INTEGER_TOLERANCE = 0.25


def largest_gap(
    wanted: NDArray[Any],
    whole: NDArray[Any],
    single: NDArray[Any],
    *,
    quantized: bool,
    float_tolerance: float,
    names: tuple[str, str],
    output: str | None = None,
) -> float:
    """The largest difference between the module's answers and the file's.

    `wanted`: the module's, [N, ...]; `whole`: the file's for all N in one batch; `single`: its one
    for the first example alone. `float_tolerance` is a share of the answers' spread. `names` say
    who gave the file's answers and who the module's, `output` of several the one it is about, for
    the error.

    Raises
    ------
    BuildError
        The shapes differ, or the answers do by more than is rounding.
    """
    other, own = names
    about = "" if output is None else f" in '{output}'"
    if whole.shape != wanted.shape or single.shape != wanted[:1].shape:
        raise BuildError(f"{other} answers {whole.shape} where {own} answers {wanted.shape}{about}")
    if wanted.dtype.kind != "f":
        wanted, whole, single = (a.astype(np.float64) for a in (wanted, whole, single))
    spread = float(wanted.std()) or 1.0
    gaps = [whole - wanted, single - wanted[:1]]
    gap = max(float(np.abs(g).max()) for g in gaps)
    tolerance = INTEGER_TOLERANCE if quantized else float_tolerance
    # Integer steps: what counts is the typical answer, since single values may round otherwise.
    judged = [float(np.sqrt(np.mean(g**2))) for g in gaps] if quantized else [gap]
    if not all(one <= tolerance * spread for one in judged):
        raise BuildError(
            f"{other}'s answers differ from {own}'s by up to {gap:.3g} (spread {spread:.3g}){about}"
        )
    return gap


def largest_gap_of_all(
    wanted: Mapping[str, NDArray[np.float32]],
    whole: Sequence[NDArray[np.float32]],
    single: Sequence[NDArray[np.float32]],
    *,
    quantized: bool,
    float_tolerance: float,
    names: tuple[str, str],
) -> float:
    """`largest_gap` over every output: `wanted` by name, the file's in the same order."""
    return max(
        largest_gap(
            values,
            whole[place],
            single[place],
            quantized=quantized,
            float_tolerance=float_tolerance,
            names=names,
            output=name if len(wanted) > 1 else None,
        )
        for place, (name, values) in enumerate(wanted.items())
    )
