"""What the device is (identity), in which state it is, and how far its times can be trusted.

Everything is read below a root folder, so that recorded trees can be read as well. Sources: the
Linux kernel's Documentation/filesystems/proc.rst, admin-guide/pm/cpufreq.rst and
admin-guide/cgroup-v2.rst; for NVIDIA Jetson the L4T developer guide.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

SCHEMA = "edgebench.device/1"

_FLAGS = {
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "f16c"),
    *("asimd", "asimddp", "i8mm", "fphp", "asimdhp", "bf16", "sve"),
}
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",
}
# Guests on ARM carry no hypervisor flag; their firmware names the host's vendor.
_VIRTUAL_VENDORS = ("QEMU", "Amazon EC2", "Google", "Microsoft Corporation", "VMware", "Xen")
# Total memory differs by a few MiB from one kernel to the next on the same board.
_MEMORY_STEP_MIB = 256


def device_record(root: Path, runtime: dict[str, Any]) -> dict[str, Any]:
    """The content of device.json.

    `runtime` holds `name`, `version`, `providers` and `numpy`, as the runtime itself tells them.
    """
    identity = _identity(root, runtime)
    state = _state(root, identity)
    grade, reasons = _grade(identity, state)
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return {
        "schema": SCHEMA,
        "fingerprint": hashlib.sha256(canonical.encode()).hexdigest(),
        "identity": identity,
        "state": state,
        "grade": grade,
        "grade_reasons": reasons,
    }


def allowed_cpus() -> list[int]:
    """The processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pick_cpus(root: Path, count: int) -> list[int]:
    """The `count` fastest processors this process may use; the last ones where they are alike.

    The first processors serve most interrupts.
    """
    allowed = allowed_cpus()
    ranked = sorted(allowed, key=lambda cpu: (_speed(root, cpu), cpu))
    return sorted(ranked[-count:])


def throttle_events(root: Path) -> int:
    """How often the device slowed itself down since it was started."""
    total = 0
    for file in (root / "sys/devices/system/cpu").glob(
        "cpu[0-9]*/thermal_throttle/*_throttle_count"
    ):
        total += _number(file) or 0
    for monitor in (root / "sys/class/hwmon").glob("hwmon*"):
        if _text(monitor / "name") == "soctherm_oc":
            total += sum(_number(f) or 0 for f in monitor.glob("oc*_event_cnt"))
    return total


