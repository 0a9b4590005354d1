"""Layers as a user names them: one by one, or by the part of the model they are in."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from edgebench.errors import BuildError, nearest


def check_name(chosen: str, layers: Collection[str]) -> None:
    """Raise BuildError unless `chosen` is one of the layers, or a part of the model with some."""
    parts = [name.split(".") for name in layers]
    known = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    if chosen not in known:
        near = nearest(chosen, known)
        raise BuildError(
            f"the model has no layer '{chosen}'",
            hint=f"did you mean '{near}'?" if near else f"it has: {listed(layers)}",
        )


def within(layer: str, chosen: Iterable[str]) -> bool:
    """Whether a layer is one of those chosen, or in one of the parts chosen."""
    return any(layer == name or layer.startswith(f"{name}.") for name in chosen)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a sentence, each once and quoted, and how many more there are."""
    shown = list(dict.fromkeys(names))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(f"'{name}'" for name in shown[:most]) + more
