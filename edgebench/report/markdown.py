"""The report as GitHub-flavoured Markdown: a pull-request comment, with the details folded."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from edgebench.records import RunRecord
from edgebench.report import format as fmt
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.glossary import FUNCTIONAL, GRADES, words
from edgebench.report.rows import (
    Row,
    comparison_cell,
    ordered,
    problems,
    run_word,
    subject,
    verdict_rows,
)

# Only what would change the meaning where it stands: intervals keep their brackets, metric names
# their underscores.
_SPECIAL = re.compile(r"[\\`*|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\[(?![-−+–\d.])|\](?=[(\[:])")


def render_markdown(run: RunRecord) -> str:
    """The report as text: verdict, table, reasons; the rest inside `<details>`."""
    rows = verdict_rows(run)
    lines = [f"## {run_word(run)}: {escape(subject(run))}", ""]
    if run.verdict_text:
        lines += [escape(run.verdict_text), ""]
    lines += [*_verdict_table(rows), ""]
    lines += _reasons(rows)
    if run.warnings:
        lines += ["**Not measured, or to be doubted**", ""]
        lines += [f"- {escape(warning)}" for warning in run.warnings]
        lines += [""]
    lines += _folded("All reasons", [f"- {_all_reasons(row)}" for row in rows if row.reasons])
    lines += _folded("Size and accuracy", _model_table(rows))
    lines += _folded("How far the answers moved", _functional_table(run))
    lines += _folded("Target, device, versions", _circumstances(run))
    return "\n".join(lines).rstrip() + "\n"


def escape(text: object) -> str:
    """Text of unknown origin as inert Markdown on one line: no tags, links, mentions or cells."""
    inert = html.escape(fmt.plain(text), quote=False)
    # A zero-width space keeps GitHub from notifying whoever bears the name.
    return _SPECIAL.sub(r"\\\g<0>", inert).replace("@", "@\u200b")


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose other columns are aligned right."""
    rule = [":---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


def _verdict_table(rows: Sequence[Row]) -> list[str]:
    return table(
        (
            "Variant",
            "Verdict",
            "Latency",
            "Latency ratio",
            "Size ratio",
            "Accuracy change",
            "Disagreement",
            "Functional preservation",
        ),
        [
            (
                escape(row.name),
                f"**{row.word}**" if row.tone != "none" else row.word,
                row.latency.point,
                row.ratio.line,
                row.size_ratio.line,
                row.delta.line,
                row.disagreement.line,
                row.preservation.line,
            )
            for row in rows
        ],
    )


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why the variants that are not GO are not: problems, and the gates that were not met."""
    lines = [
        f"- **{escape(names)}** {row.word}: {escape(row.problem)}" for names, row in problems(rows)
    ]
    for row in rows:
        lines += [
            f"- **{escape(row.name)}** {reason.verdict}: {escape(reason.text)}"
            for reason in row.reasons
            if reason.verdict != "GO"
        ]
    return [*lines, ""] if lines else []


def _all_reasons(row: Row) -> str:
    told = "; ".join(f"{reason.verdict} {escape(reason.text)}" for reason in row.reasons)
    return f"**{escape(row.name)}** ({escape(row.chain)}): {told}"


def _model_table(rows: Sequence[Row]) -> list[str]:
    return table(
        ("Variant", "Size", "Compressed", "Accuracy"),
        [
            (
                escape(row.name),
                row.size.point,
                row.size.interval.removeprefix("zip ") or fmt.MISSING,
                row.accuracy.line,
            )
            for row in rows
        ],
    )


def _functional_table(run: RunRecord) -> list[str]:
    body = [
        (
            escape(v.name) + (" (control)" if v.control else ""),
            *(comparison_cell(v, name).line for name in FUNCTIONAL),
        )
        for v in ordered(run, controls=True)
        if any(name in v.comparisons for name in FUNCTIONAL)
    ]
    return table(("Model", *(words(name).label for name in FUNCTIONAL)), body) if body else []


def _circumstances(run: RunRecord) -> list[str]:
    grade = str(run.device.get("grade"))
    facts = [
        ("target", run.target.get("name")),
        ("device fingerprint", run.device.get("fingerprint")),
        ("grade", f"{grade}, {GRADES[grade]}" if grade in GRADES else None),
        ("run", f"{run.run_id}, {fmt.moment(run.created)}"),
        ("edgebench", run.edgebench_version),
        *run.versions.items(),
    ]
    return [f"- {escape(key)}: {escape(value)}" for key, value in facts if value]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>", ""]


RENDERERS.register("markdown")(Renderer("report.md", render_markdown))
