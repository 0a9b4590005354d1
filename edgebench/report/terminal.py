"""The verdicts for a terminal, in as many columns as it has room for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench.records import RunRecord
from edgebench.report import format as fmt
from edgebench.report import scenarios
from edgebench.report.evidence import noise_floor, range_told, told_of_integers
from edgebench.report.facts import share
from edgebench.report.glossary import GRADES, fits
from edgebench.report.rows import (
    NOT_VALID,
    Row,
    ordered,
    problems,
    run_word,
    subject,
    unmet,
    verdict_rows,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STYLES = {"go": "bold green", "no-go": "bold red", "inconclusive": "bold yellow", "none": "dim"}
_MAX_NOTES = 5


class _Column(NamedTuple):
    """A column's head, and how its cells are written, the shortest form first."""

    head: str
    forms: tuple[Callable[[Row], str], ...]


# In the order in which they stand.
_COLUMNS = {
    "chain": _Column("Chain", (lambda row: row.chain,)),
    "latency": _Column("Latency", (lambda row: row.latency.point,)),
    "ratio": _Column("Latency ratio", (lambda row: row.ratio.line,)),
    "told": _Column("Least\nchange", (lambda row: row.told,)),
    "energy": _Column("Energy", (lambda row: row.energy.point,)),
    "size": _Column("Size", (lambda row: row.size.point,)),
    "size_ratio": _Column("Size\nratio", (lambda row: row.size_ratio.line,)),
    "accuracy": _Column("Accuracy", (lambda row: row.accuracy.point,)),
    "delta": _Column("Accuracy\nchange", (lambda row: row.delta.point, lambda row: row.delta.line)),
    "disagreement": _Column("Disagree-\nment", (lambda row: row.disagreement.point,)),
    "preservation": _Column(
        "Preser-\nvation",
        (lambda row: row.preservation.point, lambda row: row.preservation.line),
    ),
    "sqnr": _Column("SQNR", (lambda row: row.sqnr.point, lambda row: row.sqnr.line)),
    "cosine": _Column(
        "Output\ncosine", (lambda row: row.cosine.point, lambda row: row.cosine.line)
    ),
    "error": _Column("Mean rel.\nerror", (lambda row: row.error.point,)),
}
# Which metric of the answers a column shows; it is there where the run's answers have it.
_METRIC = {
    "accuracy": "accuracy",
    "delta": "accuracy_delta_pp",
    "disagreement": "prediction_disagreement",
    "preservation": "functional_preservation",
    "cosine": "output_cosine",
    "error": "mean_relative_error",
}
# In the order in which they get room, each by its name and form. Gates are judged by the first
# ones, which are always there.
_ALWAYS = {"ratio": 0, "size_ratio": 0, "delta": 0, "preservation": 0, "cosine": 0}
_WISHES = (
    ("latency", 0),
    ("told", 0),
    ("energy", 0),
    ("size", 0),
    ("disagreement", 0),
    ("sqnr", 0),
    ("error", 0),
    ("preservation", 1),
    ("delta", 1),
    ("accuracy", 0),
    ("sqnr", 1),
    ("cosine", 1),
    ("chain", 0),
)
_OPTIONAL = {"told", "energy"}
_NAME_ROOM = 24
_CHAIN_ROOM = 30


def verdict_table(run: RunRecord, width: int) -> RenderableType:
    """One row a variant; `width` is the terminal's, in characters."""
    rows = verdict_rows(run)
    return _table(rows, width, _chosen(run, rows, width))


