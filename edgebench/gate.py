"""Judge: gates and estimates in, verdicts and reasons out. Noise never reads as GO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from edgebench import stats
from edgebench.agent.results import NOT_STEADY
from edgebench.errors import (
    EXIT_FAILED,
    EXIT_GO,
    EXIT_INCONCLUSIVE,
    EXIT_NO_GO,
    EXIT_NOT_MEASURED,
)
from edgebench.metrics.base import METRICS
from edgebench.recipe import Gate
from edgebench.records import Estimate, Reason, Variant, Verdict

Slower = Literal["slower", "not slower", "faster", "inconclusive"]


def judge_gate(gate: Gate, estimate: Estimate | None, *, floor: float = 0.0) -> Reason:
    """One gate's verdict on one estimate.

    GO: the whole interval meets the gate. NO-GO: the whole interval misses it. Else INCONCLUSIVE.
    `floor` is the relative noise floor seen when base is timed against itself: an interval must
    meet or miss a latency gate by more than that.
    """

    def reason(verdict: Verdict, text: str) -> Reason:
        return Reason(gate=gate.describe(), metric=gate.metric, verdict=verdict, text=text)

    if estimate is None:
        why = ""
        if gate.metric == "functional_preservation":
            why = (
                ": it needs an independent control; give ONNX files of networks trained alike as "
                "controls.files, or gate on prediction_disagreement instead"
            )
        return reason("INCONCLUSIVE", f"{gate.metric} was not measured{why}")
    if estimate.point is None and estimate.method.startswith("identical"):
        # The ratio is infinite: it meets any minimum, and no maximum.
        return reason("GO" if gate.max is None else "NO-GO", f"{gate.metric}: {estimate.method}")
    if estimate.point is None or estimate.low is None or estimate.high is None:
        # A server that cannot keep up has a queue that grows for ever: no limit holds for long.
        endless = estimate.method.startswith("cannot keep up")
        verdict: Verdict = "NO-GO" if endless else "INCONCLUSIVE"
        return reason(verdict, f"{gate.metric} has no interval ({estimate.method})")
    shown = _shown(estimate)
    meets, misses = True, False
    if gate.max is not None:
        meets = meets and estimate.high * (1 + floor) <= gate.max
        misses = misses or estimate.low > gate.max * (1 + floor)
    if gate.min is not None:
        meets = meets and estimate.low * (1 - floor) >= gate.min
        misses = misses or estimate.high < gate.min * (1 - floor)
    if meets:
        return reason("GO", f"{gate.metric} = {shown} meets {gate.describe()}")
    if misses:
        return reason("NO-GO", f"{gate.metric} = {shown} misses {gate.describe()}")
    why = "the interval reaches across the limit; more test examples or a longer protocol narrow it"
    if floor and judge_gate(gate, estimate).verdict != "INCONCLUSIVE":
        why = f"the difference is within this device's noise floor of {floor:.1%}"
    return reason("INCONCLUSIVE", f"{gate.metric} = {shown} against {gate.describe()}: {why}")


def noise_floor(base: Variant) -> float:
    """The relative noise floor of a run, from base's latency ratio to itself."""
    return floor_of(base.comparisons.get("latency_ratio"))


def floor_of(to_itself: Estimate | None) -> float:
    """The relative noise floor, from the latency ratio of a model to itself.

    Twice the half width of its interval, or how far the interval reaches from 1 if that is more.
    Infinite where there is no interval: then nothing can be told.
    """
    if to_itself is None or to_itself.low is None or to_itself.high is None or to_itself.low <= 0:
        return math.inf
    return max(2 * relative_half_width(to_itself), to_itself.high - 1, 1 / to_itself.low - 1)


def finite_floor(floor: float) -> float | None:
    """The floor as a record holds it: None where there is none."""
    return floor if math.isfinite(floor) else None


def relative_half_width(ratio: Estimate) -> float:
    """Half the width of a ratio's interval, as a share of the ratio."""
    if ratio.low is None or ratio.high is None or ratio.low <= 0:
        return math.inf
    return math.sqrt(ratio.high / ratio.low) - 1


