"""The content of device.json: identity, state, and the grade that follows from them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any, Optional

from . import boards, frequency, heat, processor, surroundings
from .files import text
from .nvml import Nvml
from .sensors import find_sensors, unreadable_sensors

SCHEMA = "edgebench.device/1"

# Total memory differs by a few MiB from one kernel to the next on the same board.
_MEMORY_STEP_MIB = 256
# More than this share of the time at a standstill, and others keep the device busy.
_PRESSURE_PERCENT = 10.0


def device_record(root: Path, runtime: dict[str, Any]) -> dict[str, Any]:
    """The content of device.json.

    `runtime` holds `name`, `version`, `providers` and `numpy`, as the runtime itself tells them.
    The fingerprint is the sha256 of the identity: what the device is, and how it is set.
    """
    # A recorded tree has no driver to ask.
    nvidia = Nvml.open() if root == Path("/") else None
    try:
        identity = _identity(root, runtime, nvidia)
        state = _state(root, identity, nvidia)
    finally:
        if nvidia is not None:
            nvidia.close()
    grade, reasons = _grade(identity, state)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return {
        "schema": SCHEMA,
        "fingerprint": hashlib.sha256(canonical.encode()).hexdigest(),
        "identity": identity,
        "state": state,
        "grade": grade,
        "grade_reasons": reasons,
        "hazards": hazards(identity, state),
    }


def _identity(root: Path, runtime: dict[str, Any], nvidia: Optional[Nvml]) -> dict[str, Any]:
    found = processor.processors(root)
    memory = surroundings.memory_mib(root).get("MemTotal", 0)
    # A recorded tree names its own machine; on a live one uname also sees through emulation.
    recorded = None if root == Path("/") else text(root / "proc/sys/kernel/arch")
    cards = nvidia.identity() if nvidia is not None else None
    return {
        "machine": recorded or platform.machine(),
        "system": platform.system(),
        "board": boards.board(root),
        "cpu_model": processor.model(found),
        "cpu_flags": processor.flags(found),
        "microarchitecture": processor.microarchitecture(root, found),
        "cores": len(found) or os.cpu_count() or 1,
        "memory_mib": round(memory / _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB,
        "clocks": frequency.settings(root),
        "power": boards.power(root),
        "cgroup_cpus": surroundings.cgroup_limits(root)["cpus"],
        "python": platform.python_version(),
        "numpy": runtime["numpy"],
        "runtime": {"name": runtime["name"], "version": runtime["version"]},
        "providers": runtime["providers"],
        "jetson": boards.jetson(root),
        "gpu": _gpu_names(root, cards),
        "nvidia": cards,
    }


def _gpu_names(root: Path, cards: Optional[dict[str, Any]]) -> list[str]:
    if cards is not None:
        return [card["name"] for card in cards["cards"] if card["name"]]
    names = []
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.+)$", text(file) or "", re.MULTILINE)
        if found:
            names.append(found.group(1).strip())
    return names


def _state(root: Path, identity: dict[str, Any], nvidia: Optional[Nvml]) -> dict[str, Any]:
    memory = surroundings.memory_mib(root)
    limits = surroundings.cgroup_limits(root)
    cpus = list(range(identity["cores"]))
    first = processor.processors(root)[:1]
    lock = frequency.lock_of(root)
    temperatures = heat.temperatures(root)
    current = frequency.current_khz(root, cpus)
    return {
        "kernel": text(root / "proc/sys/kernel/osrelease") or platform.release(),
        "microcode": first[0].get("microcode") if first else None,
        "allowed_cpus": processor.allowed_cpus(),
        **surroundings.load(root),
        "governors": sorted(
            {p["governor"] for p in identity["clocks"]["policies"] if p["governor"]}
        ),
        "frequency_khz": list(current.values()),
        "frequency_locked": lock.locked,
        "clock_notes": lock.reasons,
        "memory_available_mib": memory.get("MemAvailable"),
        "memory_limit_mib": limits["memory_mib"],
        "swap_used_mib": memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        "swapped_pages": surroundings.swapped_pages(root),
        "killed_for_memory": surroundings.killed_for_memory(root),
        "stolen_share": _stolen_share(root),
        "temperatures_c": temperatures,
        "temperature_c": max(temperatures.values()) if temperatures else None,
        "throttle_events": heat.throttle_events(root),
        "throttle_counts": heat.throttle_counts(root),
        "throttled_now": heat.throttled_now(root),
        "virtual": surroundings.virtual(root, first[0].get("flags", "") if first else ""),
        "container": surroundings.container(root),
        "cgroup_cpus": limits["cpus"],
        "cgroup_cpuset": limits["cpuset"],
        "cgroup_throttling": surroundings.cgroup_throttling(root),
        "offered_cores": identity["cores"],
        "gpu": frequency.gpu_state(root),
        "nvidia": nvidia.state() if nvidia is not None else None,
        "energy_sensors": [sensor.name for sensor in find_sensors(root)],
        "energy_sensors_refused": unreadable_sensors(root),
    }


def _stolen_share(root: Path) -> Optional[float]:
    ticks = surroundings.processor_time(root)
    return round(ticks["stolen"] / ticks["total"], 6) if ticks and ticks["total"] else None


def _grade(identity: dict[str, Any], state: dict[str, Any]) -> tuple[str, list[str]]:
    shared = []
    if state["virtual"]:
        shared.append("a virtual machine: others may use its processor unseen")
    if state["cgroup_cpus"] is not None:
        shared.append(f"a cgroup limits it to {state['cgroup_cpus']:g} processors")
    shared += _busy(identity, state)
    if shared:
        return "C", shared
    floating = list(state["clock_notes"])
    offered = " ".join(identity["providers"]).lower()
    if identity["nvidia"] and identity["nvidia"]["cards"] and "cuda" in offered:
        # The driver tells no one whether a card's clocks are locked.
        floating.append("whether the NVIDIA card's clocks are locked cannot be read")
    if floating:
        return "B", floating
    return "A", ["the clocks are locked and it is not a virtual machine"]


def _busy(identity: dict[str, Any], state: dict[str, Any]) -> list[str]:
    # The one-minute load still remembers work that is over; something must be running now too.
    load, runnable = state["load_1min"], state["runnable"]
    if load is not None and load > 0.5 * identity["cores"] and (runnable or 0) > 1:
        return [f"other programs keep it busy (load {load:g} on {identity['cores']} cores)"]
    waiting = (state["pressure_10s_percent"] or {}).get("cpu", 0.0)
    if waiting > _PRESSURE_PERCENT:
        return [f"other programs keep it busy (work waited {waiting:g} % of the last 10 s)"]
    return []


def hazards(identity: dict[str, Any], state: dict[str, Any]) -> list[str]:
    """What may spoil a measurement here, each on one line; empty where nothing is in sight."""
    found = _busy(identity, state)
    found += [f"it is slowed down now: {reason}" for reason in state["throttled_now"]]
    found += [
        f"card {index} is slowed down now: {', '.join(card['slowed_by'])}"
        for index, card in enumerate(state["nvidia"] or [])
        if card["slowed_by"]
    ]
    if state["throttle_events"]:
        causes = ", ".join(name for name, count in state["throttle_counts"].items() if count)
        found.append(
            f"it slowed itself down {_times(state['throttle_events'])} since its start ({causes})"
        )
    counted = state["cgroup_throttling"] or {}
    if counted.get("throttled"):
        found.append(
            f"its control group was stopped in {counted['throttled']} of {counted['periods']} "
            "periods so far"
        )
    if state["swap_used_mib"]:
        found.append(f"{state['swap_used_mib']} MiB are swapped out")
    if state["stolen_share"] and state["stolen_share"] > 0.01:
        found.append(f"its host took {state['stolen_share']:.0%} of its time so far")
    if state["killed_for_memory"]:
        found.append(
            f"the kernel killed processes for want of memory {_times(state['killed_for_memory'])}"
        )
    if identity["power"]["battery"]:
        found.append("it runs on its battery")
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
