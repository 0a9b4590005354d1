"""From the trials to tables: pure functions of the log's rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.harness.rule_tables import rule_tables
from benchmarks.harness.table import Row, Table, grouped, trials_of
from benchmarks.harness.verdict_tables import false_alarm_table, power_table


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


def truth_table(rows: Sequence[Row]) -> Table | None:
    """Truth: the agent's median beside those of bare loops."""
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
                f"{median(r['reported_us'] for r in results):.2f}",
                f"{100 * (median(points) - 1):+.2f} %",
                f"{100 * max(abs(p - 1) for p in points):.2f} %",
                f"{median(added):+.2f} ({max(added):+.2f})",
                f"{median(r['run_us'] for r in results):.2f}",
                f"{median(r['over_run_us']['point'] for r in results):+.2f}",
                f"{median(r['between_us']['point'] for r in results):.2f}",
            )
        )
    if not cells:
        return None
    return Table(
        "Truth: the agent's median beside bare loops on the same session",
        (
            "model",
            "protocol",
            "runs",
            "bare loop of run_with_iobinding, µs",
            "agent's blocks, µs",
            "p50 as reported, µs",
            "median difference (wanted within ± 2 %)",
            "largest difference",
            "added to a call, µs: median (most) (wanted ≤ 2)",
            "loop of session.run, µs",
            "agent over session.run, µs",
            "spent between calls, µs",
        ),
        tuple(cells),
        "In the agent's own worker the bare loops take turns with each of its blocks. The first "
        "calls the session's own run_with_iobinding on the buffers the agent has bound, so that "
        "the difference is what the agent adds; the second calls session.run with a dictionary, as "
        "most programs do. Between the timed spans the agent writes the next input, which it does "
        "not report. What is added to calls of milliseconds is less than can be told from the "
        "machine's noise.",
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