def smallest_detectable_change(ratio: Estimate, floor: float) -> float | None:
    """The true change of latency that the intervals of four in five repeats would tell.

    Power of 80 % is what a smallest detectable change is usually told for. `floor` plus 3.5 half
    widths of the interval: a repeat draws another floor and another width (floor plus two half
    widths was told by two in three). How often it holds is counted in benchmarks/harness, without
    the correction for several metrics and without a second look. None where there is no interval,
    or no floor.
    """
    least = floor + 3.5 * relative_half_width(ratio)
    return least if math.isfinite(least) else None


def judge_slower(ratio: Estimate, *, limit: float = 0.0, floor: float = 0.0) -> Slower:
    """Whether a latency ratio is a regression.

    With δ the larger of the user's `limit` and the noise floor: "slower" where the whole interval
    lies above 1 + δ, "faster" where it lies below 1 − δ, "not slower" where it lies below 1 + δ,
    else "inconclusive".
    """
    if ratio.low is None or ratio.high is None or not math.isfinite(floor):
        return "inconclusive"
    delta = max(limit, floor)
    if ratio.low > 1 + delta:
        return "slower"
    if ratio.high < 1 - delta:
        return "faster"
    return "not slower" if ratio.high < 1 + delta else "inconclusive"


def judge_variant(variant: Variant, base: Variant, gates: Sequence[Gate]) -> Variant:
    """The variant with one reason a gate and its verdict: the worst of them."""
    if not variant.judged or variant.status != "measured":
        return variant.model_copy(update={"verdict": None, "reasons": ()})
    reasons = [_judge(gate, variant, base) for gate in gates]
    return variant.model_copy(
        update={"verdict": worst([r.verdict for r in reasons]), "reasons": tuple(reasons)}
    )


def _judge(gate: Gate, variant: Variant, base: Variant) -> Reason:
    on_clock = gate.metric.startswith("latency_")
    for whose, one in (("the", variant), ("base's", base)):
        spoilt = _spoilt(one, on_clock=on_clock)
        if spoilt:
            return Reason(
                gate=gate.describe(),
                metric=gate.metric,
                verdict="INCONCLUSIVE",
                text=f"{whose} measurement is not valid: {'; '.join(spoilt)}",
            )
    floor = 0.0
    # Whatever base is measured against itself in has a floor.
    to_itself = base.comparisons.get(gate.metric)
    if to_itself is not None and gate.metric.endswith("_ratio"):
        floor = floor_of(to_itself)
        if not math.isfinite(floor):
            return Reason(
                gate=gate.describe(),
                metric=gate.metric,
                verdict="INCONCLUSIVE",
                text=f"{gate.metric}: base against itself has no interval ({to_itself.method}), "
                "so that there is no noise floor",
            )
    reason = judge_gate(gate, find_estimate(variant, gate.metric), floor=floor)
    if gate.metric != "latency_ratio" or reason.verdict != "NO-GO" or not _confirms(variant):
        return reason
    again = second_look(variant)
    if again is None:
        text = f"{reason.text}, but was not measured again: the run had another limit"
        return reason.model_copy(update={"verdict": "INCONCLUSIVE", "text": text})
    confirmed = judge_gate(gate, again, floor=floor)
    if confirmed.verdict == "NO-GO":
        return reason.model_copy(
            update={"text": f"{reason.text}; confirmed in fresh processes ({_shown(again)})"}
        )
    return reason.model_copy(
        update={
            "verdict": "INCONCLUSIVE",
            "text": f"{reason.text}, but fresh processes do not confirm it ({_shown(again)})",
        }
    )


def _spoilt(variant: Variant, *, on_clock: bool) -> list[str]:
    """Why a measurement does not decide; a clock that was still moving leaves the answers alone."""
    measurement = variant.measurement
    if measurement is None:
        return []
    found = [] if measurement.valid else list(measurement.invalid_reasons)
    moving = [NOT_STEADY] if on_clock and not is_steady(variant) else []
    return [reason for reason in found if reason != NOT_STEADY] + moving


