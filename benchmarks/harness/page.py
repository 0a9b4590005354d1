"""Writes the page of the proof, README.md with its figures, from the log's rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.noise import CONDITIONS
from benchmarks.harness.others import title
from benchmarks.harness.rule_tables import OURS
from benchmarks.harness.summary import tables
from benchmarks.harness.table import Row, Table, grouped, trials_of
from edgebench.report.svg import (
    FONT_SIZE,
    INK,
    MUTED,
    TONE_COLOURS,
    new_figure,
    quiet_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 860.0
_ROW = 26.0
# A dot beyond this is drawn at the edge.
_REACH = 0.25
_OURS_COLOUR, _OTHER_COLOUR = TONE_COLOURS["go"], TONE_COLOURS["no-go"]


def write(rows: Sequence[Row], folder: Path) -> Path:
    """Write README.md and its figures into `folder`; gives the page."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for name, caption, figure in (
        (
            "rules.svg",
            "What each rule says of the same model against itself: every dot is one A/A trial, "
            "and 0 % is right. Beside it the standard deviation.",
            rule_figure(rows),
        ),
        (
            "intervals.svg",
            "edgebench's 95 % intervals of all A/A trials, sorted; the red ones do not cover 0 %.",
            interval_figure(rows),
        ),
    ):
        if figure is not None:
            save(figure, folder / name)
            figures.append(f"![{caption}]({name})\n\n{caption}")
    page = folder / "README.md"
    page.write_text(markdown(rows, figures), encoding="utf-8")
    return page


def markdown(rows: Sequence[Row], figures: Sequence[str]) -> str:
    """The page's text."""
    parts = [
        "# Can the latencies be trusted?",
        "Experiments with a known answer, run by the real agent in real processes; how each is "
        "made is told in `benchmarks/harness/README.md`. Shares have exact (Clopper-Pearson) 95 % "
        "intervals.",
        _origin(rows),
    ]
    parts += [_markdown_table(table) for table in tables(rows)]
    parts += figures
    conditions = {row["condition"] for row in rows if "condition" in row}
    if conditions:
        listed = [f"- **{n}**: {text}" for n, text in CONDITIONS.items() if n in conditions]
        parts.append("## Conditions\n\n" + "\n".join(listed))
    problems = _problems(rows)
    if problems:
        parts.append("## What failed\n\n" + "\n".join(problems))
    return "\n\n".join(parts) + "\n"


