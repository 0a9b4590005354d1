"""Power: the second model is the first one, made slower by a known share. Is it found?

The delay is a spin inside the timed call, that share of the model's own median call, which the
noise floor's measurement (base against base, in the same condition) has just seen. Each trial has
a noise floor of its own, and its seconds are those of both measurements.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness.altered_worker import command
from benchmarks.harness.judging import judged
from benchmarks.harness.measuring import NoMeasurementError, measure
from benchmarks.harness.noise import condition
from benchmarks.harness.setting import Patience, Setting

EXPERIMENT = "power"


def run(
    setting: Setting,
    conditions: list[str],
    trials: int,
    subject: str,
    profile: str,
    effect: float,
) -> None:
    """Go on until each condition has that many trials of this effect (0.03: 3 % slower)."""
    for name in conditions:
        settings = {
            "experiment": EXPERIMENT,
            "condition": name,
            "subject": subject,
            "profile": profile,
            "effect": effect,
        }
        have = [row for row in setting.log.done(**settings) if "judged" in row["result"]]
        if len(have) >= trials or setting.over:
            continue
        alone = setting.bundle("floor", subject, ["base"], profile)
        pair = setting.bundle(
            "pair",
            subject,
            ["base", "slower"],
            profile,
            timed=["slower"],
            looked_at_twice=["slower"],
        )
        index, patience = len(have), Patience(setting)
        with condition(name, setting.cpu, setting.seed + index):
            while index < trials and not setting.over:
                row = {**settings, "seed": setting.seed, "command": setting.command}
                try:
                    floor = measure(alone, setting.work / "results")[0]["base"]
                    delay = f"spin:{effect * floor.base_us * 1e3:.1f}"
                    found, device = measure(
                        pair, setting.work / "results", command({"slower": delay})
                    )
                except NoMeasurementError as error:
                    patience.failed(row, error)
                    continue
                patience.succeeded()
                now = found["slower"]
                result: dict[str, Any] = {
                    "measured": now.record(),
                    "floor": floor.record(),
                    "delay": delay,
                    "judged": judged(now, floor),
                    "others": setting.others(pair, index, effect),
                }
                index += 1
                setting.log.append({**row, "index": index}, device, result)
                setting.tell(
                    f"power {100 * effect:g} % {name} {index}/{trials}: {now.ratio.point:.4f} "
                    f"[{now.ratio.low:.4f}, {now.ratio.high:.4f}] {result['judged']['verdict']}, "
                    f"{floor.seconds:.1f} + {now.seconds:.1f} s"
                )
