"""What shares the device: load, swap, stolen time, control groups, containers, virtual machines.

Source: the Linux kernel's Documentation/filesystems/proc.rst, accounting/psi.rst,
admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/; for containers, the marks that systemd's
Container Interface, Docker and Podman leave.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Iterator, Optional

from .files import number, table, text

if TYPE_CHECKING:
    from pathlib import Path

# Guests on ARM carry no hypervisor flag; their firmware names the host's vendor.
_VIRTUAL_VENDORS = ("QEMU", "Amazon EC2", "Google", "Microsoft Corporation", "VMware", "Xen")
# cgroup v1 says "no limit" with the largest number of pages.
_NO_LIMIT_BYTES = 1 << 60


def memory_mib(root: Path) -> dict[str, int]:
    """The entries of /proc/meminfo, in MiB."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    return {key: int(value) // 1024 for key, value in found}


def load(root: Path) -> dict[str, Any]:
    """Load over one minute, what is runnable now, and the share of time that work stood still."""
    found_load = re.match(r"([\d.]+) \S+ \S+ (\d+)/", text(root / "proc/loadavg") or "")
    pressure = {}
    for kind in ("cpu", "memory", "io"):
        found = re.search(r"^some avg10=([\d.]+)", text(root / f"proc/pressure/{kind}") or "")
        if found:
            pressure[kind] = float(found.group(1))
    return {
        "load_1min": float(found_load.group(1)) if found_load else None,
        "runnable": int(found_load.group(2)) if found_load else None,
        "pressure_10s_percent": pressure or None,
    }


def processor_time(root: Path) -> Optional[dict[str, int]]:
    """Ticks of all processors since the start: `total`, `busy` and `stolen` by the host."""
    first = (text(root / "proc/stat") or "").partition("\n")[0].split()
    if first[:1] != ["cpu"] or len(first) < 9 or not all(v.isdigit() for v in first[1:]):
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(v) for v in first[1:9])
    busy = user + nice + system + irq + softirq
    return {"total": busy + idle + iowait + steal, "busy": busy, "stolen": steal}


def virtual(root: Path, cpu_flags: str) -> bool:
    """Whether this is a guest: by the processor's flag, the firmware, the kernel's name."""
    vendor = text(root / "sys/class/dmi/id/sys_vendor") or ""
    release = (text(root / "proc/sys/kernel/osrelease") or "").lower()
    return (
        "hypervisor" in cpu_flags.split()
        or vendor.startswith(_VIRTUAL_VENDORS)
        or (root / "proc/device-tree/hypervisor").exists()
        or text(root / "sys/hypervisor/type") is not None
        or "microsoft" in release
    )


def container(root: Path) -> Optional[str]:
    """What kind of container this is, or None."""
    named = text(root / "run/systemd/container")
    if named:
        return named
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = (text(root / "proc/1/cgroup") or "") + (text(root / "proc/self/cgroup") or "")
    found = re.search(r"kubepods|docker|libpod|containerd|lxc", groups)
    return found.group(0) if found else None


def cgroup_limits(root: Path) -> dict[str, Any]:
    """What the control groups allow: `cpus` (processors' time), `memory_mib`, `cpuset`.

    Each is None where there is no limit. A group is limited by those above it too.
    """
    cpus, memory = [], []
    for folder in _groups(root, "cpu"):
        quota, _, period = (text(folder / "cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cpus.append(int(quota) / int(period))
        old_quota, old_period = (
            number(folder / "cpu.cfs_quota_us"),
            number(folder / "cpu.cfs_period_us"),
        )
        if old_quota and old_quota > 0 and old_period:
            cpus.append(old_quota / old_period)
    for folder in _groups(root, "memory"):
        memory += [
            most
            for most in (number(folder / "memory.max"), number(folder / "memory.limit_in_bytes"))
            if most is not None and most < _NO_LIMIT_BYTES
        ]
    cpuset = None
    for folder in _groups(root, "cpuset"):
        cpuset = cpuset or text(folder / "cpuset.cpus")
    return {
        "cpus": min(cpus) if cpus else None,
        "memory_mib": min(memory) >> 20 if memory else None,
        "cpuset": cpuset or None,
    }


def cgroup_throttling(root: Path) -> Optional[dict[str, int]]:
    """How many `periods` the control groups counted, in how many they stopped us, how long in µs.

    None where nothing is counted.
    """
    total = None
    for folder in _groups(root, "cpu"):
        stat = table(folder / "cpu.stat")
        if "nr_throttled" not in stat:
            continue
        total = total or {"periods": 0, "throttled": 0, "throttled_us": 0}
        total["periods"] += stat.get("nr_periods", 0)
        total["throttled"] += stat["nr_throttled"]
        # v1 counts nanoseconds.
        total["throttled_us"] += stat.get("throttled_usec", stat.get("throttled_time", 0) // 1000)
    return total


def killed_for_memory(root: Path) -> Optional[int]:
    """How many processes the kernel killed for want of memory; None where it does not count."""
    files = [root / "proc/vmstat"]
    for folder in _groups(root, "memory"):
        files += [folder / "memory.events", folder / "memory.oom_control"]
    counts = [table(file).get("oom_kill") for file in files]
    # The counts of a group are part of those above it and of the whole.
    return max((count for count in counts if count is not None), default=None)


def swapped_pages(root: Path) -> dict[str, int]:
    """How many pages went out to swap and came in again since the start."""
    stat = table(root / "proc/vmstat")
    return {"in": stat.get("pswpin", 0), "out": stat.get("pswpout", 0)}


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of our control group and of those above it, v2 and v1, innermost first."""
    base = root / "sys/fs/cgroup"
    own = {"": "/"}
    for line in (text(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        own.update(dict.fromkeys(names.split(","), path))
    mounts = [(base, own[""]), (base / "unified", own[""])]
    # Where v1 mounts processors together, the short name is a link to the long one.
    together = base / "cpu,cpuacct"
    v1 = together if controller == "cpu" and together.is_dir() else base / controller
    mounts.append((v1, own.get(controller, "/")))
    for mount, path in mounts:
        folder = mount / path.strip("/")
        # Inside a container the path may be that of the host, while its own group is the mount.
        while not folder.is_dir() and folder != mount:
            folder = folder.parent
        while folder.is_dir():
            yield folder
            if folder == mount:
                break
            folder = folder.parent
