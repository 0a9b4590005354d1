"""Coordinated omission: a runtime that stalls, asked in a closed loop and as a server.

The model stalls for 100 ms in the first call after each second; base beside it does not. Source of
the effect: G. Tene, How NOT to Measure Latency (2013).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.altered_worker import command
from benchmarks.harness.measuring import NoMeasurementError
from benchmarks.harness.setting import Patience, Setting
from edgebench.agent.plan import run_plan
from edgebench.scenario import resolve_scenarios
from edgebench.stats import samples_needed

EXPERIMENT = "omission"
STALL_S, EVERY_S = 0.1, 1.0
DURATION_S = 5.0
LOAD = 0.3
LATE_MS = 50.0
_ARMS = {"base": 0, "model": 1}


def run(setting: Setting, trials: int, subject: str) -> None:
    """Go on until there are that many trials."""
    specs = [
        one.model_dump(mode="json")
        for one in resolve_scenarios(
            [
                {"scenario": "single-stream", "duration_s": DURATION_S},
                {"scenario": "server", "load": LOAD, "duration_s": DURATION_S},
            ],
            profile="quick",
            batch=1,
            where="the harness",
        )
    ]
    settings = {"experiment": EXPERIMENT, "subject": subject, "profile": "quick"}
    have = [row for row in setting.log.done(**settings) if "server" in row["result"]]
    bundle = setting.bundle(
        "omission", subject, ["base", "stalls"], "quick", timed=["stalls"], scenarios=specs
    )
    patience = Patience(setting)
    for index in range(len(have) + 1, trials + 1):
        if setting.over:
            return
        row = {**settings, "seed": setting.seed, "command": setting.command}
        out = setting.work / f"omission-{index}"
        worker = command({"stalls": f"stall:{STALL_S}:{EVERY_S}"})
        run_plan(bundle, out, lambda event: None, command=worker)
        device = json.loads((out / "device.json").read_text(encoding="utf-8"))
        try:
            result = found(out / "stalls", [spec["scenario"] for spec in specs])
        except NoMeasurementError as error:
            patience.failed(row, error)
            continue
        patience.succeeded()
        setting.log.append({**row, "index": index}, device, result)
        shown = ", ".join(f"{k} p99 {v['model']['p99_ms'] or 0:.3g} ms" for k, v in result.items())
        setting.tell(f"omission {index}/{trials}: {shown}")


def found(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """The quantiles of each scenario, of base and of the model that stalls."""
    said = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if said["status"] != "measured" or "scenarios" not in said:
        raise NoMeasurementError(said["problem"] or "the agent ran no scenario")
    problems = [one["problem"] for one in said["scenarios"] if one["problem"]]
    if problems:
        raise NoMeasurementError(problems[0])
    with np.load(folder / "scenarios.npz", allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    latency_ms = (arrays["end_ns"] - arrays["scheduled_ns"]) / 1e6
    return {
        name: {
            arm: quantiles(latency_ms[(arrays["scenario"] == index) & (arrays["arm"] == code)])
            for arm, code in _ARMS.items()
        }
        for index, name in enumerate(names)
    }


def quantiles(latency_ms: NDArray[np.float64]) -> dict[str, Any]:
    """The median and, where there are queries enough for it, the 99th percentile."""
    n = len(latency_ms)
    enough = n >= samples_needed(0.99)
    return {
        "queries": n,
        "p50_ms": float(np.median(latency_ms)) if n else None,
        "p99_ms": float(np.quantile(latency_ms, 0.99, method="higher")) if enough else None,
        "late_share": float((latency_ms > LATE_MS).mean()) if n else 0.0,
    }
