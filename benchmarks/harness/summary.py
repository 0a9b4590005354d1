"""From the trials to tables: pure functions of the log's rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.harness.others import LIMITS, says_slower

Row = dict[str, Any]
OURS = "edgebench"


@dataclass(frozen=True)
class Rate:
    """`hits` of `n`, with the exact binomial 95 % interval of the true share.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Its low and high end; 0 and 1 where nothing was tried."""
        if self.n == 0:
            return 0.0, 1.0
        from scipy.stats import binomtest

        found = binomtest(self.hits, self.n).proportion_ci(0.95, method="exact")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if self.n == 0:
            return "–"
        low, high = self.interval
        share = 100 * self.hits / self.n
        return f"{share:.1f} % ({self.hits} of {self.n}; {100 * low:.1f} to {100 * high:.1f})"

    @property
    def short(self) -> str:
        """The share alone."""
        return f"{100 * self.hits / self.n:.0f} %" if self.n else "–"


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, the cells as text, and what a reader must know."""

    heading: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str | Rate, ...], ...]
    note: str
    # How many of the first columns say what a line is about.
    about: int


def rate(flags: Iterable[bool]) -> Rate:
    """How many of them are true."""
    known = list(flags)
    return Rate(sum(known), len(known))


def tables(rows: Sequence[Row]) -> list[Table]:
    """All tables there are trials for."""
    made = [
        false_alarm_table(rows),
        power_table(rows),
        *rule_tables(rows),
        truth_table(rows),
        omission_table(rows),
    ]
    return [table for table in made if table is not None]


def trials_of(rows: Sequence[Row], experiment: str) -> list[Row]:
    """The finished trials of an experiment; a measurement that only served as a floor is none."""
    marks = {"aa": "judged", "power": "judged", "truth": "ratio", "omission": "server"}
    mark = marks[experiment]
    return [r for r in rows if r["experiment"] == experiment and mark in r["result"]]


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of some settings, in the order in which these first came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    return groups


def false_alarm_table(rows: Sequence[Row]) -> Table | None:
    """A/A: how often the same model is called slower than itself."""
    cells = []
    for (name, subject, profile), trials in grouped(
        trials_of(rows, "aa"), "condition", "subject", "profile"
    ).items():
        ratios = [r["result"]["measured"]["ratio"] for r in trials]
        words = [r["result"]["judged"]["by_interval"] for r in trials]
        cells.append(
            (
                name,
                subject,
                profile,
                rate(w == "slower" for w in words),
                rate(w == "faster" for w in words),
                rate(x["low"] <= 1 <= x["high"] for x in ratios),
                f"{100 * median(half_width(x) for x in ratios):.2f} %",
                f"{median(r['result']['measured']['seconds'] for r in trials):.1f}",
                str(sum(not_good(r) for r in trials)),
            )
        )
    if not cells:
        return None
    return Table(
        "A/A: the same model against itself",
        (
            "condition",
            "model",
            "protocol",
            "called slower (false alarms; wanted ≤ 1 %)",
            "called faster",
            "95 % interval covers 1 (wanted 93 to 97 %)",
            "median half width",
            "s a measurement",
            "not valid or not steady",
        ),
        tuple(cells),
        "The interval alone decides here, also in a measurement that edgebench would not let "
        "decide because it is not valid or not steady. Each measurement is base against base, and "
        "takes the one before it as its noise floor.",
        about=3,
    )


def power_table(rows: Sequence[Row]) -> Table | None:
    """Power: how often a model that is slower by a known share is found."""
    cells = []
    for (effect, name, subject, profile), trials in grouped(
        trials_of(rows, "power"), "effect", "condition", "subject", "profile"
    ).items():
        measured = [r["result"]["measured"] for r in trials]
        seconds = [m["seconds"] for m in measured]
        cells.append(
            (
                f"{100 * effect:g} %",
                name,
                subject,
                profile,
                rate(r["result"]["judged"]["verdict"] == "slower" for r in trials),
                f"{100 * (median(m['ratio']['point'] for m in measured) - 1):+.2f} %",
                f"{100 * median(half_width(m['ratio']) for m in measured):.2f} %",
                f"{100 * median(r['result']['judged']['floor'] for r in trials):.2f} %",
                f"{median(seconds):.1f} ({max(seconds):.1f})",
                f"{median(m['processes'] for m in measured):g}",
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
            "median of what was measured",
            "median half width",
            "median noise floor",
            "s a trial: median (most)",
            "processes",
        ),
        tuple(cells),
        "Found: edgebench's verdict is “slower”, for which the measurement must be valid and "
        "steady too. The noise floor is base against base in the same condition; one serves up to "
        "five trials, and its time is not in a trial's.",
        about=4,
    )


