"""The verdicts for a terminal, in as many columns as it has room for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench.records import RunRecord
from edgebench.report import format as fmt
from edgebench.report.glossary import GRADES
from edgebench.report.rows import Row, problems, run_word, subject, verdict_rows

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES = {"go": "bold green", "no-go": "bold red", "inconclusive": "bold yellow", "none": "dim"}
_MAX_NOTES = 5


class _Column(NamedTuple):
    head: str
    value: Callable[[Row], str]
    from_width: int = 0
    to_width: int = 10_000


_COLUMNS = (
    _Column("Chain", lambda row: row.chain, 190),
    _Column("Latency", lambda row: row.latency.point, 100),
    _Column("Latency ratio", lambda row: row.ratio.line),
    _Column("Size", lambda row: row.size.point, 115),
    _Column("Size\nratio", lambda row: row.size_ratio.line),
    _Column("Accuracy", lambda row: row.accuracy.point, 130),
    _Column("Accuracy\nchange", lambda row: row.delta.point, 0, 155),
    _Column("Accuracy\nchange", lambda row: row.delta.line, 156),
    _Column("Disagree-\nment", lambda row: row.disagreement.point, 140),
    _Column("Preser-\nvation", lambda row: row.preservation.point, 0, 155),
    _Column("Preservation", lambda row: row.preservation.line, 156),
)


def verdict_table(run: RunRecord, width: int) -> RenderableType:
    """One row a variant; `width` is the terminal's, in characters."""
    return _table(verdict_rows(run), width)


def summary(run: RunRecord, width: int, report: Path | None = None) -> RenderableType:
    """Headline, what to doubt, table, why the others are not GO, and where the report lies."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    rows = verdict_rows(run)
    word = run_word(run)
    headline = Text.assemble(
        _word(word, "no-go" if word in {"FAILED", "NOT MEASURED"} else word.lower()),
        "  ",
        (subject(run), "bold"),
    )
    parts: list[RenderableType] = [headline]
    if run.verdict_text:
        parts.append(Text(fmt.plain(run.verdict_text)))
    parts += [Text(line, style="dim") for line in _device(run)]
    parts += [Text(f"note: {note}") for note in _notes(run)]
    parts += [Text(), _table(rows, width)]
    reasons = _reasons(rows)
    if reasons:
        parts += [Text(), Text("Why not GO", style="bold")]
        parts += [Padding(reason, (0, 0, 0, 2)) for reason in reasons]
    if report is not None:
        parts += [Text(), Text.assemble("Report: ", fmt.clean(report))]
    return Group(*parts)


def _table(rows: list[Row], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    columns = [c for c in _COLUMNS if c.from_width <= width <= c.to_width]
    # No frame: at 80 characters the numbers need the room.
    table = Table(box=None, pad_edge=False, padding=(0, 2 if width >= 100 else 1, 0, 0))
    table.add_column("Variant", overflow="fold", min_width=8)
    table.add_column("Verdict", no_wrap=True)
    for column in columns:
        if column.head == "Chain":
            table.add_column(column.head, overflow="fold")
        else:
            table.add_column(column.head, justify="right", no_wrap=True)
    for row in rows:
        values = (Text(column.value(row)) for column in columns)
        table.add_row(Text(row.name), _word(row.word, row.tone), *values)
    return table


def _device(run: RunRecord) -> list[str]:
    grade = run.device.get("grade")
    meaning = GRADES.get(grade) if isinstance(grade, str) else None
    return [f"device grade {grade} ({meaning.partition(':')[0]})"] if meaning else []


def _notes(run: RunRecord) -> list[str]:
    shown = [fmt.plain(warning) for warning in run.warnings[:_MAX_NOTES]]
    rest = len(run.warnings) - len(shown)
    return [*shown, f"{rest} more in the report"] if rest else shown


def _reasons(rows: list[Row]) -> list[Text]:
    """What went wrong, once for all variants it befell, then the gates that were not met."""
    from rich.text import Text

    lines = [
        Text.assemble(names, " ", _word(row.word, row.tone), ": ", row.problem)
        for names, row in problems(rows)
    ]
    for row in rows:
        for reason in row.reasons:
            if reason.verdict != "GO":
                word = _word(reason.verdict, reason.verdict.lower())
                lines.append(Text.assemble(row.name, " ", word, ": ", fmt.plain(reason.text)))
    return lines


def _word(word: str, tone: str) -> Text:
    from rich.text import Text

    return Text(word, style=_STYLES.get(tone, "dim"))
