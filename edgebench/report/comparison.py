"""Two models, or two runs, side by side: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgebench.comparison import ComparedMetric, Comparison, Pair, Side
from edgebench.records import Estimate
from edgebench.report import format as fmt
from edgebench.report.glossary import GRADES, words
from edgebench.report.markdown import escape, table
from edgebench.store import write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

COMPARISON_FILES = ("comparison.json", "comparison.md")
STYLES = {
    "SLOWER": "bold red",
    "ANOTHER FUNCTION": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "NOT SLOWER": "bold green",
    "FASTER": "bold green",
}
# Below this many columns the p-values go.
WIDE = 100


class _Row(NamedTuple):
    """One metric, written out; `p` is the adjusted p-value."""

    label: str
    a: str
    b: str
    ratio: str
    p: str


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """Write `comparison.json` and `comparison.md`; raises StorageError."""
    record, text = (folder / name for name in COMPARISON_FILES)
    write_atomically(record, comparison.model_dump_json(indent=1) + "\n")
    write_atomically(text, comparison_markdown(comparison))
    return record, text


def comparison_summary(
    comparison: Comparison, width: int, report: Path | None = None
) -> RenderableType:
    """The comparison for a terminal of `width` columns, 80 and more."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    word = comparison.verdict
    parts: list[RenderableType] = [
        Text.assemble((word, STYLES[word]), "  ", (fmt.plain(comparison.verdict_text), "bold"))
    ]
    parts += [Text(line, style="dim") for line in _circumstances(comparison)]
    parts += [Text(f"note: {fmt.plain(note)}") for note in comparison.warnings]
    if comparison.kind == "models":
        pair = comparison.pairs[0]
        parts += [Text(), *_lines(pair), Text(), _metric_table(comparison, pair, width)]
        answers = _answers(pair)
        if answers:
            parts += [Text(), Text(f"Answers on the same inputs: {answers}")]
    else:
        parts += [Text(), _pair_table(comparison, width)]
        for one in comparison.pairs:
            if one.verdict not in {"NOT SLOWER", "FASTER"}:
                told = Text.assemble(
                    fmt.clean(one.name), " ", (one.verdict, STYLES[one.verdict]), ": "
                )
                parts.append(Padding(told.append("; ".join(one.reasons)), (0, 0, 0, 2)))
    if report is not None:
        parts += [Text(), Text.assemble("Report: ", fmt.clean(report))]
    return Group(*parts)


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as GitHub-flavoured Markdown."""
    lines = [f"## {comparison.verdict}: {escape(comparison.verdict_text)}", ""]
    if comparison.warnings:
        lines += [*(f"- note: {escape(note)}" for note in comparison.warnings), ""]
    for pair in comparison.pairs:
        if comparison.kind == "runs":
            lines += [f"### {escape(pair.name)}: {pair.verdict}", ""]
        lines += [f"- {escape(line)}" for line in _facts(pair)]
        lines += [f"- {escape(reason)}" for reason in pair.reasons]
        head = ("", comparison.a.name, comparison.b.name, "B / A", "p, Holm")
        rows = [(row.label, row.a, row.b, row.ratio, row.p) for row in _rows(pair)]
        body = [tuple(escape(cell) for cell in row) for row in rows]
        lines += ["", *table([escape(cell) for cell in head], body), ""]
        answers = _answers(pair)
        if answers:
            lines += [f"Answers on the same inputs: {escape(answers)}", ""]
    lines += [f"- {escape(line)}" for line in _circumstances(comparison)]
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        digest = f", sha256 {side.sha256}" if side.sha256 else ""
        lines.append(f"- {letter}: {escape(side.path)}{digest}")
    return "\n".join(lines).rstrip() + "\n"


def _lines(pair: Pair) -> list[Text]:
    """What was found on the latency, and why the verdict is what it is."""
    from rich.text import Text

    return [Text(line) for line in (*_facts(pair), *(f"Why: {why}" for why in pair.reasons))]


def _facts(pair: Pair) -> list[str]:
    ratio = pair.latency_ratio
    if ratio is None:
        return []
    facts = [f"Latency ratio B / A: {_ratio(ratio)} ({ratio.n} processes, 95 %)"]
    if pair.confirmation is not None:
        again = pair.confirmation
        facts.append(f"Again in fresh processes: {_ratio(again)} ({again.n} processes)")
    floor, delta, least = (
        "unknown" if value is None else f"{value:.1%}"
        for value in (pair.noise_floor, pair.delta, pair.smallest_detectable_change)
    )
    facts.append(
        f"Noise floor (A against itself): {floor}; δ {delta}; smallest detectable change {least}"
    )
    return facts


def _ratio(value: Estimate | None) -> str:
    """B over A with three decimals, since a change of a few per mille is what one looks for."""
    if value is None or value.point is None:
        return fmt.MISSING
    ends = [value.low, value.high]
    if any(end is None or end < 0.1 for end in ends) or value.point < 0.1:
        return fmt.estimate("latency_ratio", value)
    if value.low == value.high:
        return f"{value.point:.3f}"
    return f"{value.point:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _rows(pair: Pair) -> list[_Row]:
    return [_row(one) for one in pair.metrics]


def _row(one: ComparedMetric) -> _Row:
    reference = one.a
    ratio = _ratio(one.ratio)
    if one.metric == "accuracy" and one.a is not None and one.b is not None:
        ratio = fmt.point("accuracy_delta_pp", (one.b - one.a) * 100)
    values = []
    for value in (one.a, one.b):
        tail = one.metric in {"latency_p90_ms", "latency_p99_ms"}
        missing = "too few samples" if tail else fmt.MISSING
        values.append(missing if value is None else fmt.point(one.metric, value, reference))
    return _Row(words(one.metric).label, values[0], values[1], ratio, _p(one.p_adjusted))


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _metric_table(comparison: Comparison, pair: Pair, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    wide = width >= WIDE
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("")
    most = 40 if wide else 17
    for letter, side in (("A", comparison.a), ("B", comparison.b)):
        head = Text(f"{letter} {fmt.shorten(Path(side.name).name, most - 2)}")
        grid.add_column(head, justify="right")
    grid.add_column("B / A", justify="right", no_wrap=True)
    if wide:
        grid.add_column("p, Holm", justify="right", no_wrap=True)
    for row in _rows(pair):
        cells = [row.label, row.a, row.b, row.ratio, *([row.p] if wide else [])]
        grid.add_row(*(Text(cell) for cell in cells))
    return grid


def _pair_table(comparison: Comparison, width: int) -> RenderableType:
    """One row a variant that both runs have."""
    from rich.table import Table
    from rich.text import Text

    wide = width >= WIDE
    grid = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    grid.add_column("Variant", overflow="fold")
    grid.add_column("Latency", no_wrap=True)
    for head in ("Ratio B / A", "Size B / A", "Accuracy"):
        grid.add_column(head, justify="right", no_wrap=True)
    if wide:
        grid.add_column("Disagreement", justify="right", no_wrap=True)
        grid.add_column("p, Holm", justify="right", no_wrap=True)
    for pair in comparison.pairs:
        rows = {one.metric: one for one in pair.metrics}
        size, accuracy = rows.get("size_bytes"), rows.get("accuracy")
        timed = rows.get("latency_ratio")
        cells = [
            Text(_ratio(pair.latency_ratio)),
            Text(fmt.MISSING if size is None else _row(size).ratio),
            Text(fmt.MISSING if accuracy is None else _row(accuracy).ratio),
        ]
        if wide:
            moved = pair.function.get("prediction_disagreement")
            cells.append(Text(fmt.estimate("prediction_disagreement", moved)))
            cells.append(Text(_p(timed.p_adjusted) if timed is not None else ""))
        word = Text(pair.verdict, style=STYLES[pair.verdict])
        grid.add_row(Text(fmt.clean(pair.name)), word, *cells)
    return grid


def _answers(pair: Pair) -> str:
    """How far B's answers lie from A's, in words."""
    found = pair.function
    parts = []
    largest = found.get("largest_answer")
    if "max_abs_difference" in found and found["max_abs_difference"].point == 0:
        return "identical"
    if "max_abs_difference" in found:
        scale = "" if largest is None else f" (largest answer {fmt.number(largest.point)})"
        parts.append(f"max |difference| {fmt.number(found['max_abs_difference'].point)}{scale}")
    if "sqnr_db" in found:
        parts.append(f"SQNR {fmt.estimate('sqnr_db', found['sqnr_db'])}")
    if "prediction_disagreement" in found:
        shown = fmt.estimate("prediction_disagreement", found["prediction_disagreement"])
        parts.append(f"prediction disagreement {shown}")
    return ", ".join(parts)


def _circumstances(comparison: Comparison) -> list[str]:
    target = fmt.plain(comparison.target.get("name"))
    grade = str(comparison.device.get("grade"))
    meaning = GRADES.get(grade, "").partition(":")[0]
    protocol = comparison.protocol
    named = f", protocol {fmt.plain(protocol['name'])}" if "name" in protocol else ""
    batch = f", batch {protocol['batch']}" if protocol.get("batch") else ""
    measured = "valid" if comparison.valid else "NOT VALID"
    lines = [
        f"target {target}, device grade {grade} ({meaning}){named}{batch}, {measured}",
        f"inputs: {fmt.plain(comparison.inputs)}",
    ]
    operators = [
        f"{letter} {_operators(side)}"
        for letter, side in (("A", comparison.a), ("B", comparison.b))
        if side.integer_operators is not None
    ]
    if operators:
        lines.append(f"integer operators: {', '.join(operators)}")
    return lines


def _operators(side: Side) -> str:
    counts: Sequence[tuple[str, int]] = sorted((side.integer_operators or {}).items())
    return " + ".join(f"{count} {fmt.clean(name)}" for name, count in counts) or "none"
