"""Temperatures, and how often or why the device slowed itself down.

Source: the Linux kernel's ABI/testing/sysfs-devices-system-cpu (thermal_throttle) and
driver-api/thermal/sysfs-api.rst; NVIDIA's L4T developer guide (soctherm); Raspberry Pi's
documentation of `vcgencmd get_throttled`, whose value the firmware driver also gives as a file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

from .files import number, numbered, text

if TYPE_CHECKING:
    from pathlib import Path

_FIRMWARE = ("sys/devices/platform/soc/soc:firmware", "sys/devices/platform/soc@*/*:firmware")
# Bits 0 to 3 hold now, bits 16 to 19 have held at some time.
_FIRMWARE_BITS = ("under-voltage", "capped clock", "throttling", "soft temperature limit")
_SLOWING = re.compile(r"cpufreq|devfreq|processor|pstate|powerclamp", re.IGNORECASE)


def temperatures(root: Path) -> dict[str, float]:
    """The temperature of each zone in °C; without those that are off or only pretend."""
    found: dict[str, float] = {}
    for zone in numbered(root / "sys/class/thermal", "thermal_zone[0-9]*"):
        value, kind = number(zone / "temp"), text(zone / "type") or zone.name
        # PMIC zones always say 100 °C; a sensor that is off says -256.
        if value is not None and value > -200_000 and "PMIC" not in kind:
            name = kind if kind not in found else f"{kind} ({zone.name})"
            found[name] = value / 1000
    return found


def counter_files(root: Path, cpus: Optional[list[int]] = None) -> dict[str, list[Path]]:
    """The files that count slow-downs, by what they count; of processors, only of `cpus`.

    Hyper-threads show the counter of their core, and all processors that of their package: each
    is named once.
    """
    found: dict[str, list[Path]] = {}
    seen = set()
    for cpu in numbered(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        if cpus is not None and int(cpu.name[3:]) not in cpus:
            continue
        package = number(cpu / "topology/physical_package_id")
        core = number(cpu / "topology/core_id")
        for kind, place in (("core", (package, core)), ("package", (package,))):
            file = cpu / f"thermal_throttle/{kind}_throttle_count"
            known = (kind, place if None not in place else cpu.name)
            if known not in seen and file.is_file():
                seen.add(known)
                found.setdefault(f"processor {kind} too hot", []).append(file)
    for monitor in numbered(root / "sys/class/hwmon", "hwmon[0-9]*"):
        if text(monitor / "name") == "soctherm_oc":
            for file in numbered(monitor, "oc[0-9]*_event_cnt"):
                found.setdefault(f"over-current {file.name.partition('_')[0]}", []).append(file)
    return found


def throttle_counts(root: Path) -> dict[str, int]:
    """How often each cause slowed the device down since it was started."""
    counts = {
        name: sum(number(file) or 0 for file in files)
        for name, files in counter_files(root).items()
    }
    value = firmware_value(root)
    if value is not None:
        for bit, name in enumerate(_FIRMWARE_BITS):
            counts[f"firmware: {name}"] = value >> (16 + bit) & 1
    return counts


def throttle_events(root: Path) -> int:
    """How often the device slowed itself down since it was started."""
    return sum(throttle_counts(root).values())


def throttled_now(root: Path) -> list[str]:
    """Why the device is slower at this moment than its settings say; empty where it is not."""
    value = firmware_value(root) or 0
    reasons = [f"firmware: {name}" for bit, name in enumerate(_FIRMWARE_BITS) if value >> bit & 1]
    for device in numbered(root / "sys/class/thermal", "cooling_device[0-9]*"):
        kind, most = text(device / "type") or "", number(device / "max_state") or 0
        # A device at rest says 0, or (intel_powerclamp) -1.
        step = number(device / "cur_state") or 0
        if 0 < step <= most and _SLOWING.search(kind):
            reasons.append(f"cooling by {kind} (step {step} of {most})")
    return reasons


def firmware_file(root: Path) -> Optional[Path]:
    """Where a Raspberry Pi's firmware tells whether it throttles, or None."""
    for folder in _FIRMWARE:
        for file in sorted(root.glob(f"{folder}/get_throttled")):
            return file
    return None


def firmware_value(root: Path) -> Optional[int]:
    """The bits of a Raspberry Pi's `get_throttled`, or None where there is no such file."""
    file = firmware_file(root)
    try:
        return None if file is None else int(text(file) or "", 16)
    except ValueError:
        return None
