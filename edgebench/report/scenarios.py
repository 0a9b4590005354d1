"""The scenarios' section, as every report shows it: one table a scenario, one row a variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebench.records import Estimate, RunRecord, ScenarioResult
from edgebench.report import format as fmt
from edgebench.report.rows import Cell, ordered

if TYPE_CHECKING:
    from rich.console import RenderableType

MEANINGS = {
    "single-stream": "The next query is asked when the last one is answered.",
    "multi-stream": "Queries of several examples, one after the other; the latency of a whole one.",
    "server": "Queries arrive by chance and wait for one another; latency counts from the arrival.",
    "offline": "All examples are there from the beginning; what counts is how many a second.",
}
HEAD = ("Variant", "Median", "p99", "Median ratio", "p99 ratio", "Examples a second", "To know")
HEAD_OFFLINE = ("Variant", "Examples a second", "Ratio", "To know")


@dataclass(frozen=True)
class Row:
    """One variant under a scenario; `notes` are sentences about it, the gravest first."""

    name: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]
    valid: bool


@dataclass(frozen=True)
class Group:
    """One scenario: `title` its label, `meaning` what it does, `settings` in words."""

    title: str
    meaning: str
    settings: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]


def scenario_groups(run: RunRecord) -> list[Group]:
    """All scenarios of a run, in the protocol's order; empty where there are none."""
    found: dict[str, list[tuple[str, ScenarioResult]]] = {}
    for variant in ordered(run):
        for one in variant.scenarios:
            found.setdefault(one.label, []).append((variant.name, one))
    return [_group(label, members) for label, members in found.items()]


def markdown_lines(
    run: RunRecord,
    table: Callable[[Sequence[str], Sequence[Sequence[str]]], list[str]],
    escape: Callable[[object], str],
) -> list[str]:
    """The section as Markdown; `table` and `escape` are the renderer's."""
    lines: list[str] = []
    for group in scenario_groups(run):
        lines += [
            f"**{escape(group.title)}**: {escape(group.meaning)} {escape(group.settings)}",
            "",
        ]
        body = [
            (
                escape(row.name),
                *(escape(cell.line) for cell in row.cells),
                escape("; ".join(row.notes) or fmt.MISSING),
            )
            for row in group.rows
        ]
        lines += [*table(group.head, body), ""]
    return lines[:-1]


