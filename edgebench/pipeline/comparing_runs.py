"""Set two finished runs side by side, variant by variant; what must not be compared is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import __version__, gate, stats
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
from edgebench.errors import NotComparableError, NotMeasuredError
from edgebench.multiplicity import holm, ratio_of_ratios
from edgebench.pipeline.folder import RunFolder, existing_run
from edgebench.pipeline.main import read_run
from edgebench.pipeline.results import read_outputs
from edgebench.pipeline.versions import package_versions
from edgebench.records import Estimate, RunRecord, Variant

# What two measurements of one kind have in common besides the device: key of the target, words.
_SETTINGS = ("name", "threads", "providers", "session_config")


def compare_runs(
    a: str, b: str, *, limit: float = 0.0, max_disagreement: float | None = None
) -> Comparison:
    """The comparison of the finished runs in two folders.

    Latencies of two sessions were not interleaved, so they are never divided: what is compared is
    each variant's ratio to the base of its own session. Raises NotComparableError where the
    fingerprints differ, naming what differs.
    """
    folders = existing_run(a), existing_run(b)
    first, second = (read_run(folder) for folder in folders)
    where = f"{a} and {b}"
    _check_fingerprints(first, second, where)
    names = [
        v.name
        for v in first.variants
        if not v.beside
        and v.status == "measured"
        and (other := second.variant(v.name)) is not None
        and other.status == "measured"
    ]
    candidates = [name for name in names if name != "base"]
    if not candidates:
        raise NotComparableError(
            "no variant was measured in both runs", where=where, hint="name runs of one recipe"
        )
    floor = max(gate.noise_floor(run.base) for run in (first, second))
    delta = max(limit, floor)
    tested = {name: _ratio(first, second, name, math.log1p(delta)) for name in candidates}
    adjusted = dict(zip(tested, holm([t.p_value for t in tested.values()]), strict=True))
    pairs = [
        _pair(
            (first, second),
            name,
            tested[name].model_copy(update={"p_adjusted": adjusted[name]}),
            function=_function(folders, first, second, name),
            limit=limit,
            floor=floor,
            max_disagreement=max_disagreement,
        )
        for name in candidates
    ]
    labels = [Path(one).name or one for one in (a, b)]
    if labels[0] == labels[1]:
        labels = [a, b]
    verdict, text, code = overall(pairs, labels[0], labels[1])
    left_out = sorted(
        {v.name for run in (first, second) for v in run.variants if not v.beside} - set(names)
    )
    missing = f"{', '.join(left_out)}: not measured in both runs, left out"
    return Comparison(
        kind="runs",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgebench_version=__version__,
        versions=package_versions(),
        a=Side(name=labels[0], path=a, run_id=first.run_id),
        b=Side(name=labels[1], path=b, run_id=second.run_id),
        target=second.target,
        device=second.device,
        inputs=f"the test set of {second.data.get('name')}",
        limit=limit,
        max_disagreement=max_disagreement,
        pairs=tuple(pairs),
        warnings=(missing,) if left_out else (),
        verdict=verdict,
        verdict_text=text,
        exit_code=code,
    )


def _check_fingerprints(a: RunRecord, b: RunRecord, where: str) -> None:
    """Raise NotComparableError where two measurements were not made alike, naming what differs."""
    differ = []
    if a.device.get("fingerprint") != b.device.get("fingerprint"):
        differ += _differences(a.device.get("identity"), b.device.get("identity")) or ["the device"]
    runtimes = [run.target.get("runtime") or {} for run in (a, b)]
    differ += [
        f"runtime {line}"
        for line in _differences(*({key: r.get(key) for key in _SETTINGS} for r in runtimes))
    ]
    if a.data.get("fingerprint") != b.data.get("fingerprint"):
        differ.append(f"data ({a.data.get('name')}, {b.data.get('name')})")
    # Each variant is told beside its own base: two networks' bases are no common measure.
    models = [(run.recipe.get("model"), run.recipe.get("model_options") or {}) for run in (a, b)]
    if models[0] != models[1]:
        differ.append(f"model ({models[0][0]}, {models[1][0]})")
    batches = [(run.recipe.get("protocol") or {}).get("batch", 1) for run in (a, b)]
    if batches[0] != batches[1]:
        differ.append(f"batch ({batches[0]}, {batches[1]})")
    if not differ and _marks(a) != _marks(b):
        differ.append("how base was measured (providers, processors or inputs)")
    if differ:
        raise NotComparableError(
            f"not comparable, their fingerprints differ: {'; '.join(differ[:4])}",
            where=where,
            hint="measure both on the same device, with the same network, runtime and options",
        )


def _marks(run: RunRecord) -> str | None:
    measurement = run.base.measurement
    return measurement.fingerprint if measurement is not None else None


def _differences(a: Any, b: Any) -> list[str]:
    """What differs between two mappings, one line each: `cpu_model (x, y)`."""
    first, second = (value if isinstance(value, Mapping) else {} for value in (a, b))
    keys = sorted({*first, *second})
    return [
        f"{key} ({_short(first.get(key))}, {_short(second.get(key))})"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _ratio_to_base(run: RunRecord, name: str) -> Estimate:
    variant = run.variant(name)
    found = variant.comparisons.get("latency_ratio") if variant is not None else None
    return found or Estimate(point=None, low=None, high=None, n=0, method="not measured")


def _ratio(a: RunRecord, b: RunRecord, name: str, margin: float) -> ComparedMetric:
    """The variant's ratio to base in both runs, and how it changed."""
    before, after = _ratio_to_base(a, name), _ratio_to_base(b, name)
    tested = ratio_of_ratios(before, after, margin)
    return ComparedMetric(
        metric="latency_ratio",
        a=before.point,
        b=after.point,
        ratio=tested.ratio,
        p_value=tested.p_value,
    )


