"""Truth: what the agent reports of a call, beside a bare loop over the same bound query.

In the agent's own worker a bare loop follows or precedes each of its blocks, on the same session,
in the same process, pinned alike. Both put the clock around the same number of calls.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np

from benchmarks.harness.altered_worker import command
from benchmarks.harness.measuring import NoMeasurementError, measure
from benchmarks.harness.noise import condition
from benchmarks.harness.setting import Patience, Setting
from edgebench import stats
from edgebench.records import Estimate

EXPERIMENT = "truth"


def run(
    setting: Setting, conditions: list[str], trials: int, subjects: list[str], profile: str
) -> None:
    """Go on until each model has been measured so many times in each condition."""
    for name in conditions:
        for subject in subjects:
            settings = {
                "experiment": EXPERIMENT,
                "condition": name,
                "subject": subject,
                "profile": profile,
            }
            have = [row for row in setting.log.done(**settings) if "ratio" in row["result"]]
            patience = Patience(setting)
            bundle = setting.bundle("truth", subject, ["base"], profile)
            for index in range(len(have) + 1, trials + 1):
                if setting.over:
                    return
                row = {**settings, "seed": setting.seed, "command": setting.command}
                bare = setting.work / "bare"
                shutil.rmtree(bare, ignore_errors=True)
                bare.mkdir()
                try:
                    with condition(name, setting.cpu, setting.seed + index):
                        _, device = measure(bundle, setting.work / "results", command({}, bare))
                except NoMeasurementError as error:
                    patience.failed(row, error)
                    continue
                patience.succeeded()
                files = sorted(bare.glob("*.npy"))
                result = compare([np.load(file, allow_pickle=False) for file in files])
                setting.log.append({**row, "index": index}, device, result)
                setting.tell(
                    f"truth {subject} {index}/{trials}: {result['agent_us']:.2f} µs, "
                    f"{result['ratio']['point']:.4f} of a bare loop, "
                    f"{result['added_us']['point']:+.3f} µs a call"
                )


def compare(processes: list[np.ndarray]) -> dict[str, Any]:
    """From each process's rows (agent's median, bare median, time outside the spans; ns a call).

    `ratio`: the agent's median over the bare loop's. `added_us`: by how much more the agent
    reports. `between_us`: what it spends a call outside of its timed spans, and does not report.
    Medians over the blocks of a process, intervals over processes.
    """
    per_process = [rows for rows in processes if rows.ndim == 2 and len(rows)]
    logs = np.array([np.median(np.log(rows[:, 0] / rows[:, 1])) for rows in per_process])
    added = np.array([np.median(rows[:, 0] - rows[:, 1]) / 1e3 for rows in per_process])
    between = np.array([np.median(rows[:, 2]) / 1e3 for rows in per_process])
    ratio = stats.median_interval(logs)
    return {
        "agent_us": float(np.median([np.median(rows[:, 0]) for rows in per_process])) / 1e3,
        "bare_us": float(np.median([np.median(rows[:, 1]) for rows in per_process])) / 1e3,
        "ratio": _exp(ratio).model_dump(mode="json"),
        "added_us": stats.median_interval(added).model_dump(mode="json"),
        "between_us": stats.median_interval(between).model_dump(mode="json"),
        "blocks": sum(len(rows) for rows in per_process),
    }


def _exp(logs: Estimate) -> Estimate:
    ends = {
        key: None if value is None else float(np.exp(value))
        for key, value in (("point", logs.point), ("low", logs.low), ("high", logs.high))
    }
    return logs.model_copy(update=ends)
