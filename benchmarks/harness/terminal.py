"""The tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from benchmarks.harness.summary import Rate, Table


def as_text(found: Sequence[Table]) -> str:
    """Where one column says what a line is about, a grid; else each line as a list."""
    parts: list[str] = []
    for table in found:
        parts.append(table.heading)
        parts += _grid(table) if table.about == 1 else _lists(table)
        parts.append("")
    return "\n".join(parts).rstrip() or "no trials yet"


def _lists(table: Table) -> list[str]:
    names = table.columns[table.about :]
    width = max(len(name) for name in names)
    lines = []
    for cells in table.cells:
        lines.append(f"  {', '.join(str(cell) for cell in cells[: table.about])}")
        named = zip(names, cells[table.about :], strict=True)
        lines += [f"    {name:<{width}}  {cell}" for name, cell in named]
    return lines


def _grid(table: Table) -> list[str]:
    """Headings have a line for each word; a rate is its share alone."""
    heads = [column.split() for column in table.columns]
    cells = [[c.short if isinstance(c, Rate) else c for c in line] for line in table.cells]
    lines = [*(list(words) for words in zip_longest(*heads, fillvalue="")), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return [
        "  " + " ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
