"""The history, and what was found in it, as tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from edgebench.history.check import Finding
    from edgebench.history.store import RunSummary

VERDICT_STYLES = {"GO": "green", "NO-GO": "red", "INCONCLUSIVE": "yellow"}
STATE_STYLES = {
    "regression": "bold red",
    "improvement": "green",
    "changed": "yellow",
    "too few runs": "yellow",
}

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


def findings_table(findings: list[Finding], width: int) -> Table:
    """What series of past runs show, one line each, readable at `width` columns, 80 and more.

    The columns that are alike in all of them are left out, as are δ and the number of runs where
    there is little room.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    wide = width >= WIDE
    several = {
        name: len({getattr(f.key, name) for f in findings}) > 1
        for name in ("recipe", "model", "data", "target")
    }
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("finding", no_wrap=True)
    names = [name for name, differ in several.items() if differ]
    for name in (*names, "variant", "metric"):
        table.add_column(name, overflow="fold")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    if wide:
        table.add_column("δ", justify="right", no_wrap=True)
        table.add_column("runs", justify="right", no_wrap=True)
        table.add_column("operators", overflow="fold")
    table.add_column("since run", overflow="fold")
    for found in findings:
        cells = [
            _plain(found.state, STATE_STYLES.get(found.state, "dim")),
            *(_plain(getattr(found.key, name)) for name in (*names, "variant", "metric")),
            _plain(_number(found.before)),
            _plain(_number(found.now if found.after is None else found.after)),
            _plain("" if found.change is None else f"{found.change:+.1%}"),
        ]
        if wide:
            delta = f"{found.delta:.1%}" if found.delta else "exact"
            cells += [_plain(delta), _plain(str(found.runs)), _plain(found.detail)]
        # How a run's id begins finds it again.
        since = found.since or ""
        cells.append(_plain(since if wide else since.partition("-")[0]))
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def _plain(text: str, style: str = "") -> Text:
    """`text` as it is: names are the user's, and are neither markup nor terminal commands."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)
