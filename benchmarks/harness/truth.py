"""Truth: what the agent reports of a call, beside bare loops on the same session.

In the agent's own worker, pinned alike, two bare loops take turns with each of its blocks: one of
`session.run_with_iobinding` on the buffers the agent has bound, one of `session.run`. All of them
put the clock around the same number of calls.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
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
            have = [row for row in setting.log.done(**settings) if "added_us" in row["result"]]
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
                        found, device = measure(bundle, setting.work / "results", command({}, bare))
                except NoMeasurementError as error:
                    patience.failed(row, error)
                    continue
                patience.succeeded()
                files = sorted(bare.glob("*.npy"))
                result = compare([np.load(file, allow_pickle=False) for file in files])
                result["reported_us"] = 1e3 * (found["base"].p50_ms or math.nan)
                setting.log.append({**row, "index": index}, device, result)
                setting.tell(
                    f"truth {subject} {index}/{trials}: {result['agent_us']:.2f} µs, "
                    f"{result['ratio']['point']:.4f} of a bare loop, "
                    f"reported {result['reported_us']:.2f} µs, "
                    f"{result['added_us']['point']:+.3f} µs a call, "
                    f"{result['over_run_us']['point']:+.3f} over session.run"
                )


def compare(processes: list[np.ndarray]) -> dict[str, Any]:
    """From each process's rows, in ns a call: agent, bare loop, `session.run` loop, outside spans.

    The fifth column is how many calls a sample spans. Only rows of the paired blocks count, not the
    controls that ask query by query, which in a fast model span fewer.

    `ratio`: the agent's median over that of the bare loop on bound buffers. `added_us`: by how much
    more the agent reports; `over_run_us`: the same beside the loop of `session.run`. `between_us`:
    what it spends a call outside of its timed spans, and does not report. Medians over the blocks
    of a process, intervals over processes.
    """
    per_process = [
        rows[rows[:, 4] == rows[:, 4].max()] for rows in processes if rows.ndim == 2 and len(rows)
    ]

    def over_processes(of: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        return stats.median_interval(np.array([np.median(of(rows)) for rows in per_process]))

    middle = {
        name: float(np.median([np.median(rows[:, column]) for rows in per_process])) / 1e3
        for column, name in enumerate(("agent_us", "bare_us", "run_us"))
    }
    found = {
        "ratio": _exp(over_processes(lambda rows: np.log(rows[:, 0] / rows[:, 1]))),
        "added_us": over_processes(lambda rows: (rows[:, 0] - rows[:, 1]) / 1e3),
        "over_run_us": over_processes(lambda rows: (rows[:, 0] - rows[:, 2]) / 1e3),
        "between_us": over_processes(lambda rows: rows[:, 3] / 1e3),
    }
    return {
        **middle,
        **{name: estimate.model_dump(mode="json") for name, estimate in found.items()},
        "blocks": sum(len(rows) for rows in per_process),
    }


def _exp(logs: Estimate) -> Estimate:
    ends = {
        key: None if value is None else float(np.exp(value))
        for key, value in (("point", logs.point), ("low", logs.low), ("high", logs.high))
    }
    return logs.model_copy(update=ends)
