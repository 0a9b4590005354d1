"""Layers as a user names them: one by one, or by the part of the model they are in."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from edgebench.errors import BuildError, nearest

if TYPE_CHECKING:
    from torch import nn


def resolved(chosen: Iterable[str], layers: Collection[str], module: nn.Module) -> list[str]:
    """The names `chosen`, each the first that its part of `module` has.

    Raises BuildError unless each is one of the `layers`, or a part of the model with some.
    """
    ways = [name.split(".") for name in layers]
    known = {".".join(way[:end]) for way in ways for end in range(1, len(way) + 1)}
    parts = dict(module.named_modules(remove_duplicate=False))
    first = {id(part): name for name, part in module.named_modules()}
    found = []
    for name in chosen:
        own = name if name in known or name not in parts else first[id(parts[name])]
        if own in known:
            found.append(own)
            continue
        if name in parts:
            kind = type(parts[name]).__name__
            raise BuildError(
                f"'{name}' ({kind}) is no convolution or dense layer, and has none",
                hint=f"layers: {listed(layers)}",
            )
        near = nearest(name, known)
        raise BuildError(
            f"the model has no layer '{name}'",
            hint=f"did you mean '{near}'?" if near else f"layers: {listed(layers)}",
        )
    return found


def within(layer: str, chosen: Iterable[str]) -> bool:
    """Whether a layer is one of those chosen, or in one of the parts chosen."""
    return any(layer == name or layer.startswith(f"{name}.") for name in chosen)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a sentence, each once and quoted, and how many more there are; "none" of none."""
    shown = list(dict.fromkeys(names))
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(f"'{name}'" for name in shown[:most]) or "none") + more
