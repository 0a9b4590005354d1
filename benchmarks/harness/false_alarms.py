"""A/A: the same model against itself. Whatever is called slower here is a false alarm.

A trial needs a measurement and a noise floor. Each measurement is of base against base, and takes
the one before it as its floor, which is of base against base too: N + 1 measurements are N trials.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness.judging import judged
from benchmarks.harness.measuring import Measured, NoMeasurementError, measure
from benchmarks.harness.noise import condition
from benchmarks.harness.setting import Patience, Setting

EXPERIMENT = "aa"


def run(setting: Setting, conditions: list[str], trials: int, subject: str, profile: str) -> None:
    """Go on until each condition has that many trials."""
    for name in conditions:
        settings = {
            "experiment": EXPERIMENT,
            "condition": name,
            "subject": subject,
            "profile": profile,
        }
        have = [row for row in setting.log.done(**settings) if "judged" in row["result"]]
        if len(have) >= trials or setting.over:
            continue
        bundle = setting.bundle("aa", subject, ["base"], profile, looked_at_twice=["base"])
        before: Measured | None = None
        index, patience = len(have), Patience(setting)
        with condition(name, setting.cpu, setting.seed + index):
            while index < trials and not setting.over:
                row = {**settings, "seed": setting.seed, "command": setting.command}
                try:
                    found, device = measure(bundle, setting.work / "results")
                except NoMeasurementError as error:
                    patience.failed(row, error)
                    before = None
                    continue
                patience.succeeded()
                now = found["base"]
                result: dict[str, Any] = {"measured": now.record()}
                if before is not None:
                    result["floor"] = before.record()
                    result["judged"] = judged(now, before)
                    result["others"] = setting.others(bundle, index, 0.0)
                    index += 1
                    setting.tell(
                        f"aa {name} {index}/{trials}: {now.ratio.point:.4f} "
                        f"[{now.ratio.low:.4f}, {now.ratio.high:.4f}] "
                        f"{result['judged']['by_interval']}, {result['judged']['verdict']}, "
                        f"{before.seconds:.1f} + {now.seconds:.1f} s"
                    )
                setting.log.append({**row, "index": index}, device, result)
                before = now
