"""Feeds and answers as a runtime wants and gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence

from ..errors import ModelFailedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .base import Answer, Feed, TensorSpec


def buffers_for(feed: Feed, inputs: List[TensorSpec]) -> List[NDArray[Any]]:
    """Copies of a feed, contiguous and of the model's own types: one for each input.

    Raises ModelFailedError where the feed has another number of arrays, or one of another shape or
    kind (floats where the model takes integers, say).
    """
    import numpy as np

    if len(feed) != len(inputs):
        raise ModelFailedError(f"it takes {len(inputs)} inputs, and was given {len(feed)}")
    for array, spec in zip(feed, inputs):
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise ModelFailedError(
                f"its input '{spec.name}' takes {spec.dtype}, and was given {array.dtype}"
            )
        if not _fits(array.shape, spec.shape):
            wanted = ", ".join("N" if size is None else str(size) for size in spec.shape)
            raise ModelFailedError(
                f"its input '{spec.name}' takes [{wanted}], and was given {list(array.shape)}"
            )
    return [np.array(array, dtype=spec.dtype, order="C") for array, spec in zip(feed, inputs)]


def _fits(shape: Sequence[int], wanted: Sequence[Optional[int]]) -> bool:
    # No sizes: a file may leave the shape out altogether.
    return not wanted or (
        len(shape) == len(wanted)
        and all(size is None or size == given for given, size in zip(shape, wanted))
    )


def writer(buffers: Sequence[NDArray[Any]]) -> Callable[[Feed], None]:
    """What copies a feed into the buffers that are bound."""
    import numpy as np

    def write_one(feed: Feed, copy: Any = np.copyto, only: NDArray[Any] = buffers[0]) -> None:
        copy(only, feed[0], "same_kind")

    def write_all(feed: Feed) -> None:
        for buffer, array in zip(buffers, feed):
            np.copyto(buffer, array, casting="same_kind")

    return write_one if len(buffers) == 1 else write_all


def answer_of(arrays: Sequence[Any]) -> Answer:
    """Copies of a runtime's arrays, floats as float32."""
    import numpy as np

    found = [np.asarray(array) for array in arrays]
    return tuple(
        array.astype(np.float32 if array.dtype.kind == "f" else array.dtype) for array in found
    )
