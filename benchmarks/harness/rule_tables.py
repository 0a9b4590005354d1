"""Side by side: edgebench and the rules of other tools in the same trials."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.harness.others import LIMITS, says_slower, title
from benchmarks.harness.table import Rate, Row, Table, grouped, rate, seconds_of, trials_of

OURS = "edgebench"


def rule_tables(rows: Sequence[Row]) -> list[Table]:
    """In the trials in which the others' rules ran too, who was wrong how often."""
    both = [
        r for r in (*trials_of(rows, "aa"), *trials_of(rows, "power")) if r["result"].get("others")
    ]
    return [
        _rule_table(subject, profile, effect, mine)
        for (subject, profile, effect), mine in grouped(
            both, "subject", "profile", "effect"
        ).items()
    ]


def _rule_table(subject: str, profile: str, effect: float | None, mine: list[Row]) -> Table:
    """One effect (None: A/A) in one profile, a pair of columns a condition."""
    by_condition = grouped(mine, "condition")
    cells = []
    for rule, limit in _rules(mine):
        line: list[str | Rate] = []
        for trials in by_condition.values():
            wrong, seconds = _wrong(trials, rule, limit)
            line += [wrong, f"{median(seconds):.1f}" if seconds else "–"]
        cells.append((title(rule, limit), *line))
    what = "False alarms" if effect is None else f"Misses of {100 * effect:g} %"
    columns = [(f"wrong, {name}", f"s, {name}") for (name,) in by_condition]
    return Table(
        f"{what} side by side with the rules others use: {subject}, {profile}",
        ("rule", *(column for pair in columns for column in pair)),
        tuple(cells),
        "The same trials for all rules, the slow ones in fewer of them; s: median seconds a trial, "
        "of edgebench with its noise floor's and its second look's, of the others for both models, "
        "one after the other. edgebench counts by its verdict. A limit stands beside a rule; a "
        "change below it is missed by intention, and the lower limit pays for finding it with "
        "false alarms.",
        about=1,
    )


def _rules(rows: Sequence[Row]) -> list[tuple[str, int | None]]:
    """edgebench, and each rule of others, with each limit; pyperf's own test also without."""
    rules: list[tuple[str, int | None]] = [(OURS, None)]
    for name in dict.fromkeys(name for r in rows for name in r["result"]["others"]):
        rules += [(name, None)] if name == "pyperf" else []
        rules += [(name, limit) for limit in LIMITS]
    return rules


def _wrong(trials: Sequence[Row], rule: str, limit: int | None) -> tuple[Rate, list[float]]:
    """How often a rule was wrong, and its seconds in each trial in which it gave an answer."""
    wrong, seconds = [], []
    for row in trials:
        result = row["result"]
        if rule == OURS:
            slower, took = result["judged"]["verdict"] == "SLOWER", seconds_of(row)
        else:
            other = result["others"].get(rule, {"problem": "not run"})
            answer = says_slower(other, limit)
            if answer is None:
                continue
            slower, took = answer, other["seconds"]
        wrong.append(slower if row["experiment"] == "aa" else not slower)
        seconds.append(took)
    return rate(wrong), seconds
