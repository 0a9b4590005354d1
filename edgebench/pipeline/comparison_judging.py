"""From what the target returned of two models to their comparison: nothing here times anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import __version__, compare, gate, stats
from edgebench.comparison import (
    ComparedMetric,
    Comparison,
    Pair,
    Side,
    Word,
    joined,
    judge_function,
    judge_latency,
    overall,
)
from edgebench.errors import NotMeasuredError, one_line
from edgebench.metrics.base import METRICS, Context, Outputs
from edgebench.multiplicity import holm, p_above, unpaired_ratio
from edgebench.pipeline.comparison_bundle import NAMES, Question
from edgebench.pipeline.comparison_inputs import Inputs
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.results import (
    AgentResult,
    read_device,
    read_outputs,
    read_result,
    read_samples,
)
from edgebench.pipeline.versions import package_versions
from edgebench.records import Estimate
from edgebench.store import read_json

COLD = ("load_ms", "first_inference_ms", "peak_memory_mib")
TAILS = ("latency_p90_ms", "latency_p99_ms")


@dataclass(frozen=True)
class _Measured:
    """One model as it came back from the target."""

    result: AgentResult
    samples: compare.Samples
    answers: NDArray[np.float32]
    bytes: int

    def cold(self, name: str) -> NDArray[np.float64]:
        return np.array([getattr(one, name) for one in self.result.cold], dtype=np.float64)


def judge_models(
    question: Question, folder: RunFolder, inputs: Inputs, *, classes: bool
) -> Comparison:
    """The comparison of two models whose results lie in `folder`; raises NotMeasuredError."""
    device = read_device(folder.results / "device.json")
    manifest = read_json(folder.bundle / "manifest.json")
    assert isinstance(manifest, dict)  # noqa: S101 - written by `write_comparison_bundle`
    files = dict(zip(NAMES, (question.a, question.b), strict=True))
    a, b = (_read(folder, name, files[name], manifest, device["fingerprint"]) for name in NAMES)
    # Both names end up in one sentence; where they are alike, the folders tell them apart.
    labels = [path.name for path in files.values()]
    if labels[0] == labels[1]:
        labels = [str(path) for path in files.values()]
    invalid = tuple(
        f"{label}: {reason}"
        for label, one in zip(labels, (a, b), strict=True)
        for reason in one.result.invalid_reasons
    )
    pair, warnings = _pair(question, a, b, labels, invalid, classes=classes)
    verdict, text, code = overall([pair], labels[0], labels[1])
    if inputs.random:
        warnings.insert(
            0,
            "the inputs are random: the latencies stand, but how far the answers moved says little "
            "(a quantized model may be outside its calibrated range here); name real ones: --data",
        )
    return Comparison(
        kind="models",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgebench_version=__version__,
        versions=package_versions(),
        a=_side(labels[0], question.a, a, manifest["models"][0]),
        b=_side(labels[1], question.b, b, manifest["models"][1]),
        target=question.target.model_dump(mode="json"),
        device=device,
        protocol=manifest["protocol"],
        inputs=inputs.words,
        limit=question.limit,
        max_disagreement=question.max_disagreement,
        pairs=(pair,),
        valid=not invalid,
        invalid_reasons=invalid,
        warnings=tuple(warnings),
        verdict=verdict,
        verdict_text=text,
        exit_code=code,
    )


def _pair(
    question: Question,
    a: _Measured,
    b: _Measured,
    labels: Sequence[str],
    invalid: Sequence[str],
    *,
    classes: bool,
) -> tuple[Pair, list[str]]:
    """The one pair of two models, and what a reader has to know."""
    protocol = question.protocol.model_dump()
    to_itself, ratio = (compare.latency_ratio(one.samples, protocol=protocol) for one in (a, b))
    floor = gate.floor_of(to_itself)
    delta = max(question.limit, floor)
    metrics = _metrics(a, b, ratio, float(np.log1p(delta)))
    function, warnings = _function(a, b, question.seed, classes=classes)
    again = compare.confirmation(b.samples, protocol=protocol)
    parts: list[tuple[Word, str]] = []
    moving = [
        label
        for label, one in zip(labels, (a, b), strict=True)
        if one.result.evidence.get("steady") is False
    ]
    if invalid:
        parts.append(("INCONCLUSIVE", f"the measurement is not valid: {'; '.join(invalid)}"))
    elif moving:
        parts.append(
            (
                "INCONCLUSIVE",
                f"the latency of {' and '.join(moving)} was still moving when the warm-up's time "
                "was over; raise protocol.warmup_cap_s",
            )
        )
    else:
        parts.append(
            judge_latency(
                ratio,
                limit=question.limit,
                floor=floor,
                p_adjusted=metrics[0].p_adjusted,
                again=again,
                confirms=True,
            )
        )
    same = judge_function(function.get("prediction_disagreement"), question.max_disagreement)
    if same is not None:
        parts.append(same)
    verdict, reasons = joined(parts)
    pair = Pair(
        name=f"{labels[1]} against {labels[0]}",
        latency_ratio=ratio,
        confirmation=again,
        noise_floor=gate.finite_floor(floor),
        delta=gate.finite_floor(delta),
        smallest_detectable_change=gate.smallest_detectable_change(ratio, delta),
        metrics=metrics,
        function=function,
        verdict=verdict,
        reasons=reasons,
    )
    return pair, warnings


def _metrics(
    a: _Measured, b: _Measured, ratio: Estimate, margin: float
) -> tuple[ComparedMetric, ...]:
    """The timed metrics, the paired median first, with Holm's correction over them; then sizes.

    Only the latencies of the pairs were interleaved. Loading and memory are those of whole
    processes, A's before B's, in geometric means; a machine that drifts shows in them, so they are
    told and do not decide.
    """
    base_ns, variant_ns, process = b.samples.paired_medians()
    logs = stats.by_process(np.log(variant_ns / base_ns), process) if len(process) else np.empty(0)
    own = [compare.latency_metrics(one.samples)[0] for one in (a, b)]
    timed = [
        ComparedMetric(
            metric="latency_p50_ms",
            a=own[0]["latency_p50_ms"],
            b=own[1]["latency_p50_ms"],
            ratio=ratio,
            p_value=p_above(logs, margin),
        )
    ]
    for name in COLD:
        groups = a.cold(name), b.cold(name)
        tested = unpaired_ratio(*groups, margin)
        timed.append(
            ComparedMetric(
                metric=name,
                a=_geometric_mean(groups[0]),
                b=_geometric_mean(groups[1]),
                ratio=tested.ratio,
                p_value=tested.p_value,
            )
        )
    adjusted = holm([one.p_value for one in timed])
    timed = [
        one.model_copy(update={"p_adjusted": p}) for one, p in zip(timed, adjusted, strict=True)
    ]
    tails = [ComparedMetric(metric=name, a=own[0].get(name), b=own[1].get(name)) for name in TAILS]
    size = ComparedMetric(
        metric="size_bytes", a=a.bytes, b=b.bytes, ratio=stats.exact(b.bytes / a.bytes, 1)
    )
    return (timed[0], *tails, *timed[1:], size)


def _geometric_mean(values: NDArray[np.float64]) -> float | None:
    return float(np.exp(np.log(values).mean())) if len(values) and values.min() > 0 else None


def _function(
    a: _Measured, b: _Measured, seed: int, *, classes: bool
) -> tuple[dict[str, Estimate], list[str]]:
    """How far B's answers lie from A's: in the first output, on the same inputs."""
    if a.answers.shape != b.answers.shape:
        sizes = f"{a.answers.shape[1]} and {b.answers.shape[1]}"
        return {}, [f"their first outputs hold {sizes} numbers an example: not compared"]
    count = len(a.answers)
    difference = np.abs(a.answers.astype(np.float64) - b.answers)
    found = {
        "max_abs_difference": stats.exact(float(difference.max()), count),
        "largest_answer": stats.exact(float(np.abs(a.answers).max()), count),
    }
    labels = np.zeros(count, dtype=np.int64)
    weights = stats.bootstrap_weights(count, seed)
    context = Context(Outputs(a.answers, labels), (), weights)
    wanted = ["sqnr_db", *(["prediction_disagreement"] if classes else [])]
    for name in wanted:
        on_pair = METRICS.get(name).on_pair
        estimate = on_pair(Outputs(b.answers, labels), context) if on_pair is not None else None
        if estimate is not None:
            found[name] = estimate
    return found, []


def _side(name: str, path: Path, one: _Measured, entry: Mapping[str, Any]) -> Side:
    inspection = one.result.evidence.get("inspection", {})
    return Side(
        name=name,
        path=str(path),
        sha256=entry["sha256"],
        integer_operators=inspection.get("integer_operators"),
        evidence=one.result.evidence,
    )


def _read(
    folder: RunFolder, name: str, path: Path, manifest: dict[str, Any], fingerprint: str
) -> _Measured:
    """What came back of one model; raises NotMeasuredError where that is not enough to compare."""
    result = read_result(folder.results, name, manifest, fingerprint)
    count = manifest["inputs"][0]["shape"][0]
    if result.status != "measured":
        raise NotMeasuredError(
            f"the model was not measured: {result.problem or 'the agent gave no reason'}",
            where=str(path),
        )
    own = folder.results / name
    try:
        found = np.load(own / "outputs.npy", mmap_mode="r", allow_pickle=False)
        width = int(found.shape[1]) if found.ndim == 2 else 0
    except (OSError, ValueError, EOFError) as error:
        raise NotMeasuredError(
            f"its outputs cannot be read: {one_line(str(error), 120)}", where=str(path)
        ) from error
    return _Measured(
        result,
        read_samples(own / "samples.npz"),
        read_outputs(own / "outputs.npy", (count, width)),
        (folder.bundle / "models" / f"{name}.onnx").stat().st_size,
    )
