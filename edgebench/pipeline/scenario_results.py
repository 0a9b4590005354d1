"""Read what an agent says of its scenarios, as data from a machine one need not trust."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebench.agent.results import NOT_STEADY, RESTLESS_SHARE
from edgebench.agent.scenarios.jobs import FIELDS
from edgebench.errors import NotMeasuredError, one_line
from edgebench.metrics.scenarios import (
    OVERLOADED,
    Queries,
    own_metrics,
    ratios,
    target_met,
    withheld,
)
from edgebench.records import ScenarioResult
from edgebench.scenario import Scenario

# As many as a protocol can ask for.
MOST_PROCESSES = 1000
SAMPLES_FILE = "scenarios.npz"

_BASE, _VARIANT = 0, 1
_QUERY_BYTES = sum(np.dtype(kind).itemsize for kind in FIELDS.values())
_MOVING_BASE = NOT_STEADY.replace("the latency", "base's latency")
# Of the arrays' own headers, which are far smaller.
_HEADERS_BYTES = 1 << 16

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


class Run(BaseModel):
    """What one process says of one model under one scenario."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    process: int = Field(ge=0)
    arm: int = Field(ge=0, le=1)
    offered_qps: Amount | None
    planned: int | None = Field(ge=1)
    ended_at: int | None = Field(None, ge=1)
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
    entries: object,
    folder: Path,
    asked: Sequence[Mapping[str, Any]],
    *,
    relative: str,
    processes: int = MOST_PROCESSES,
) -> tuple[ScenarioResult, ...]:
    """One record for each scenario of the manifest, in its order.

    `entries` is what result.json says, `folder` holds scenarios.npz, `asked` is the manifest's
    `protocol.scenarios`, `relative` the samples file as the records name it, `processes` how many
    the protocol asks for. What the agent returned of them may be missing or make no sense: then
    each record says what is wrong.
    """
    specs = [Scenario.model_validate(dict(one)) for one in asked]
    if not specs:
        return ()
    try:
        read = _entries(entries, specs)
        arrays = _arrays(folder / SAMPLES_FILE, specs, processes)
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


def _arrays(path: Path, specs: Sequence[Scenario], processes: int) -> Arrays:
    """The raw times; raises NotMeasuredError where they make no sense."""
    problem = None
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            # A hostile archive could unpack to anything.
            if sum(entry.file_size for entry in archive.infolist()) > _largest(specs, processes):
                raise NotMeasuredError(
                    "its scenarios' samples unpack to more than the protocol can yield"
                )
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in FIELDS}
        problem = _problem(arrays, len(specs), processes)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        problem = one_line(str(error), 120)
    if problem is not None:
        raise NotMeasuredError(f"its scenarios' samples cannot be used: {problem}")
    return arrays


def _largest(specs: Sequence[Scenario], processes: int) -> int:
    """Bytes of the samples where every process of base and of the model keeps all it may."""
    queries = 2 * processes * sum(spec.most_queries for spec in specs)
    return _HEADERS_BYTES + _QUERY_BYTES * queries


def _problem(arrays: Arrays, scenarios: int, processes: int) -> str | None:
    """What is wrong with the raw times, if anything."""
    if any(a.ndim != 1 or a.dtype.kind != "i" for a in arrays.values()):
        return "an array is no list of whole numbers"
    if len({len(a) for a in arrays.values()}) > 1:
        return "arrays differ in length"
    limits = {"scenario": scenarios, "process": processes, "arm": 2}
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
    base, variant = (_queries(arrays, arm) for arm in (_BASE, _VARIANT))
    processes = np.unique(variant.process)
    if not len(processes):
        return _failed(spec, entry.problem or "the agent returned no queries of it", entry)
    runs = {(run.process, run.arm): run for run in entry.runs}
    wanted = {(int(p), arm) for p in processes for arm in (_BASE, _VARIANT)}
    alike = np.array_equal(np.unique(base.process), processes)
    if not alike or set(runs) != wanted or len(runs) != len(entry.runs):
        return _failed(spec, "its processes do not hold base and the model each", entry)
    if int(np.bincount(variant.process)[processes].min()) < 2:
        return _failed(spec, "a process asked fewer than two queries", entry)

    metrics, needed = own_metrics(variant, spec.scenario, spec.queries_of)
    offered = [
        run.offered_qps
        for (_, arm), run in runs.items()
        if arm == _VARIANT and run.offered_qps is not None
    ]
    reasons = [*entry.invalid_reasons, *_doubts(spec, variant, entry, _VARIANT)]
    compared = ratios(base, variant, spec.scenario)
    # What base cannot do says nothing against the variant: there is just nothing to divide by.
    of_base = _doubts(spec, base, entry, _BASE)
    if of_base:
        why = [_MOVING_BASE if doubt == NOT_STEADY else f"base {doubt}" for doubt in of_base]
        compared = withheld(compared, "; ".join(why))
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
        ratios=compared,
        needed=needed,
        offered_qps=float(np.median(offered)) if offered else None,
        target_latency_ms=spec.target_latency_ms,
        target_met=(
            None if spec.target_latency_ms is None else target_met(metrics, spec.target_latency_ms)
        ),
        evidence={"runs": [run.model_dump(mode="json") for run in entry.runs]},
    )


def _doubts(spec: Scenario, queries: Queries, entry: Entry, arm: int) -> list[str]:
    """Why the latencies of base or of the variant mean nothing."""
    runs = [run for run in entry.runs if run.arm == arm]
    restless = sum(not run.steady for run in runs)
    moving = [NOT_STEADY] if restless > RESTLESS_SHARE * len(runs) else []
    return moving + (_overload(queries, runs) if spec.scenario == "server" else [])


def _overload(queries: Queries, runs: Sequence[Run]) -> list[str]:
    """Why a server's latencies mean nothing: its queue only grows."""
    counts = np.bincount(queries.process)
    gave_up = sum(run.planned is not None and counts[run.process] < run.planned for run in runs)
    if not gave_up and float(np.median(queries.busy())) < 1:
        return []
    offered = next((run.offered_qps for run in runs if run.offered_qps is not None), 0.0)
    served = float(np.median(queries.rates()))
    return [f"{OVERLOADED}: of {offered:.4g} queries a second it answers {served:.4g}"]


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
