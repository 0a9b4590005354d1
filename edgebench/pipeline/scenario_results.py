"""Read what an agent says of its scenarios, as data from a machine one need not trust."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebench.errors import NotMeasuredError, one_line
from edgebench.metrics.scenarios import OVERLOADED, Queries, own_metrics, ratios, target_met
from edgebench.records import ScenarioResult
from edgebench.scenario import Scenario

# More than any protocol yields; a hostile archive could unpack to anything.
LARGEST_SAMPLES = 1 << 30
MOST_PROCESSES = 10_000
SAMPLES_FILE = "scenarios.npz"

_BASE, _VARIANT = 0, 1
_FIELDS = ("scenario", "process", "arm", "scheduled_ns", "start_ns", "end_ns")

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


class Run(BaseModel):
    """What one process says of one model under one scenario."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    process: int = Field(ge=0)
    arm: int = Field(ge=0, le=1)
    offered_qps: Amount | None
    planned: int | None = Field(ge=1)
    steady: bool
    loadgen: dict[str, Any] | None


class Entry(BaseModel):
    """One entry of `scenarios` in result.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    spec: dict[str, Any]
    problem: str | None
    invalid_reasons: tuple[str, ...]
    runs: tuple[Run, ...]


def scenario_results(
    entries: object, folder: Path, asked: Sequence[Mapping[str, Any]], *, relative: str
) -> tuple[ScenarioResult, ...]:
    """One record for each scenario of the manifest, in its order.

    `entries` is what result.json says, `folder` holds scenarios.npz, `asked` is the manifest's
    `protocol.scenarios`, `relative` the samples file as the records name it. What the agent
    returned of them may be missing or make no sense: then each record says what is wrong.
    """
    specs = [Scenario.model_validate(dict(one)) for one in asked]
    if not specs:
        return ()
    try:
        read = _entries(entries, specs)
        arrays = _arrays(folder / SAMPLES_FILE, len(specs))
    except NotMeasuredError as error:
        return tuple(_failed(spec, error.line()) for spec in specs)
    return tuple(
        _result(
            spec, entry, {k: v[arrays["scenario"] == index] for k, v in arrays.items()}
        ).model_copy(update={"samples_file": relative})
        for index, (spec, entry) in enumerate(zip(specs, read, strict=True))
    )


def _entries(entries: object, specs: Sequence[Scenario]) -> list[Entry]:
    if not isinstance(entries, (list, tuple)) or len(entries) != len(specs):
        raise NotMeasuredError("the agent did not return the scenarios it was asked for")
    read = []
    for entry, spec in zip(entries, specs, strict=True):
        try:
            one = Entry.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise NotMeasuredError(
                f"its scenarios cannot be read: {place}: {first['msg']}"
            ) from None
        if one.spec != spec.model_dump(mode="json"):
            raise NotMeasuredError(
                f"the agent ran other settings than those of the scenario '{spec.label}'"
            )
        read.append(one)
    return read


def _arrays(path: Path, scenarios: int) -> Arrays:
    """The raw times; raises NotMeasuredError where they make no sense."""
    problem = None
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_SAMPLES:
                raise NotMeasuredError("its scenarios' samples unpack to more than a gibibyte")
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in _FIELDS}
        problem = _problem(arrays, scenarios)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        problem = one_line(str(error), 120)
    if problem is not None:
        raise NotMeasuredError(f"its scenarios' samples cannot be used: {problem}")
    return arrays


def _problem(arrays: Arrays, scenarios: int) -> str | None:
    """What is wrong with the raw times, if anything."""
    if any(a.ndim != 1 or a.dtype.kind != "i" for a in arrays.values()):
        return "an array is no list of whole numbers"
    if len({len(a) for a in arrays.values()}) > 1:
        return "arrays differ in length"
    limits = {"scenario": scenarios, "process": MOST_PROCESSES, "arm": 2}
    for name, limit in limits.items():
        if not ((arrays[name] >= 0) & (arrays[name] < limit)).all():
            return f"a query belongs to no {name}"
    scheduled, start, end = (arrays[f"{name}_ns"] for name in ("scheduled", "start", "end"))
    # In the order they were asked: scenario by scenario, process by process, model by model.
    together = np.all([np.diff(arrays[name]) == 0 for name in limits], axis=0)
    if not ((scheduled >= 0) & (scheduled <= start) & (start < end)).all():
        return "a query ends before it begins, or begins before it was due"
    if (np.diff(start)[together] <= 0).any():
        return "queries of one process are not in the order of time"
    return None


def _result(spec: Scenario, entry: Entry, arrays: Arrays) -> ScenarioResult:
    """The record of one scenario from its own part of the raw times."""
    sides = [_queries(arrays, arm) for arm in (_BASE, _VARIANT)]
    base, variant = sides
    processes = np.unique(variant.process)
    if not len(processes):
        return _failed(spec, entry.problem or "the agent returned no queries of it", entry)
    runs = {(run.process, run.arm): run for run in entry.runs}
    wanted = {(int(p), arm) for p in processes for arm in (_BASE, _VARIANT)}
    alike = np.array_equal(np.unique(base.process), processes)
    if not alike or set(runs) != wanted or len(runs) != len(entry.runs):
        return _failed(spec, "its processes do not hold base and the model each", entry)
    if min(int(np.bincount(side.process)[processes].min()) for side in sides) < 2:
        return _failed(spec, "a process asked fewer than two queries", entry)

    metrics, needed = own_metrics(variant, spec.scenario, spec.queries_of)
    offered = [run.offered_qps for (_, arm), run in sorted(runs.items()) if arm == _VARIANT]
    reasons = list(entry.invalid_reasons)
    if spec.scenario == "server":
        own = [run for run in entry.runs if run.arm == _VARIANT]
        others = [run for run in entry.runs if run.arm == _BASE]
        reasons += _overload(variant, own, "")
        if not _overload(variant, own, ""):
            reasons += _overload(base, others, "base ")
    if entry.problem is not None:
        reasons.append(f"it ended early: {entry.problem}")
    return ScenarioResult(
        label=spec.label or spec.scenario,
        scenario=spec.scenario,
        driver=spec.driver,
        settings=spec.model_dump(mode="json"),
        valid=not reasons,
        problem=entry.problem,
        invalid_reasons=tuple(reasons),
        queries=len(variant.end),
        processes=len(processes),
        metrics=metrics,
        ratios=ratios(base, variant, spec.scenario),
        needed=needed,
        offered_qps=offered[0] if offered else None,
        target_latency_ms=spec.target_latency_ms,
        target_met=(
            None if spec.target_latency_ms is None else target_met(metrics, spec.target_latency_ms)
        ),
        evidence={"runs": [run.model_dump(mode="json") for run in entry.runs]},
    )


def _overload(queries: Queries, runs: Sequence[Run], whose: str) -> list[str]:
    """Why a server's latencies mean nothing: its queue only grows."""
    counts = np.bincount(queries.process)
    gave_up = sum(run.planned is not None and counts[run.process] < run.planned for run in runs)
    if not gave_up and float(np.median(queries.busy())) < 1:
        return []
    offered = next((run.offered_qps for run in runs if run.offered_qps is not None), 0.0)
    served = float(np.median(queries.rates()))
    return [f"{whose}{OVERLOADED}: of {offered:.4g} queries a second it answers {served:.4g}"]


def _queries(arrays: Arrays, arm: int) -> Queries:
    mine = arrays["arm"] == arm
    return Queries(
        process=arrays["process"][mine].astype(np.int32),
        scheduled=arrays["scheduled_ns"][mine].astype(np.int64),
        start=arrays["start_ns"][mine].astype(np.int64),
        end=arrays["end_ns"][mine].astype(np.int64),
    )


def _failed(spec: Scenario, problem: str, entry: Entry | None = None) -> ScenarioResult:
    return ScenarioResult(
        label=spec.label or spec.scenario,
        scenario=spec.scenario,
        driver=spec.driver,
        settings=spec.model_dump(mode="json"),
        valid=False,
        problem=problem,
        invalid_reasons=entry.invalid_reasons if entry is not None else (),
        target_latency_ms=spec.target_latency_ms,
    )