def _pair(
    runs: tuple[RunRecord, RunRecord],
    name: str,
    timed: ComparedMetric,
    *,
    function: dict[str, Estimate],
    limit: float,
    floor: float,
    max_disagreement: float | None,
) -> Pair:
    """One variant of both runs, judged."""
    invalid = _invalid(runs, name)
    parts: list[tuple[Word, str]] = [
        ("INCONCLUSIVE", invalid)
        if invalid is not None
        else judge_latency(
            timed.ratio,
            limit=limit,
            floor=floor,
            p_adjusted=timed.p_adjusted,
            again=None,
            confirms=False,
        )
    ]
    same = judge_function(function.get("prediction_disagreement"), max_disagreement)
    if same is not None:
        parts.append(same)
    verdict, reasons = joined(parts)
    least = (
        None
        if timed.ratio is None
        else gate.smallest_detectable_change(timed.ratio, max(limit, floor))
    )
    return Pair(
        name=name,
        latency_ratio=timed.ratio,
        noise_floor=gate.finite_floor(floor),
        delta=gate.finite_floor(max(limit, floor)),
        smallest_detectable_change=least,
        metrics=(timed, *_exact(*runs, name)),
        function=function,
        verdict=verdict,
        reasons=reasons,
    )


def _invalid(runs: tuple[RunRecord, RunRecord], name: str) -> str | None:
    """Why the latencies of one variant are no evidence, if they are not."""
    for run in runs:
        for one in (run.variant(name), run.base):
            measurement = one.measurement if one is not None else None
            if measurement is not None and not measurement.valid:
                why = "; ".join(measurement.invalid_reasons)
                return f"the measurement of {run.run_id} is not valid: {why}"
            if one is not None and not gate.is_steady(one):
                return f"the latency of {one.name} in {run.run_id} was still moving"
    return None


def _exact(a: RunRecord, b: RunRecord, name: str) -> list[ComparedMetric]:
    """Size and accuracy of one variant: read off, not timed."""
    rows = []
    first, second = (_metrics(run, name) for run in (a, b))
    for metric in ("size_bytes", "compressed_bytes", "accuracy"):
        before, after = first.get(metric), second.get(metric)
        ratio = None
        if metric != "accuracy" and before and after is not None:
            ratio = stats.exact(after / before, 1)
        if before is not None or after is not None:
            rows.append(ComparedMetric(metric=metric, a=before, b=after, ratio=ratio))
    return rows


def _metrics(run: RunRecord, name: str) -> dict[str, float | None]:
    variant: Variant | None = run.variant(name)
    return dict(variant.metrics) if variant is not None else {}


def _function(
    folders: tuple[RunFolder, RunFolder], a: RunRecord, b: RunRecord, name: str
) -> dict[str, Estimate]:
    """How far the variant's answers in B lie from those in A, where both runs still hold them."""
    arrays = [_answers(folder, run, name) for folder, run in zip(folders, (a, b), strict=True)]
    first, second = arrays
    if first is None or second is None or first.shape != second.shape:
        return {}
    count = len(first)
    different = int((first.argmax(axis=1) != second.argmax(axis=1)).sum())
    return {
        "max_abs_difference": stats.exact(
            float(np.abs(first.astype(np.float64) - second).max()), count
        ),
        "largest_answer": stats.exact(float(np.abs(first).max()), count),
        "prediction_disagreement": stats.proportion(different, count),
    }


def _answers(folder: RunFolder, run: RunRecord, name: str) -> NDArray[np.float32] | None:
    count, classes = run.data.get("test"), run.data.get("classes")
    if not isinstance(count, int) or not isinstance(classes, int):
        return None
    try:
        return read_outputs(folder.results / name / "outputs.npy", (count, classes))
    except NotMeasuredError:
        return None