def _identity(root: Path, runtime: dict[str, Any]) -> dict[str, Any]:
    processors = _cpuinfo(root)
    first = processors[0] if processors else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    memory = _meminfo(root).get("MemTotal", 0)
    # A recorded tree names its own machine; on a live one uname also sees through emulation.
    recorded = None if root == Path("/") else _text(root / "proc/sys/kernel/arch")
    return {
        "machine": recorded or platform.machine(),
        "system": platform.system(),
        "cpu_model": _cpu_model(first),
        "cpu_flags": sorted(flags & _FLAGS),
        "cores": len(processors) or os.cpu_count() or 1,
        "memory_mib": round(memory / _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB,
        "python": platform.python_version(),
        "numpy": runtime["numpy"],
        "runtime": {"name": runtime["name"], "version": runtime["version"]},
        "providers": runtime["providers"],
        "jetson": _jetson(root),
        "gpu": _gpus(root),
    }


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    processors = []
    for paragraph in (_text(root / "proc/cpuinfo") or "").split("\n\n"):
        pairs = [line.split(":", 1) for line in paragraph.splitlines() if ":" in line]
        fields = {key.strip(): value.strip() for key, value in pairs}
        if "processor" in fields:
            processors.append(fields)
    return processors


def _cpu_model(fields: dict[str, str]) -> str:
    if "CPU part" in fields:
        implementer = fields.get("CPU implementer", "?")
        part = fields["CPU part"]
        known = _ARM_PARTS.get(part) if implementer == "0x41" else None
        return known or f"ARM implementer {implementer} part {part}"
    return fields.get("model name") or platform.processor() or "unknown"


def _jetson(root: Path) -> dict[str, Any] | None:
    release = _text(root / "etc/nv_tegra_release")
    compatible = (_text(root / "proc/device-tree/compatible") or "").replace("\0", " ").split()
    if release is None and not any(c.startswith("nvidia,tegra") for c in compatible):
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    mode = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status") or "")
    return {
        "model": _text(root / "proc/device-tree/model"),
        "l4t": f"{found.group(1)}.{found.group(2)}" if found else None,
        "power_mode": int(mode.group(1)) if mode else None,
    }


def _gpus(root: Path) -> list[str]:
    names = []
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        found = re.search(r"^Model:\s*(.+)$", _text(file) or "", re.MULTILINE)
        if found:
            names.append(found.group(1).strip())
    return names


def _state(root: Path, identity: dict[str, Any]) -> dict[str, Any]:
    memory = _meminfo(root)
    load = (_text(root / "proc/loadavg") or "").split()
    policies = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    vendor = _text(root / "sys/class/dmi/id/sys_vendor") or ""
    flagged = any(
        "hypervisor" in p.get("flags", "").split() for p in _cpuinfo(root)[:1]
    ) or vendor.startswith(_VIRTUAL_VENDORS)
    return {
        "kernel": _text(root / "proc/sys/kernel/osrelease") or platform.release(),
        "allowed_cpus": allowed_cpus(),
        "load_1min": float(load[0]) if load else None,
        "runnable": int(load[3].split("/")[0]) if len(load) > 3 else None,
        "governors": sorted({g for g in (_text(p / "scaling_governor") for p in policies) if g}),
        "frequency_khz": [_number(p / "scaling_cur_freq") for p in policies],
        "frequency_locked": _clocks_locked(root, policies),
        "memory_available_mib": memory.get("MemAvailable"),
        "swap_used_mib": memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        "temperature_c": _hottest(root),
        "throttle_events": throttle_events(root),
        "virtual": flagged,
        "cgroup_cpus": _cgroup_cpus(root),
        "offered_cores": identity["cores"],
    }


def _grade(identity: dict[str, Any], state: dict[str, Any]) -> tuple[str, list[str]]:
    shared = []
    if state["virtual"]:
        shared.append("a virtual machine: others may use its processor unseen")
    if state["cgroup_cpus"] is not None:
        shared.append(f"a cgroup limits it to {state['cgroup_cpus']:g} processors")
    # The one-minute load still remembers work that is over; something must be running now too.
    load, runnable = state["load_1min"], state["runnable"]
    if load is not None and load > 0.5 * identity["cores"] and (runnable or 0) > 1:
        shared.append(f"other programs keep it busy (load {load:g} on {identity['cores']} cores)")
    if shared:
        return "C", shared
    if state["frequency_locked"]:
        return "A", ["the clocks are locked and it is not a virtual machine"]
    if not state["governors"]:
        return "B", ["whether the clocks are locked cannot be read"]
    return "B", [f"the clocks float (governor {', '.join(state['governors'])})"]


def _clocks_locked(root: Path, policies: list[Path]) -> bool:
    if not policies:
        return False
    for policy in policies:
        least, most = _number(policy / "scaling_min_freq"), _number(policy / "scaling_max_freq")
        if _text(policy / "scaling_governor") != "performance" and (least is None or least != most):
            return False
    for device in (root / "sys/class/devfreq").glob("*"):
        name = (_text(device / "device/of_node/name") or device.name).rstrip("\0")
        if name in {"gv11b", "gp10b", "ga10b", "gb10b", "gpu", "gpu-gpc-0"} and _number(
            device / "min_freq"
        ) != _number(device / "max_freq"):
            return False
    return True


def _cgroup_cpus(root: Path) -> float | None:
    """How many processors' time the control group allows, or None where it sets no limit."""
    base = root / "sys/fs/cgroup"
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup") or "", re.MULTILINE)
    limits = []
    folders = {base, base / own.group(1)} if own else {base}
    for folder in folders:
        quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
        if quota != "max" and period:
            limits.append(int(quota) / int(period))
    for folder in (base / "cpu", base / "cpu,cpuacct"):
        old_quota = _number(folder / "cpu.cfs_quota_us")
        old_period = _number(folder / "cpu.cfs_period_us")
        if old_quota and old_quota > 0 and old_period:
            limits.append(old_quota / old_period)
    return min(limits) if limits else None


def _hottest(root: Path) -> float | None:
    readings = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        value = _number(zone / "temp")
        # PMIC zones always say 100 °C; a sensor that is off says -256.
        if value is not None and value > -200_000 and "PMIC" not in (_text(zone / "type") or ""):
            readings.append(value / 1000)
    return max(readings) if readings else None


def _speed(root: Path, cpu: int) -> int:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}"
    return _number(folder / "cpu_capacity") or _number(folder / "cpufreq/cpuinfo_max_freq") or 0


def _meminfo(root: Path) -> dict[str, int]:
    """The entries of /proc/meminfo, in MiB."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return {key: int(value) // 1024 for key, value in found}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None