def terminal_table(run: RunRecord, width: int) -> RenderableType | None:
    """One line a scenario and variant for a terminal `width` wide; None where there are none.

    The ratio is that of the medians, offline that of the examples a second.
    """
    from rich.table import Table
    from rich.text import Text

    groups = scenario_groups(run)
    if not groups:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 2 if width >= 100 else 1, 0, 0))
    table.add_column("Scenario", overflow="fold")
    table.add_column("Variant", overflow="fold")
    for head in ("Median", "p99", "Ratio", "Examples"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("Valid")
    for group in groups:
        for row in group.rows:
            if len(row.cells) == len(HEAD) - 2:
                median, tail, ratio, _, rate = row.cells
            else:
                median, tail, (rate, ratio) = Cell(), Cell(), row.cells
            table.add_row(
                Text(group.title),
                Text(row.name),
                *(Text(c.point) for c in (median, tail, ratio, rate)),
                Text("yes" if row.valid else "no", style="" if row.valid else "bold yellow"),
            )
    return table


def doubts(run: RunRecord) -> list[str]:
    """Which scenarios are not valid, and why: one sentence each."""
    return [
        f"{fmt.clean(variant.name)}, scenario {fmt.clean(one.label)}: {_why(one)}"
        for variant in ordered(run)
        for one in variant.scenarios
        if not one.valid
    ]


def _group(label: str, members: list[tuple[str, ScenarioResult]]) -> Group:
    first = members[0][1]
    offline = first.scenario == "offline"
    return Group(
        title=fmt.clean(label),
        meaning=MEANINGS[first.scenario],
        settings=_settings(first),
        head=HEAD_OFFLINE if offline else HEAD,
        rows=tuple(
            Row(
                name=fmt.clean(name),
                cells=_offline_cells(one) if offline else _cells(one),
                notes=tuple(_notes(one)),
                valid=one.valid,
            )
            for name, one in members
        ),
    )


def _cells(one: ScenarioResult) -> tuple[Cell, ...]:
    return (
        _cell("latency_p50_ms", one.metrics.get("p50_ms")),
        _cell("latency_p99_ms", one.metrics.get("p99_ms")),
        _cell("latency_ratio", one.ratios.get("p50")),
        _cell("latency_ratio", one.ratios.get("p99")),
        _cell("throughput_per_s", one.metrics.get("throughput_per_s")),
    )


def _offline_cells(one: ScenarioResult) -> tuple[Cell, ...]:
    return (
        _cell("throughput_per_s", one.metrics.get("throughput_per_s")),
        _cell("latency_ratio", one.ratios.get("throughput")),
    )


def _cell(name: str, estimate: Estimate | None) -> Cell:
    if estimate is None or estimate.point is None:
        return Cell()
    return Cell(*fmt.parts(name, estimate))


def _settings(one: ScenarioResult) -> str:
    """What was asked for, e.g. `Batch 1, 2 s a process at least, 200 queries a second arrive.`"""
    settings = one.settings
    parts = [f"Batch {fmt.plain(settings.get('batch'))}"]
    if settings.get("threads") is not None:
        parts.append(f"{fmt.plain(settings['threads'])} threads")
    if settings.get("samples") is not None:
        parts.append(f"{fmt.plain(settings['samples'])} examples a query")
    parts.append(f"{fmt.plain(settings.get('duration_s'))} s a process at least")
    if settings.get("qps") is not None:
        parts.append(f"{fmt.plain(settings['qps'])} queries a second arrive")
    if settings.get("load") is not None:
        parts.append(f"arrivals are {fmt.plain(settings['load'])} of what each model could serve")
    if one.driver == "loadgen":
        parts.append("driven by MLPerf's LoadGen")
    return f"{', '.join(parts)}."


def _why(one: ScenarioResult) -> str:
    return fmt.plain(one.problem or "; ".join(one.invalid_reasons) or "not valid")


def _notes(one: ScenarioResult) -> list[str]:
    notes = [] if one.valid else [f"not valid: {_why(one)}"]
    if one.target_met is not None:
        notes.append(
            f"99 % within {fmt.point('latency_p99_ms', one.target_latency_ms)}: {one.target_met}"
        )
    if one.offered_qps is not None and "achieved_qps" in one.metrics:
        rate = fmt.point("throughput_per_s", one.metrics["achieved_qps"].point)
        notes.append(f"{fmt.number(one.offered_qps)} /s offered, {rate} answered")
    service = one.metrics.get("service_p99_ms") or one.metrics.get("service_p50_ms")
    if service is not None:
        share = "p99" if "service_p99_ms" in one.metrics else "median"
        notes.append(f"service alone, {share}: {fmt.point('latency_p99_ms', service.point)}")
    ratio = one.ratios.get("throughput" if one.scenario == "offline" else "p50")
    if ratio is not None and ratio.point is None:
        notes.append(f"no ratio: {fmt.plain(ratio.method)}")
    notes += _ended(one)
    if "p99_ms" in one.needed:
        notes.append(f"p99 takes {one.needed['p99_ms']} queries, there were {one.queries}")
    verdicts = _loadgen_verdicts(one)
    if verdicts:
        valid = sum(verdict == "VALID" for verdict in verdicts)
        notes.append(f"LoadGen says VALID in {valid} of {len(verdicts)} processes")
    return notes


def _ended(one: ScenarioResult) -> list[str]:
    """Where a process stopped at the most queries it keeps, before its time was over."""
    runs = [run for run in one.evidence.get("runs", []) if run.get("arm") == 1]
    counts = [run["ended_at"] for run in runs if run.get("ended_at") is not None]
    if not counts:
        return []
    return [f"ended at {max(counts):,} queries in {len(counts)} of {len(runs)} processes"]


def _loadgen_verdicts(one: ScenarioResult) -> list[object]:
    runs = one.evidence.get("runs", [])
    return [
        run["loadgen"].get("validity")
        for run in runs
        if run.get("arm") == 1 and isinstance(run.get("loadgen"), dict)
    ]
