"""The history as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from edgebench.history.store import RunSummary

VERDICT_STYLES = {"GO": "green", "NO-GO": "red", "INCONCLUSIVE": "yellow"}

# Below this many columns the best variant and the time of day are left out: a run's id begins
# with them, and names should not be broken into pieces.
WIDE = 100


def history_table(rows: list[RunSummary], width: int) -> Table:
    """The runs as a table that is readable at `width` columns, 80 and more."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    wide = width >= WIDE
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("created, UTC" if wide else "created", no_wrap=True)
    table.add_column("recipe", overflow="fold")
    table.add_column("target", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    if wide:
        table.add_column("best", overflow="fold")
    for row in rows:
        cells = [
            _plain(row.run_id),
            _plain(row.created.strftime("%Y-%m-%d %H:%M" if wide else "%Y-%m-%d")),
            _plain(row.recipe),
            _plain(row.target),
            _plain(row.verdict or "none", VERDICT_STYLES.get(row.verdict or "", "dim")),
        ]
        if wide:
            cells.append(_plain(row.best or ""))
        table.add_row(*cells)
    return table


def _plain(text: str, style: str = "") -> Text:
    """`text` as it is: names are the user's, and are neither markup nor terminal commands."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)
