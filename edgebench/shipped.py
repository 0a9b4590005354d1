"""Where the targets and recipes lie that come with edgebench."""

from __future__ import annotations

from pathlib import Path

_CHECKOUT = {"targets": "targets", "recipes": "benchmarks/recipes"}


def shipped_folder(kind: str) -> Path:
    """The folder of shipped `targets` or `recipes`: in an installed wheel, or in the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "shipped" / kind
    return installed if installed.is_dir() else package.parent / _CHECKOUT[kind]
