"""The tables of A/A and of power: what edgebench says where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.harness.table import (
    Rate,
    Row,
    Table,
    grouped,
    half_width,
    rate,
    seconds_of,
    trials_of,
)
from edgebench.gate import judge_slower
from edgebench.records import Estimate

POOLED = "all conditions"
_OTHERS = "others: share of the processors' time, median (most); tasks running"


def false_alarm_table(rows: Sequence[Row]) -> Table | None:
    """A/A: how often the same model is called slower than itself."""
    cells = []
    for (subject, profile), mine in grouped(trials_of(rows, "aa"), "subject", "profile").items():
        by_condition = grouped(mine, "condition")
        lines = [(name, [trials]) for (name,), trials in by_condition.items()]
        if len(lines) > 1:
            lines.append((POOLED, list(by_condition.values())))
        cells += [_alarm_line(name, subject, profile, groups) for name, groups in lines]
    if not cells:
        return None
    return Table(
        "A/A: the same model against itself",
        (
            "condition",
            "model",
            "protocol",
            "called slower by the interval alone (false alarms; wanted ≤ 1 %)",
            "called slower by the verdict (wanted ≤ 1 %)",
            "called faster by the interval",
            "95 % interval covers 1 (wanted 93 to 97 %)",
            "a change of the size it promises is found in … of other trials (promised 80 %)",
            "median half width",
            "s a trial, its noise floor's included",
            "not valid or not steady",
            _OTHERS,
        ),
        tuple(cells),
        "Each measurement is base against base, and takes the one before it as its noise floor. "
        "The interval alone also counts where a measurement is not valid or not steady; the "
        "verdict is that of a comparison, for which both must be, Holm's correction holds and, "
        "where the protocol confirms, fresh processes say so too. For the size it promises, each "
        "trial's smallest detectable change is put on the interval of every other trial in the "
        "same condition, which is judged by its own noise floor.",
        about=3,
    )


def _alarm_line(
    name: str, subject: str, profile: str, groups: Sequence[list[Row]]
) -> tuple[str | Rate, ...]:
    """A line on the trials of one condition, or of several."""
    trials = [row for group in groups for row in group]
    ratios = [r["result"]["measured"]["ratio"] for r in trials]
    said = [r["result"]["judged"] for r in trials]
    kept = [promise(group) for group in groups]
    hits, pairs = (sum(column) for column in zip(*kept, strict=True))
    return (
        name,
        subject,
        profile,
        rate((s["by_interval"] == "slower" for s in said), most=0.01),
        rate((s["verdict"] == "SLOWER" for s in said), most=0.01),
        rate(s["by_interval"] == "faster" for s in said),
        rate((x["low"] <= 1 <= x["high"] for x in ratios), least=0.93, most=0.97),
        f"{100 * hits / pairs:.1f} %" if pairs else "–",
        f"{100 * median(half_width(x) for x in ratios):.2f} %",
        _seconds(trials),
        str(sum(not_good(r) for r in trials)),
        _surroundings(trials),
    )


def promise(trials: Sequence[Row]) -> tuple[int, int]:
    """In how many of how many other trials a change of the promised size would be found.

    Each trial's smallest detectable change is put on the interval of each of the others.
    """
    hits = pairs = 0
    known = [
        (Estimate.model_validate(r["result"]["measured"]["ratio"]), r["result"]["judged"])
        for r in trials
    ]
    for index, (_, own) in enumerate(known):
        change = own["smallest_detectable_change"]
        if change is None:
            continue
        for other, (ratio, judged) in enumerate(known):
            if other != index:
                pairs += 1
                hits += judge_slower(_slowed(ratio, change), floor=judged["floor"]) == "slower"
    return hits, pairs


def _slowed(ratio: Estimate, share: float) -> Estimate:
    ends = {
        name: None if value is None else value * (1 + share)
        for name, value in (("point", ratio.point), ("low", ratio.low), ("high", ratio.high))
    }
    return ratio.model_copy(update=ends)


def power_table(rows: Sequence[Row]) -> Table | None:
    """Power: how often a model that is slower by a known share is found."""
    cells: list[tuple[str | Rate, ...]] = []
    for (effect, name, subject, profile), trials in grouped(
        trials_of(rows, "power"), "effect", "condition", "subject", "profile"
    ).items():
        measured = [r["result"]["measured"] for r in trials]
        why = [missed(r) for r in trials]
        cells.append(
            (
                f"{100 * effect:g} %",
                name,
                subject,
                profile,
                rate((w is None for w in why), least=0.95),
                " / ".join(str(why.count(each)) for each in WHY_MISSED),
                f"{100 * (median(m['ratio']['point'] for m in measured) - 1):+.2f} %",
                f"{100 * median(half_width(m['ratio']) for m in measured):.2f} %",
                f"{100 * median(r['result']['judged']['floor'] for r in trials):.2f} %",
                _seconds(trials),
                f"{median(r['result']['floor']['seconds'] for r in trials):.1f}; "
                f"{median(m['second_look_s'] for m in measured):.1f}",
                f"{median(m['processes'] for m in measured):g}",
                _surroundings(trials),
            )
        )
    if not cells:
        return None
    return Table(
        "Power: the second model made slower by a spin in the timed call",
        (
            "true change",
            "condition",
            "model",
            "protocol",
            "found (wanted ≥ 95 %)",
            f"not found: {' / '.join(WHY_MISSED)}",
            "median of what was measured",
            "median half width",
            "median noise floor",
            "s a trial in all: median (most) (wanted ≤ 30 at 3 %)",
            "of these the noise floor's; the second look's",
            "processes, second look included",
            _OTHERS,
        ),
        tuple(cells),
        "Found: a comparison's verdict is “slower”, for which both measurements must be valid and "
        "steady, Holm's correction must hold, and fresh processes must say so too. Each trial has "
        "a noise floor of its own: base against base, in the same condition.",
        about=4,
    )


WHY_MISSED = ("not valid", "interval", "second look")


def missed(row: Row) -> str | None:
    """Why a change was not found: one of WHY_MISSED; None: it was."""
    judged = row["result"]["judged"]
    if judged["verdict"] == "SLOWER":
        return None
    if not_good(row):
        return "not valid"
    return "interval" if judged["by_interval"] != "slower" else "second look"


def not_good(row: Row) -> bool:
    """Whether edgebench would not let this trial fail a model."""
    both = (row["result"]["measured"], row["result"]["floor"])
    return not all(one["valid"] and one["steady"] for one in both)


def _seconds(trials: Sequence[Row]) -> str:
    seconds = [seconds_of(r) for r in trials]
    return f"{median(seconds):.1f} ({max(seconds):.1f})"


def _surroundings(trials: Sequence[Row]) -> str:
    """What else the machine did, by which a trial is known that something disturbed."""
    measured: list[dict[str, Any]] = [r["result"]["measured"] for r in trials]
    shares = [100 * m["others_share"] for m in measured if m["others_share"] is not None]
    told = f"{median(shares):.0f} % ({max(shares):.0f} %)" if shares else "unknown"
    return f"{told}; {median(m['runnable'] for m in measured):g}"
