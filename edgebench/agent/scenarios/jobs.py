"""All scenarios of one model: fresh processes for each, and what they leave together."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List

from ..errors import ModelFailedError

if TYPE_CHECKING:
    from pathlib import Path

    # Does one scenario job in a folder: (folder, what the job holds beside the usual) -> raw.json.
    OneProcess = Callable[[Path, Dict[str, Any]], Dict[str, Any]]

SAMPLES, LOGS = "scenarios.npz", "loadgen.zip"
# What scenarios.npz holds for each query; `scenario` is its place in the list.
FIELDS = {
    "scenario": "int32",
    "process": "int32",
    "arm": "int32",
    "scheduled_ns": "int64",
    "start_ns": "int64",
    "end_ns": "int64",
}


def measure_scenarios(
    work: Path, specs: List[Dict[str, Any]], processes: int, one: OneProcess
) -> List[Dict[str, Any]]:
    """Run every scenario in `processes` fresh processes each; gives result.json's `scenarios`.

    A scenario that fails says why and the others go on; the processes it had finished are kept.
    Leaves scenarios.npz in `work`, and loadgen.zip where LoadGen wrote logs.
    """
    entries = []
    folders: List[List[Path]] = []
    for index, spec in enumerate(specs):
        entry: Dict[str, Any] = {
            "spec": spec,
            "problem": None,
            "invalid_reasons": [],
            "runs": [],
        }
        done: List[Path] = []
        try:
            for process in range(processes):
                folder = work / f"scenario-{index}-{process}"
                job = {"scenario": spec, "process": process}
                raw = one(folder, job)
                entry["runs"] += raw["runs"]
                entry["invalid_reasons"] += raw["invalid_reasons"]
                done.append(folder)
        except ModelFailedError as error:
            entry["problem"] = str(error)
        entry["invalid_reasons"] = list(dict.fromkeys(entry["invalid_reasons"]))
        entries.append(entry)
        folders.append(done)
    _merge(folders, work / SAMPLES)
    _keep_logs(specs, folders, work / LOGS)
    return entries


def scenario_seconds(spec: Dict[str, Any], call_s: float = 0.0) -> float:
    """How much longer than other jobs a scenario's process may take.

    `call_s`: how long one inference of the scenario's batch takes at most, 0 where it is not known.
    """
    # Base and the model; a server that cannot keep up gives up after twice its time.
    return 4.0 * asked_seconds(spec, call_s)


def asked_seconds(spec: Dict[str, Any], call_s: float = 0.0) -> float:
    """How long a model that keeps up is asked in one process; `call_s` as in `scenario_seconds`."""
    each = call_s
    duration_s, queries = float(spec["duration_s"]), int(spec["min_queries"])
    if spec["scenario"] == "multi-stream":
        each *= max(1, (spec["samples"] or 1) // spec["batch"])
    elif spec["scenario"] == "server":
        each = 1 / spec["qps"] if spec["qps"] is not None else call_s * max(1.0, 1 / spec["load"])
    return max(duration_s, queries * float(each))


def call_seconds(raws: List[Dict[str, Any]], job: Dict[str, Any], threads: int) -> float:
    """The most that one inference under the scenario `job` should take, base's or the model's.

    From what the timed processes saw: `raws` are their raw.json, `threads` those they ran with.
    The first inference of a fresh process stands for all, since it is slower than those after it.
    """
    spec = job["scenario"]
    first = max((raw["cold"]["first_inference_ms"] for raw in raws if raw.get("cold")), default=0.0)
    logs = [raw["log_ratio"] for raw in raws if raw.get("log_ratio") is not None]
    base = math.exp(-min(logs, default=0.0))
    batch: float = spec["batch"] / job["protocol"]["batch"]
    fewer: float = threads / job["runtime"]["threads"]
    return float(first) / 1e3 * max(1.0, base) * max(1.0, batch) * max(1.0, fewer)


def _merge(folders: List[List[Path]], merged: Path) -> None:
    """All processes' queries in one .npz, read and written one array of a process at a time.

    The agent may run where there is little memory beside the model's.
    """
    import numpy as np

    parts = [
        (number, folder / "scenario.npz") for number, done in enumerate(folders) for folder in done
    ]
    counts = []
    for _, file in parts:
        with np.load(file, allow_pickle=False) as archive:
            counts.append(len(archive["arm"]))
    with zipfile.ZipFile(merged, "w", zipfile.ZIP_DEFLATED) as out:
        for field, kind in FIELDS.items():
            dtype = np.dtype(kind)
            header = {"descr": dtype.str, "fortran_order": False, "shape": (sum(counts),)}
            with out.open(f"{field}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for (number, file), count in zip(parts, counts):
                    if field == "scenario":
                        part = np.full(count, number, dtype)
                    else:
                        with np.load(file, allow_pickle=False) as archive:
                            part = archive[field].astype(dtype, copy=False)
                    member.write(part.tobytes())


def _keep_logs(specs: List[Dict[str, Any]], folders: List[List[Path]], target: Path) -> None:
    """LoadGen's logs as LABEL/PROCESS/base and LABEL/PROCESS/model in one zip."""
    logs = [
        (f"{spec['label']}/{process}/{path.parent.name}/{path.name}", path)
        for spec, done in zip(specs, folders)
        for process, folder in enumerate(done)
        for path in sorted((folder / "loadgen").rglob("*.txt"))
    ]
    if logs:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, path in logs:
                archive.write(path, name)