def summary(run: RunRecord, width: int, report: Path | None = None) -> RenderableType:
    """Headline, what to doubt, table, why the others are not GO, and where the report lies."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    rows = verdict_rows(run)
    columns = _chosen(run, rows, width)
    word = run_word(run)
    headline = Text.assemble(
        _word(word, "no-go" if word in {"FAILED", "NOT MEASURED"} else word.lower()),
        "  ",
        (subject(run), "bold"),
    )
    parts: list[RenderableType] = [headline]
    if run.verdict_text:
        parts.append(Text(fmt.plain(run.verdict_text)))
    parts += [Text(line, style="dim") for line in _circumstances(run, told="told" in columns)]
    parts += [Text(f"note: {note}") for note in _notes(run)]
    parts += [Text(), _table(rows, width, columns)]
    under = scenarios.terminal_table(run, width)
    if under is not None:
        parts += [Text(), Text("Scenarios: how queries arrive", style="bold"), under]
        parts += [Text(f"not valid: {doubt}") for doubt in _first(scenarios.doubts(run))]
    reasons = _reasons(rows)
    if reasons:
        parts += [Text(), Text("Why not GO", style="bold")]
        parts += [Padding(reason, (0, 0, 0, 2)) for reason in reasons]
    if report is not None:
        parts += [Text(), Text.assemble("Report: ", fmt.clean(report))]
    return Group(*parts)


def _chosen(run: RunRecord, rows: list[Row], width: int) -> dict[str, int]:
    """The columns a terminal has room for, each with the form of its cells, in their order."""
    from rich.cells import cell_len

    gap = _gap(width)
    room = width - sum(
        min(_NAME_ROOM, max(map(cell_len, texts))) + gap
        for texts in (["Variant", *(r.name for r in rows)], ["Verdict", *(r.word for r in rows)])
    )
    # A classifier's answers are told by classes: its SQNR stands in the page.
    left_out = {name for name, metric in _METRIC.items() if not fits(metric, run)}
    left_out |= set() if "accuracy" in left_out else {"sqnr"}
    chosen = {name: form for name, form in _ALWAYS.items() if name not in left_out}
    # Nothing follows the last column's cells, so its gap is free.
    room += gap - sum(_room(rows, name, form) + gap for name, form in chosen.items())
    for name, form in _WISHES:
        if name in left_out:
            continue
        if name in _OPTIONAL and all(_cell(row, name, form) == fmt.MISSING for row in rows):
            continue
        before = _room(rows, name, chosen[name]) if name in chosen else -gap
        more = _room(rows, name, form) - before
        if more <= room:
            room -= more
            chosen[name] = form
    return {name: chosen[name] for name in _COLUMNS if name in chosen}


def _room(rows: list[Row], name: str, form: int) -> int:
    from rich.cells import cell_len

    if name == "chain":
        return _CHAIN_ROOM
    cells = (_cell(row, name, form) for row in rows)
    return max(map(cell_len, (*_COLUMNS[name].head.split("\n"), *cells)))


def _cell(row: Row, name: str, form: int) -> str:
    return _COLUMNS[name].forms[form](row)


def _gap(width: int) -> int:
    # At 80 characters the numbers need the room.
    return 2 if width >= 100 else 1


def _table(rows: list[Row], width: int, columns: dict[str, int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _gap(width), 0, 0))
    table.add_column("Variant", overflow="fold", min_width=8)
    table.add_column("Verdict", no_wrap=True)
    for name, form in columns.items():
        head = _COLUMNS[name].head
        if name == "chain":
            table.add_column(head, overflow="fold")
        else:
            # A word is broken only where the cells below it are shorter.
            head = head.replace("-\n", "") if form else head
            table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        values = (Text(_cell(row, name, form)) for name, form in columns.items())
        table.add_row(Text(row.name), _verdict(row), *values)
    return table


def _circumstances(run: RunRecord, *, told: bool) -> list[str]:
    """On what it was measured, and what that can tell apart: one line each.

    `told`: the least change that a measurement tells stands in the table already.
    """
    lines = []
    grade, reasons = run.device.get("grade"), run.device.get("grade_reasons")
    meaning = GRADES.get(grade) if isinstance(grade, str) else None
    if meaning:
        why = "; ".join(map(fmt.plain, reasons)) if isinstance(reasons, list) else ""
        kind = f"device grade {grade} ({meaning.partition(':')[0]})"
        lines.append(f"{kind}: {why}" if why else kind)
    floor, least = noise_floor(run.variant("base")), range_told(ordered(run))
    if floor is not None:
        itself = f"base against itself differs by up to {share(floor)}"
        if told:
            itself += "; least change: what four in five such measurements tell from none"
        elif least:
            itself += f"; least change of latency told from none: {least}"
        lines.append(itself)
    integers = told_of_integers(ordered(run))
    if integers:
        lines.append(f"operators that ran as integers: {integers}")
    return lines


def _verdict(row: Row) -> Text:
    """The verdict; under it, that the measurement is no evidence."""
    from rich.text import Text

    word = _word(row.word, row.tone)
    return Text.assemble(word, "\n", _word(NOT_VALID, "no-go")) if row.invalid else word


def _notes(run: RunRecord) -> list[str]:
    return _first([fmt.plain(warning) for warning in run.warnings])


def _first(notes: list[str]) -> list[str]:
    rest = len(notes) - _MAX_NOTES
    return [*notes[:_MAX_NOTES], f"{rest} more in the report"] if rest > 0 else notes


def _reasons(rows: list[Row]) -> list[Text]:
    """What went wrong, once for all variants it befell, then the gates that were not met."""
    from rich.text import Text

    return [
        Text.assemble(names, " ", _word(word, tone), ": ", text)
        for names, word, tone, text in (*problems(rows), *unmet(rows))
    ]


def _word(word: str, tone: str) -> Text:
    from rich.text import Text

    return Text(word, style=_STYLES.get(tone, "dim"))
