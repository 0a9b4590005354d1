"""The tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

from benchmarks.harness.table import Rate, Table

_NAME, _LABEL, _VALUE = 26, 36, 38


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
    lines = []
    for cells in table.cells:
        lines.append(f"  {', '.join(str(cell) for cell in cells[: table.about])}")
        for name, cell in zip(names, cells[table.about :], strict=True):
            parts = zip_longest(wrap(name, _LABEL), wrap(str(cell), _VALUE), fillvalue="")
            lines += [f"    {left:<{_LABEL}}  {right}".rstrip() for left, right in parts]
    return lines


def _grid(table: Table) -> list[str]:
    """Headings have a line for each word, long names several; a rate is its share alone."""
    heads = [column.split() for column in table.columns]
    lines = [list(words) for words in zip_longest(*heads, fillvalue="")]
    for name, *rest in table.cells:
        cells = [c.short if isinstance(c, Rate) else c for c in rest]
        first, *more = wrap(str(name), _NAME)
        lines.append([first, *cells])
        lines += [[f"  {part}", *([""] * len(cells))] for part in more]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return [
        "  " + " ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