def _confirms(variant: Variant) -> bool:
    """Whether the run promised a second look before it says NO-GO."""
    evidence = variant.measurement.evidence if variant.measurement is not None else {}
    return evidence.get("confirms") is True


def second_look(variant: Variant) -> Estimate | None:
    """The latency ratio of the confirming processes, where there were any."""
    evidence = variant.measurement.evidence if variant.measurement is not None else {}
    found = evidence.get("confirmation")
    ratio = found.get("latency_ratio") if isinstance(found, dict) else None
    return None if ratio is None else Estimate.model_validate(ratio)


def is_steady(variant: Variant) -> bool:
    """Whether a model's latency had settled before it was timed."""
    measurement = variant.measurement
    return measurement is None or measurement.evidence.get("steady") is not False


def find_estimate(variant: Variant, metric: str) -> Estimate | None:
    """A metric of a variant as an estimate: a comparison, an interval, or an exact value.

    A measured value without an interval is given without one, so that no gate takes it for exact.
    """
    if metric in variant.comparisons:
        return variant.comparisons[metric]
    if metric in variant.intervals:
        return variant.intervals[metric]
    value = variant.metrics.get(metric)
    if value is None:
        return None
    if METRICS.get(metric).certainty == "exact":
        return stats.exact(value, 1)
    return Estimate(point=value, low=None, high=None, n=1, method="a single value")


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """NO-GO before INCONCLUSIVE before GO."""
    for verdict in ("NO-GO", "INCONCLUSIVE"):
        if verdict in verdicts:
            return verdict
    return "GO"


def judge_run(
    variants: Sequence[Variant], require: Sequence[str]
) -> tuple[Verdict | None, str, int]:
    """The run's verdict, one sentence, and the exit code.

    Without `require`, one variant that may ship is enough; with it, all the named ones must.
    """
    candidates = [v for v in variants if v.judged]
    chosen = [v for v in candidates if v.name in require] if require else candidates
    judged = [v for v in chosen if v.verdict is not None]
    unjudged = [v for v in chosen if v.verdict is None]
    named = _names(chosen)
    if require and unjudged:
        code = EXIT_FAILED if any(v.status == "failed" for v in unjudged) else EXIT_NOT_MEASURED
        return None, f"No verdict on {_names(unjudged)}: {unjudged[0].problem}", code
    if not judged:
        code = EXIT_FAILED if any(v.status == "failed" for v in chosen) else EXIT_NOT_MEASURED
        return None, f"No variant was measured ({named}).", code
    good = [v for v in judged if v.verdict == "GO"]
    if require:
        verdict = worst([v.verdict for v in judged if v.verdict is not None])
        text = {
            "GO": f"{named} may ship.",
            "NO-GO": f"{_names([v for v in judged if v.verdict == 'NO-GO'])} may not ship.",
            "INCONCLUSIVE": f"{_names([v for v in judged if v.verdict == 'INCONCLUSIVE'])}: "
            "the evidence does not decide.",
        }[verdict]
        return verdict, text, _code(verdict)
    if good:
        return "GO", f"{len(good)} of {len(chosen)} variants may ship: {_names(good)}.", EXIT_GO
    if any(v.verdict == "INCONCLUSIVE" for v in judged):
        return (
            "INCONCLUSIVE",
            f"None of {len(chosen)} variants is shown to meet the gates; on "
            f"{_names([v for v in judged if v.verdict == 'INCONCLUSIVE'])} the evidence does not "
            "decide.",
            EXIT_INCONCLUSIVE,
        )
    return "NO-GO", f"None of {len(chosen)} variants meets the gates.", EXIT_NO_GO


def _code(verdict: Verdict) -> int:
    return {"GO": EXIT_GO, "NO-GO": EXIT_NO_GO, "INCONCLUSIVE": EXIT_INCONCLUSIVE}[verdict]


def _names(variants: Sequence[Variant]) -> str:
    return ", ".join(v.name for v in variants)


def _shown(estimate: Estimate) -> str:
    if estimate.point is None or estimate.low is None or estimate.high is None:
        return estimate.method
    if estimate.low == estimate.high:
        return f"{estimate.point:.4g}"
    return f"{estimate.point:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
