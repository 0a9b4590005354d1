"""Which of the user's source files a factory depends on: it and all it imports from beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

# What is installed here has a version; only the user's own files are read.
INSTALLED = ("site-packages", "dist-packages")


def local_sources(file: Path, name: str) -> set[Path]:
    """The source file of the module `name`, and those of its project that it imports, in turn.

    Imports are read from the text, so those inside functions count; what is installed is left out,
    and of an installed module only its own package is followed.
    """
    file = file.resolve()
    top = name.partition(".")[0]
    depth = name.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current in found or not current.is_file():
            continue
        found.add(current)
        for imported in _imports(current, root):
            if root.name in INSTALLED and imported[0] != top:
                continue
            for end in range(1, len(imported) + 1):
                place = root.joinpath(*imported[:end])
                waiting += [place.with_name(f"{place.name}.py"), place / "__init__.py"]
    return found


def _imports(file: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """The dotted names a file imports, as parts; of `from a import b` both a and a.b."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = file.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield (*base, alias.name)
