"""What happened to the device while something was measured on it, and whether that spoils it."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Sequence

from . import frequency, heat, processor, surroundings
from .files import text
from .nvml import Nvml

# Below these a measurement is not spoilt: what an idle system does by itself.
SWAPPED_PAGES = 256
STOPPED_SHARE = 0.01
CARD_SLOWED_SHARE = 0.01
# Governors round a clock to steps of their own.
CLOCK_CHANGE = 0.02
# Here the clock of a sleeping processor is a guess: it is counted in cycles while it works.
_COUNTED_WHILE_AWAKE = ("intel_pstate", "intel_cpufreq", "amd-pstate", "acpi-cpufreq")
_PAGES_PER_MIB = (1 << 20) // os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Watched(NamedTuple):
    """What changed, and in one line each why a measurement meanwhile is not valid."""

    changes: dict[str, Any]
    reasons: list[str]


class Watch:
    """Looks at the device before and after; costs nothing in between.

    `cpus` are the processors whose clocks count (all this process may use); `cards` whether those
    of NVIDIA do. `clock` gives seconds.
    """

    def __init__(
        self,
        root: Path,
        cpus: Optional[Sequence[int]] = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        cards: bool = True,
    ) -> None:
        self._root = root
        self._cpus = list(cpus) if cpus is not None else processor.allowed_cpus()
        self._clock = clock
        self._nvidia = Nvml.open() if cards and root == Path("/") else None
        self._before: dict[str, Any] = {}

    def start(self) -> None:
        """Look at the device before."""
        self._before = self._look()

    def stop(self) -> Watched:
        """Look at the device again; what changed since `start`."""
        before, after = self._before, self._look()
        seconds = max(after["seconds"] - before["seconds"], 1e-9)
        counted = _difference(before["throttle"], after["throttle"])
        changes: dict[str, Any] = {
            "seconds": round(seconds, 3),
            "throttle_events": sum(counted.values()),
            "throttle_causes": {name: n for name, n in counted.items() if n},
            "throttled_now": after["throttled_now"],
            "cgroup": _cgroup(before["cgroup"], after["cgroup"], seconds),
            "swapped_pages": _difference(before["swapped"], after["swapped"]),
            "killed_for_memory": (after["killed"] or 0) - (before["killed"] or 0),
            "frequency_khz": _both(before, after, "khz"),
            "temperature_c": _both(before, after, "temperature_c"),
            "load_1min": _both(before, after, "load_1min"),
            **_shares(before, after),
            "settings_changed": before["settings"] != after["settings"],
            "nvidia": _cards(before["cards"], after["cards"], seconds),
        }
        if self._nvidia is not None:
            self._nvidia.close()
        reasons = _reasons(changes)
        reasons += _clocks(self._root, before, after)
        return Watched(changes, reasons)

    def _look(self) -> dict[str, Any]:
        root = self._root
        temperatures = heat.temperatures(root)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "seconds": self._clock(),
            "throttle": heat.throttle_counts(root),
            "throttled_now": heat.throttled_now(root),
            "cgroup": surroundings.cgroup_throttling(root),
            "swapped": surroundings.swapped_pages(root),
            "killed": surroundings.killed_for_memory(root),
            "khz": frequency.current_khz(root, self._cpus),
            "temperature_c": max(temperatures.values()) if temperatures else None,
            "load_1min": surroundings.load(root)["load_1min"],
            "ticks": surroundings.processor_time(root),
            "children_s": children.ru_utime + children.ru_stime,
            "settings": frequency.settings(root),
            "locked": frequency.lock_of(root).locked,
            "cards": None
            if self._nvidia is None
            else {"state": self._nvidia.state(), "slowed_ns": self._nvidia.slowed_ns()},
        }


def _reasons(changes: dict[str, Any]) -> list[str]:
    reasons = []
    slowed = changes["throttle_events"]
    if slowed:
        times = "once" if slowed == 1 else f"{slowed} times"
        causes = ", ".join(changes["throttle_causes"])
        reasons.append(f"the device slowed itself down {times} meanwhile ({causes})")
    if changes["throttled_now"]:
        reasons.append(f"the device is slowed down: {', '.join(changes['throttled_now'])}")
    group = changes["cgroup"]
    if group is not None and group["share"] > STOPPED_SHARE:
        reasons.append(
            f"its control group was stopped for {group['share']:.1%} of the time "
            f"({group['throttled']} of {group['periods']} periods)"
        )
    pages = sum(changes["swapped_pages"].values())
    if pages >= SWAPPED_PAGES:
        reasons.append(f"the system swapped {pages / _PAGES_PER_MIB:.0f} MiB meanwhile")
    killed = changes["killed_for_memory"]
    if killed > 0:
        what = "a process" if killed == 1 else f"{killed} processes"
        reasons.append(f"the kernel killed {what} for want of memory meanwhile")
    for cause, share in (changes["nvidia"] or {}).get("slowed_share", {}).items():
        if share > CARD_SLOWED_SHARE:
            reasons.append(f"the card was slowed down for {share:.1%} of the time ({cause})")
    return reasons


def _clocks(root: Path, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if before["settings"] != after["settings"]:
        return ["the settings of the clocks changed meanwhile"]
    if not before["locked"]:
        return []
    reasons = []
    for cpu, khz in before["khz"].items():
        driver = text(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_driver") or ""
        later = after["khz"].get(cpu, khz)
        changed = abs(later - khz) > CLOCK_CHANGE * max(later, khz)
        if changed and not driver.startswith(_COUNTED_WHILE_AWAKE):
            reasons.append(
                f"the clock of processor {cpu} changed from {khz / 1000:.0f} to "
                f"{later / 1000:.0f} MHz although it is locked"
            )
    return reasons


def _both(before: dict[str, Any], after: dict[str, Any], name: str) -> dict[str, Any]:
    return {"before": before[name], "after": after[name]}


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    # A counter that went down was reset: what it shows now came since.
    return {
        name: value - before.get(name, 0) if value >= before.get(name, 0) else value
        for name, value in after.items()
    }


def _cgroup(
    before: Optional[dict[str, int]], after: Optional[dict[str, int]], seconds: float
) -> Optional[dict[str, Any]]:
    if after is None:
        return None
    changed = _difference(before or {}, after)
    return {
        "periods": changed["periods"],
        "throttled": changed["throttled"],
        "throttled_ms": changed["throttled_us"] / 1e3,
        # Each processor of a group is stopped for itself, and their times add up.
        "share": min(1.0, changed["throttled_us"] / 1e6 / seconds),
    }


def _shares(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Optional[float]]:
    """How much of the processors' time was stolen, and how much others than our children used."""
    if before["ticks"] is None or after["ticks"] is None:
        return {"stolen_share": None, "others_share": None}
    ticks = _difference(before["ticks"], after["ticks"])
    if not ticks["total"]:
        return {"stolen_share": 0.0, "others_share": 0.0}
    ours = (after["children_s"] - before["children_s"]) * _TICKS_PER_S
    return {
        "stolen_share": round(ticks["stolen"] / ticks["total"], 6),
        "others_share": round(max(0.0, ticks["busy"] - ours) / ticks["total"], 6),
    }


def _cards(
    before: Optional[dict[str, Any]], after: Optional[dict[str, Any]], seconds: float
) -> Optional[dict[str, Any]]:
    if before is None or after is None:
        return None
    slowed = _difference(before["slowed_ns"], after["slowed_ns"])
    return {
        "before": before["state"],
        "after": after["state"],
        "slowed_share": {name: round(ns / 1e9 / seconds, 6) for name, ns in slowed.items()},
    }
