"""What a search tried: the Pareto front as a drawing, and every trial as a row."""

from __future__ import annotations

from dataclasses import dataclass

from edgebench.records import Figure, RunRecord, TriedChain
from edgebench.report import format as fmt
from edgebench.report.curves import figure_svg
from edgebench.report.glossary import words


@dataclass(frozen=True)
class TrialRow:
    """One trial: its number and name, its chain, what it reached, and what became of it."""

    name: str
    chain: str
    values: tuple[str, ...]
    outcome: str
    tone: str


def search_columns(run: RunRecord) -> tuple[str, ...]:
    """The objectives as column titles."""
    return () if run.search is None else tuple(words(n).label for n in run.search.objectives)


def search_rows(run: RunRecord) -> list[TrialRow]:
    """The trials in order; those on the front first."""
    if run.search is None:
        return []
    objectives = run.search.objectives
    ordered = sorted(run.search.trials, key=lambda t: (not t.on_front, t.number))
    return [
        TrialRow(
            fmt.clean(trial.variant or f"trial-{trial.number}"),
            fmt.chain(trial.chain),
            tuple(
                fmt.point(name, trial.metrics[name]) if name in trial.metrics else fmt.MISSING
                for name in objectives
            ),
            _outcome(trial),
            "go" if trial.on_front else "none",
        )
        for trial in ordered
    ]


def search_figure(run: RunRecord) -> str | None:
    """The first two objectives of every trial that was measured, and the front among them."""
    if run.search is None or len(run.search.objectives) < 2:
        return None
    first, second = run.search.objectives[:2]
    groups: dict[str, list[tuple[float, float]]] = {
        "on the front": [],
        "within the limits": [],
        "beyond a limit": [],
    }
    for trial in run.search.trials:
        if first in trial.metrics and second in trial.metrics:
            kind = "within the limits" if trial.within else "beyond a limit"
            place = "on the front" if trial.on_front else kind
            groups[place].append((trial.metrics[first], trial.metrics[second]))
    series = {name: tuple(sorted(points)) for name, points in groups.items() if points}
    return figure_svg(
        Figure(
            title="What the search tried",
            x=words(first).label,
            y=words(second).label,
            kind="scatter",
            series=series,
        ),
        "search",
    )


def _outcome(trial: TriedChain) -> str:
    if trial.problem:
        return fmt.plain(trial.problem)
    if trial.variant:
        return "measured as a variant"
    if trial.on_front:
        return "on the front"
    return "within the limits" if trial.within else "beyond a limit"
