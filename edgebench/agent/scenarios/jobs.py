"""All scenarios of one model: fresh processes for each, and what they leave together."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from ..errors import ModelFailedError

if TYPE_CHECKING:
    from pathlib import Path

    # Does one scenario job in a folder: (folder, what the job holds beside the usual) -> raw.json.
    OneProcess = Callable[[Path, Dict[str, Any]], Dict[str, Any]]

SAMPLES, LOGS = "scenarios.npz", "loadgen.zip"
FIELDS = ("process", "arm", "scheduled_ns", "start_ns", "end_ns")


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
        offered: Optional[List[float]] = None
        try:
            for process in range(processes):
                folder = work / f"scenario-{index}-{process}"
                job = {"scenario": spec, "process": process, "offered_qps": offered}
                raw = one(folder, job)
                offered = raw["offered_qps"] if offered is None else offered
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


def scenario_seconds(spec: Dict[str, Any]) -> float:
    """How much longer than other jobs a scenario's process may take."""
    # Base and the model; a server that cannot keep up gives up after twice its time.
    return 4.0 * float(spec["duration_s"])


def _merge(folders: List[List[Path]], merged: Path) -> None:
    import numpy as np

    parts: Dict[str, List[Any]] = {field: [] for field in FIELDS}
    numbers = []
    for index, done in enumerate(folders):
        for folder in done:
            with np.load(folder / "scenario.npz", allow_pickle=False) as archive:
                for field in FIELDS:
                    parts[field].append(archive[field])
            numbers.append(np.full(len(parts["arm"][-1]), index, dtype=np.int32))
    empty = {"process": np.int32, "arm": np.int32}
    arrays: Dict[str, Any] = {
        field: np.concatenate(found) if found else np.zeros(0, empty.get(field, np.int64))
        for field, found in parts.items()
    }
    scenario = np.concatenate(numbers) if numbers else np.zeros(0, np.int32)
    with merged.open("wb") as out:
        np.savez_compressed(out, scenario=scenario, **arrays)


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