def _origin(rows: Sequence[Row]) -> str:
    """Commands, dates, machines, versions."""
    # The same command with more trials goes on with the same log: the last one stands for all.
    commands = list(
        {re.sub(r" --trials \d+", "", row["command"]): row["command"] for row in rows}.values()
    )
    machines = {
        row["machine"]["fingerprint"]: row["machine"] for row in rows if row["machine"] is not None
    }
    versions = list(
        dict.fromkeys(", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows)
    )
    dates = sorted(row["date"] for row in rows)
    lines = ["| | |", "|---|---|"]
    lines.append(f"| run by | {'<br>'.join(f'`{c}`' for c in commands)} |")
    lines.append(f"| from | {dates[0]} to {dates[-1]} |")
    lines.append(f"| machine | {'<br>'.join(_cell(_machine(m)) for m in machines.values())} |")
    lines.append(f"| versions | {'<br>'.join(versions)} |")
    counts = [
        f"{len(trials)} {experiment}"
        for experiment in ("aa", "power", "truth", "omission")
        if (trials := trials_of(rows, experiment))
    ]
    lines.append(f"| trials | {', '.join(counts) or 'none yet'} |")
    return "\n".join(lines)


def _machine(machine: dict[str, Any]) -> str:
    memory = machine.get("memory_mib")
    size = f", {memory / 1024:.0f} GiB" if memory else ""
    reasons = "; ".join(machine["grade_reasons"])
    name = machine.get("cpu_model") or machine.get("machine")
    return f"{name}, {machine.get('cores')} cores{size}, grade {machine['grade']}" + (
        f" ({reasons})" if reasons else ""
    )


def _markdown_table(table: Table) -> str:
    lines = [f"## {table.heading}", "", f"| {' | '.join(table.columns)} |"]
    lines.append("|" + "---|" * len(table.columns))
    lines += [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in table.cells]
    return "\n".join([*lines, "", table.note])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _problems(rows: Sequence[Row]) -> list[str]:
    counts: dict[str, int] = {}
    for row in rows:
        result = row["result"]
        named = [result["problem"]] if "problem" in result else []
        named += [
            f"{rule}: {r['problem']}"
            for rule, r in (result.get("others") or {}).items()
            if "problem" in r
        ]
        for problem in named:
            counts[problem] = counts.get(problem, 0) + 1
    return [f"- {problem} ({count} times)" for problem, count in counts.items()]


def rule_figure(rows: Sequence[Row]) -> Figure | None:
    """Each rule's ratio in A/A trials, a row a rule, a panel a condition."""
    panels = [(name, found) for name in CONDITIONS if (found := spread_of_rules(rows, name))]
    if not panels:
        return None
    rules = list(dict.fromkeys(rule for _, found in panels for rule in found))
    left, gap, top, bottom = 165.0, 16.0, 28.0, 40.0
    height = top + bottom + _ROW * len(rules)
    width = (_WIDTH - left - gap * len(panels)) / len(panels)
    figure = new_figure(_WIDTH, height)
    most = max(abs(math.log(v)) for _, found in panels for vs in found.values() for v in vs)
    reach = 100 * min(_REACH, max(1.2 * most, 0.02))
    jitter = np.random.default_rng(0)
    for number, (name, found) in enumerate(panels):
        x = left + number * (width + gap)
        axes = figure.add_axes(
            (x / _WIDTH, bottom / height, width / _WIDTH, _ROW * len(rules) / height)
        )
        quiet_axes(axes, grid="x")
        axes.set_title(name, fontsize=FONT_SIZE, color=INK, loc="left")
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, rule in enumerate(rules):
            values = found.get(rule, [])
            colour = _OURS_COLOUR if rule == OURS else _OTHER_COLOUR
            shown = np.clip([100 * (v - 1) for v in values], -reach, reach)
            heights = y + jitter.uniform(-0.24, 0.24, len(values))
            axes.plot(shown, heights, "o", color=colour, markersize=3.5, alpha=0.6, mew=0)
            if len(values) > 1:
                axes.annotate(
                    f"{100 * deviation(values):.1f} %",
                    (1, y),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="center",
                    fontsize=FONT_SIZE - 1,
                    color=MUTED,
                )
        # Room for the deviations, on the right.
        axes.set_xlim(-1.05 * reach, 1.7 * reach)
        axes.set_xticks([-step, 0, step] if (step := _round(0.8 * reach)) else [0])
        axes.set_ylim(len(rules) - 0.5, -0.5)
        # A name with options takes two lines.
        named = [title(rule).replace(" -", "\n-", 1) if number == 0 else "" for rule in rules]
        axes.set_yticks(range(len(rules)), labels=named)
        axes.set_xlabel("seen change, %", color=MUTED, fontsize=FONT_SIZE)
    return figure


def spread_of_rules(rows: Sequence[Row], name: str) -> dict[str, list[float]]:
    """Of each rule the ratios it saw in the A/A trials of a condition; all should be 1."""
    found: dict[str, list[float]] = {OURS: []}
    for row in trials_of(rows, "aa"):
        if row["condition"] == name and row["result"].get("others"):
            found[OURS].append(row["result"]["measured"]["ratio"]["point"])
            for rule, result in row["result"]["others"].items():
                if "ratio" in result:
                    found.setdefault(rule, []).append(result["ratio"])
    return {rule: values for rule, values in found.items() if values}


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of the logarithms of ratios."""
    return float(np.log(values).std(ddof=1)) if len(values) > 1 else 0.0


def interval_figure(rows: Sequence[Row]) -> Figure | None:
    """All A/A intervals, sorted by their middle, a panel a condition and model."""
    groups = list(grouped(trials_of(rows, "aa"), "condition", "subject", "profile").items())
    if not groups:
        return None
    left, gap, top, bottom = 52.0, 40.0, 28.0, 34.0
    height = 260.0
    width = (_WIDTH - left - 10 - gap * (len(groups) - 1)) / len(groups)
    figure = new_figure(_WIDTH, height)
    for number, ((name, subject, profile), trials) in enumerate(groups):
        x = left + number * (width + gap)
        axes = figure.add_axes(
            (x / _WIDTH, bottom / height, width / _WIDTH, (height - top - bottom) / height)
        )
        quiet_axes(axes, grid="y")
        axes.set_title(f"{name}, {subject}, {profile}", fontsize=FONT_SIZE, color=INK, loc="left")
        _caterpillar(axes, [r["result"]["measured"]["ratio"] for r in trials])
    most = max(max(abs(end) for end in axes.get_ylim()) for axes in figure.axes)
    for axes in figure.axes:
        axes.set_ylim(-most, most)
    figure.axes[0].set_ylabel("seen change, %", color=MUTED, fontsize=FONT_SIZE)
    return figure


def _caterpillar(axes: Axes, ratios: Sequence[dict[str, float]]) -> None:
    ordered = sorted(ratios, key=lambda ratio: ratio["point"])
    axes.axhline(0, color=INK, linewidth=0.8)
    thick = max(0.8, min(3.0, 150 / len(ordered)))
    for place, ratio in enumerate(ordered):
        covers = ratio["low"] <= 1 <= ratio["high"]
        low, high = (100 * (ratio[end] - 1) for end in ("low", "high"))
        axes.plot(
            [place, place],
            [low, high],
            color="#7fb8a4" if covers else _OTHER_COLOUR,
            linewidth=thick,
            zorder=2 if covers else 3,
        )
    axes.set_xlim(-1, len(ordered))
    axes.set_xlabel(f"{len(ordered)} trials, sorted", color=MUTED, fontsize=FONT_SIZE)
    axes.set_xticks([])


def _round(value: float) -> float:
    """The largest of 1, 2, 5, 10, 20 … below it."""
    scale = 10.0 ** math.floor(math.log10(value))
    return max(m * scale for m in (1, 2, 5) if m * scale <= value)


def save(figure: Figure, path: Path) -> None:
    """As an SVG file whose bytes depend on the figure alone."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, facecolor="white", metadata={"Date": None})
