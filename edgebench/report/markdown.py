"""The report as GitHub-flavoured Markdown: a pull-request comment, with the details folded."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from edgebench.records import RunRecord
from edgebench.report import format as fmt
from edgebench.report import scenarios
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.evidence import NO_REASON, Evidence, evidence_of, noise_floor, range_told
from edgebench.report.facts import Fact, share
from edgebench.report.glossary import GRADES, LEAST_CHANGE, fits, functional_metrics, words
from edgebench.report.rows import (
    NOT_VALID,
    Cell,
    Row,
    comparison_cell,
    metric_cell,
    ordered,
    problems,
    run_word,
    subject,
    unmet,
    verdict_rows,
)
from edgebench.report.search import search_columns, search_rows

# GitHub takes comments of 65,536 characters; the evidence of many models would not leave room.
_EVIDENCE_BUDGET = 24_000

_MEASURED = (
    "latency_p90_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "latency_p999_ms",
    "throughput_per_s",
    "energy_mj",
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
    lines += [*_verdict_table(run, rows), "", *_device(run), ""]
    lines += _reasons(rows)
    doubts = [*run.warnings, *scenarios.doubts(run)]
    if doubts:
        lines += ["**Not measured, or to be doubted**", ""]
        lines += [f"- {escape(doubt)}" for doubt in doubts]
        lines += [""]
    lines += _folded("The search", _search_table(run))
    lines += _folded("Scenarios", scenarios.markdown_lines(run, table, escape))
    lines += _folded("All reasons", [f"- {_all_reasons(row)}" for row in rows if row.reasons])
    if fits("accuracy", run):
        lines += _folded("Size and accuracy", _model_table(rows))
    lines += _folded("How far the answers moved", _functional_table(run))
    lines += _folded("More of latency, and energy", _measured_table(run))
    lines += _evidence(run)
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


# Behind verdict and clock; those that the answers of the run's models have.
_ANSWERS: dict[str, tuple[str, Callable[[Row], Cell]]] = {
    "accuracy_delta_pp": ("Accuracy change", lambda row: row.delta),
    "prediction_disagreement": ("Disagreement", lambda row: row.disagreement),
    "functional_preservation": ("Functional preservation", lambda row: row.preservation),
    "output_cosine": ("Output cosine", lambda row: row.cosine),
    "mean_relative_error": ("Mean relative error", lambda row: row.error),
}


def _verdict_table(run: RunRecord, rows: Sequence[Row]) -> list[str]:
    answers = [column for name, column in _ANSWERS.items() if fits(name, run)]
    return table(
        (
            "Variant",
            "Verdict",
            "Latency",
            "Latency ratio",
            LEAST_CHANGE,
            "Size ratio",
            *(head for head, _ in answers),
        ),
        [
            (
                escape(row.name),
                _verdict(row),
                row.latency.point,
                row.ratio.line,
                row.told,
                row.size_ratio.line,
                *(cell(row).line for _, cell in answers),
            )
            for row in rows
        ],
    )


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why the variants that are not GO are not: problems, and the gates that were not met."""
    lines = [
        f"- **{escape(names)}** {word}: {escape(text)}"
        for names, word, _, text in (*problems(rows), *unmet(rows))
    ]
    return [*lines, ""] if lines else []


def _verdict(row: Row) -> str:
    word = f"**{row.word}**" if row.tone != "none" else row.word
    return f"{word}, **{NOT_VALID}**" if row.invalid else word


def _device(run: RunRecord) -> list[str]:
    """One sentence: the grade, why, and what the device tells apart."""
    grade, reasons = str(run.device.get("grade")), run.device.get("grade_reasons")
    parts = []
    if grade in GRADES:
        why = "; ".join(map(fmt.plain, reasons)) if isinstance(reasons, list) else ""
        parts.append(
            f"Device grade {grade} ({GRADES[grade].partition(':')[0]}){why and f': {why}'}."
        )
    floor, told = noise_floor(run.variant("base")), range_told(ordered(run))
    if floor is not None:
        parts.append(f"Base against itself differs by up to {share(floor)}.")
    if told:
        parts.append(f"Least change of latency told from none: {told}.")
    return [escape(" ".join(parts))] if parts else []


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
    names = functional_metrics(run)
    body = [
        (
            escape(v.name) + (" (control)" if v.beside else ""),
            *(comparison_cell(v, name).line for name in names),
        )
        for v in ordered(run, controls=True)
        if any(name in v.comparisons for name in names)
    ]
    return table(("Model", *(words(name).label for name in names)), body) if body else []


def _search_table(run: RunRecord) -> list[str]:
    """Every chain a search tried, the front first."""
    rows = search_rows(run)
    if not rows:
        return []
    head = ("Trial", *search_columns(run), "Outcome", "Chain")
    return table(head, [(r.name, *r.values, escape(r.outcome), escape(r.chain)) for r in rows])


def _measured_table(run: RunRecord) -> list[str]:
    """Tails and energy, as far as they were measured."""
    shown = ordered(run)
    names = [n for n in _MEASURED if any(v.metrics.get(n) is not None for v in shown)]
    base = run.variant("base")
    body = [
        (escape(v.name), *(metric_cell(v, name, base).line for name in names))
        for v in shown
        if v.measurement is not None
    ]
    return table(("Model", *(words(name).label for name in names)), body) if names else []


def _evidence(run: RunRecord) -> list[str]:
    """Whether each measurement is evidence, and what was seen, folded model by model."""
    found = [e for v in ordered(run, controls=True) if (e := evidence_of(v)) is not None]
    if not found:
        return []
    lines = table(
        ("Model", "Grade", "Valid", LEAST_CHANGE, "Integer operators", "Optimised against plain"),
        [(escape(e.name), e.grade, _valid(e), e.told, e.integers, e.plain_session) for e in found],
    )
    spent = 0
    for number, one in enumerate(found):
        block = _folded(f"{escape(one.name)}: what was seen", _seen(one))
        spent += sum(map(len, block))
        if spent > _EVIDENCE_BUDGET:
            rest = len(found) - number
            lines += ["", f"What was seen of {rest} more: in report.html."]
            break
        lines += ["", *block[:-1]]
    return _folded("Evidence of the measurement", lines)


def _valid(one: Evidence) -> str:
    return "yes" if one.valid else f"**no**: {escape('; '.join(one.reasons) or NO_REASON)}"


def _seen(one: Evidence) -> list[str]:
    lines = []
    for section in one.sections:
        if section.facts:
            lines += [f"*{escape(section.title)}*", "", *map(_fact, section.facts), ""]
    return lines[:-1]


def _fact(fact: Fact) -> str:
    mark = "**to be doubted**: " if fact.doubtful else ""
    return f"- {escape(fact.title)}: {mark}{escape(fact.text)}"


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
