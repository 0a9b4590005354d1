"""The options `layers` and `exclude`: names of layers, or of parts of the model with some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator


def _as_names(given: Any) -> Any:
    if not isinstance(given, list):
        return given
    for name in given:
        if isinstance(name, float):
            # 3.10 would arrive as 3.1, which may be another layer.
            raise ValueError(  # noqa: TRY004 - pydantic words a ValueError, not a TypeError
                f"write the name {name} in quotes: YAML reads a number"
            )
    # The parts of an nn.Sequential are called 0, 1, 2 …
    return [str(n) if isinstance(n, int) and not isinstance(n, bool) else n for n in given]


LayerNames = Annotated[list[str], BeforeValidator(_as_names)]


def check_apart(layers: Sequence[str] | None, exclude: Sequence[str]) -> None:
    """Raise ValueError where a name is in both."""
    if both := sorted(set(layers or ()) & set(exclude)):
        raise ValueError(f"'{both[0]}' is in layers and in exclude")