def rule_tables(rows: Sequence[Row]) -> list[Table]:
    """Side by side: in the trials in which the others' rules ran too, who was wrong how often."""
    found = []
    for (subject,), mine in grouped(
        [
            r
            for r in (*trials_of(rows, "aa"), *trials_of(rows, "power"))
            if r["result"].get("others")
        ],
        "subject",
    ).items():
        cases = list(
            dict.fromkeys((r["experiment"], r.get("effect"), r["condition"]) for r in mine)
        )
        cells: list[tuple[str | Rate, ...]] = []
        for rule, limit in _rules(mine):
            line: list[str | Rate] = []
            seconds: list[float] = []
            for case in cases:
                said = []
                for r in mine:
                    if (r["experiment"], r.get("effect"), r["condition"]) != case:
                        continue
                    slower, took = _said(r, rule, limit)
                    if slower is not None:
                        said.append(slower if case[0] == "aa" else not slower)
                        seconds.append(took)
                line.append(rate(said))
            test = "" if limit is None else f" >{limit}%"
            cells.append((f"{rule}{test}", *line, f"{median(seconds):.1f}" if seconds else "–"))
        found.append(
            Table(
                f"Side by side with the rules others use, {subject}",
                ("rule", *(_case(effect, name) for _, effect, name in cases), "s a trial"),
                tuple(cells),
                "False alarms of A/A trials and misses of power trials, in the same trials for all "
                "rules. A limit stands beside a rule that has no test of its own; a change "
                "below it is missed by intention, and the lower limit pays for finding it with "
                "false alarms. Times are for both models, one after the other.",
                about=1,
            )
        )
    return found


def _case(effect: float | None, name: str) -> str:
    if effect is None:
        return f"false alarms, {name}"
    return f"misses of {100 * effect:g}%, {name}"


def _rules(rows: Sequence[Row]) -> list[tuple[str, int | None]]:
    """edgebench, and each rule of others, with each limit where it has no test of its own."""
    names = list(dict.fromkeys(name for r in rows for name in r["result"]["others"]))
    rules: list[tuple[str, int | None]] = [(OURS, None)]
    for name in names:
        rules += [(name, None)] if name == "pyperf" else [(name, limit) for limit in LIMITS]
    return rules


def _said(row: Row, rule: str, limit: int | None) -> tuple[bool | None, float]:
    result = row["result"]
    if rule == OURS:
        word = "by_interval" if row["experiment"] == "aa" else "verdict"
        return result["judged"][word] == "slower", result["measured"]["seconds"]
    other = result["others"].get(rule, {"problem": "not run", "seconds": math.nan})
    return says_slower(other, limit or 0), other["seconds"]


def truth_table(rows: Sequence[Row]) -> Table | None:
    """Truth: the agent's median beside a bare loop's."""
    cells = []
    for (subject, profile), trials in grouped(
        trials_of(rows, "truth"), "subject", "profile"
    ).items():
        results = [r["result"] for r in trials]
        points = [r["ratio"]["point"] for r in results]
        added = [r["added_us"]["point"] for r in results]
        cells.append(
            (
                subject,
                profile,
                str(len(trials)),
                f"{median(r['bare_us'] for r in results):.2f}",
                f"{median(r['agent_us'] for r in results):.2f}",
                f"{100 * (median(points) - 1):+.2f} %",
                f"{100 * max(abs(p - 1) for p in points):.2f} %",
                f"{median(added):+.2f}",
                f"{median(r['between_us']['point'] for r in results):.2f}",
            )
        )
    if not cells:
        return None
    return Table(
        "Truth: the agent's median beside a bare loop on the same session",
        (
            "model",
            "protocol",
            "runs",
            "bare loop, µs",
            "agent reports, µs",
            "median difference (wanted within ± 2 %)",
            "largest difference",
            "added to a call, µs (wanted ≤ 2)",
            "spent between calls, µs",
        ),
        tuple(cells),
        "In the agent's own worker, a bare loop takes turns with each of its blocks. Between "
        "the timed spans the agent writes the next input, which it does not report. What is added "
        "to calls of milliseconds is less than can be told from the machine's noise.",
        about=2,
    )


def omission_table(rows: Sequence[Row]) -> Table | None:
    """Coordinated omission: what each scenario sees of a stall every second."""
    cells = []
    for (subject,), trials in grouped(trials_of(rows, "omission"), "subject").items():
        for arm, label in (("model", "stalls 100 ms once a second"), ("base", "does not stall")):
            for scenario in ("single-stream", "server"):
                found = [r["result"][scenario][arm] for r in trials]
                cells.append(
                    (
                        subject,
                        label,
                        scenario,
                        *(_ms([f[q] for f in found]) for q in ("p50_ms", "p99_ms")),
                        f"{100 * median(f['late_share'] for f in found):.1f} %",
                        f"{median(f['queries'] for f in found):.0f}",
                    )
                )
    if not cells:
        return None
    return Table(
        "Coordinated omission: who notices a runtime that stalls",
        ("model", "runtime", "scenario", "p50, ms", "p99, ms", "queries over 50 ms", "queries"),
        tuple(cells),
        "A closed loop asks the next query only when the last one is answered, so a stall hits one "
        "of them; at a server queries go on arriving, and their latency counts from then.",
        about=3,
    )


def _ms(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return f"{median(known):.3g}" if known else "–"


def half_width(ratio: dict[str, Any]) -> float:
    """Half the width of a ratio's interval, relative to it."""
    return math.sqrt(ratio["high"] / ratio["low"]) - 1


def not_good(row: Row) -> bool:
    """Whether edgebench would not let this measurement fail a model."""
    measured = row["result"]["measured"]
    return not (measured["valid"] and measured["steady"])
