"""Two models, or two runs, side by side: the record of it, and the verdict from what was measured.

`comparison.json` is a `Comparison`. A is what was there before, B what is to take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from edgebench import gate
from edgebench.errors import EXIT_GO, EXIT_INCONCLUSIVE, EXIT_NO_GO
from edgebench.records import ALIASED, Estimate, Record

COMPARISON_SCHEMA: Literal["edgebench.comparison/1"] = "edgebench.comparison/1"

# The chance of any false alarm among the timed metrics of one pair.
ALPHA = 0.05

Word = Literal["SLOWER", "ANOTHER FUNCTION", "INCONCLUSIVE", "NOT SLOWER", "FASTER"]
# Of several pairs the worst decides.
WORST_FIRST: tuple[Word, ...] = (
    "SLOWER",
    "ANOTHER FUNCTION",
    "INCONCLUSIVE",
    "NOT SLOWER",
    "FASTER",
)
EXIT_CODES: dict[Word, int] = {
    "SLOWER": EXIT_NO_GO,
    "ANOTHER FUNCTION": EXIT_NO_GO,
    "INCONCLUSIVE": EXIT_INCONCLUSIVE,
    "NOT SLOWER": EXIT_GO,
    "FASTER": EXIT_GO,
}


class Side(Record):
    """A or B: the name it goes by, and the file or the run it is.

    `integer_operators`: how many operators of each kind computed in integers, null where the
    runtime cannot tell.
    """

    name: str
    path: str
    sha256: str | None = None
    run_id: str | None = None
    integer_operators: dict[str, int] | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)


class ComparedMetric(Record):
    """One metric of A and of B, in its unit, and B over A.

    `p_value`: one-sided, of "B is not above A by more than δ"; `p_adjusted`: by Holm's method,
    over the timed metrics of the pair (of two models) or over the pairs (of two runs).
    """

    metric: str
    a: float | None
    b: float | None
    ratio: Estimate | None = None
    p_value: float | None = None
    p_adjusted: float | None = None


class Pair(Record):
    """Two models set side by side: of two runs, those of one name.

    `latency_ratio`: latency of B over A's, `confirmation` the same in fresh processes, where the
    first look said "slower". `noise_floor`: what A differs by when it is timed against itself, and
    `delta` the larger of that and the user's limit, both shares. `function`: how far B's answers
    lie from A's on the same inputs.
    """

    name: str
    latency_ratio: Estimate | None
    confirmation: Estimate | None = None
    noise_floor: float | None
    delta: float | None
    smallest_detectable_change: float | None = None
    metrics: tuple[ComparedMetric, ...] = ()
    function: dict[str, Estimate] = Field(default_factory=dict)
    verdict: Word
    reasons: tuple[str, ...] = ()


class Comparison(Record):
    """A and B side by side: `comparison.json`."""

    schema_: Literal["edgebench.comparison/1"] = Field(default=COMPARISON_SCHEMA, alias="schema")
    kind: Literal["models", "runs"]
    created: str
    edgebench_version: str
    versions: dict[str, str] = Field(default_factory=dict)
    a: Side
    b: Side
    target: dict[str, Any]
    device: dict[str, Any]
    protocol: dict[str, Any] = Field(default_factory=dict)
    inputs: str
    limit: float
    max_disagreement: float | None = None
    pairs: tuple[Pair, ...]
    valid: bool = True
    invalid_reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: Word
    verdict_text: str
    exit_code: int

    model_config = ALIASED


def judge_latency(
    ratio: Estimate | None,
    *,
    limit: float,
    floor: float,
    p_adjusted: float | None,
    again: Estimate | None,
    confirms: bool,
) -> tuple[Word, str]:
    """The verdict on a latency ratio, B over A, and why.

    Slower is only what also holds after Holm's correction and, where the measurement `confirms`,
    a second time in fresh processes (`again`).
    """
    if ratio is None or ratio.low is None or ratio.high is None:
        why = "" if ratio is None else f" ({ratio.method})"
        return "INCONCLUSIVE", f"the latency ratio has no interval{why}"
    if gate.finite_floor(floor) is None:
        return "INCONCLUSIVE", "A against itself has no interval, so that there is no noise floor"
    delta = max(limit, floor)
    margin = f"1 + δ = {1 + delta:.4f}"
    first = gate.judge_slower(ratio, limit=limit, floor=floor)
    if first == "slower":
        doubt = _doubt(p_adjusted)
        second = None if again is None else gate.judge_slower(again, limit=limit, floor=floor)
        if doubt is None and confirms and second != "slower":
            doubt = (
                "it was not measured again"
                if again is None
                else "fresh processes do not confirm it"
            )
        if doubt is not None:
            return "INCONCLUSIVE", f"the latency ratio is above {margin}, but {doubt}"
        sure = ", and again in fresh processes" if confirms else ""
        return "SLOWER", f"the whole interval of the latency ratio is above {margin}{sure}"
    words: dict[str, tuple[Word, str]] = {
        "faster": ("FASTER", f"the whole interval of the latency ratio is below {1 - delta:.4f}"),
        "not slower": ("NOT SLOWER", f"the whole interval of the latency ratio is below {margin}"),
        "inconclusive": (
            "INCONCLUSIVE",
            f"the interval of the latency ratio reaches across {margin}; a longer protocol "
            "narrows it",
        ),
    }
    return words[first]


def _doubt(p_adjusted: float | None) -> str | None:
    """Why a ratio above the margin may still be chance, among all that was tested."""
    if p_adjusted is not None and p_adjusted <= ALPHA:
        return None
    p = "unknown" if p_adjusted is None else f"{p_adjusted:.3f}"
    return f"that is not sure among all that was tested (p {p} after Holm)"


def judge_function(disagreement: Estimate | None, most: float | None) -> tuple[Word, str] | None:
    """Whether B answers as A does within `most`, the share that may differ; None: nobody asked."""
    if most is None:
        return None
    if disagreement is None or disagreement.low is None or disagreement.high is None:
        return "INCONCLUSIVE", "the prediction disagreement was not measured"
    limit = f"{most:.4g}"
    if disagreement.low > most:
        return "ANOTHER FUNCTION", f"the prediction disagreement is above {limit}"
    if disagreement.high <= most:
        return "NOT SLOWER", f"the prediction disagreement is at most {limit}"
    return (
        "INCONCLUSIVE",
        f"the interval of the prediction disagreement reaches across {limit}; more inputs narrow "
        "it",
    )


def joined(parts: Sequence[tuple[Word, str]]) -> tuple[Word, tuple[str, ...]]:
    """The worst of several verdicts, and the reasons for it; a sound function adds no praise."""
    worst = min((word for word, _ in parts), key=WORST_FIRST.index)
    if worst in {"NOT SLOWER", "FASTER"}:
        return parts[0][0], tuple(why for _, why in parts)
    return worst, tuple(why for word, why in parts if EXIT_CODES[word] != EXIT_GO)


def overall(pairs: Sequence[Pair], a: str, b: str) -> tuple[Word, str, int]:
    """The verdict on all pairs, one sentence, and the exit code."""
    worst = min((pair.verdict for pair in pairs), key=WORST_FIRST.index)
    mine = [pair for pair in pairs if pair.verdict == worst]
    subject = b if len(pairs) == 1 else f"{b}, {', '.join(pair.name for pair in mine)}"
    says = {
        "SLOWER": f"{subject} is slower than {a}.",
        "ANOTHER FUNCTION": f"{subject} is not the same function as {a}, beyond the limit.",
        "INCONCLUSIVE": f"Whether {subject} is slower than {a} cannot be told.",
        "NOT SLOWER": f"{subject} is not slower than {a}.",
        "FASTER": f"{subject} is faster than {a}.",
    }[worst]
    return worst, says, EXIT_CODES[worst]
