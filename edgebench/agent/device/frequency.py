"""The clocks: what limits them, what they are now, and whether anything may change them.

Source: the Linux kernel's admin-guide/pm/cpufreq.rst, intel_pstate.rst and ABI/testing/
sysfs-class-devfreq; for NVIDIA Jetson the L4T developer guide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from .files import cpu_list, number, numbered, text

if TYPE_CHECKING:
    from pathlib import Path

# What a Jetson calls its GPU, from Xavier and TX2 to Orin and Thor.
_GPU_NAMES = {"gv11b", "gp10b", "ga10b", "gb10b", "gpu", "gpu-gpc-0"}
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc"


class Lock(NamedTuple):
    """Whether the clocks are `locked`; if not, `reasons` says which may move."""

    locked: bool
    reasons: list[str]


def policies(root: Path) -> list[Path]:
    """The folders of the kernel's frequency policies, one for each group of processors."""
    base = root / "sys/devices/system/cpu"
    return numbered(base, "cpufreq/policy[0-9]*") or [
        cpu / "cpufreq" for cpu in numbered(base, "cpu[0-9]*") if (cpu / "cpufreq").is_dir()
    ]


def settings(root: Path) -> dict[str, Any]:
    """What somebody set, and what no load changes: governors, limits in kHz, turbo, GPU limits."""
    groups: dict[str, dict[str, Any]] = {}
    for policy in policies(root):
        group = {
            "driver": text(policy / "scaling_driver"),
            "governor": text(policy / "scaling_governor"),
            "preference": text(policy / "energy_performance_preference"),
            "least_khz": number(policy / "scaling_min_freq"),
            "most_khz": number(policy / "scaling_max_freq"),
            "hardware_most_khz": number(policy / "cpuinfo_max_freq"),
        }
        same = groups.setdefault(repr(group), {"cpus": [], **group})
        same["cpus"] += _cpus_of(policy)
    return {
        "policies": list(groups.values()),
        "turbo": turbo(root),
        "gpu": [
            {
                "name": name,
                "governor": text(folder / "governor"),
                "least_hz": number(folder / "min_freq"),
                "most_hz": number(folder / "max_freq"),
            }
            for name, folder in _gpus(root)
        ],
    }


def turbo(root: Path) -> Optional[bool]:
    """Whether the processor may leave its guaranteed clock for a higher one; None: unknown."""
    base = root / "sys/devices/system/cpu"
    no_turbo, boost = number(base / "intel_pstate/no_turbo"), number(base / "cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == 0
    return None if boost is None else boost == 1


def current_khz(root: Path, cpus: list[int]) -> dict[str, int]:
    """The clock of each of `cpus` now, in kHz, where it can be read."""
    base = root / "sys/devices/system/cpu"
    found = {str(cpu): number(base / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus}
    return {cpu: khz for cpu, khz in found.items() if khz is not None}


def gpu_state(root: Path) -> list[dict[str, Any]]:
    """The clock in Hz and the load in per cent of a Jetson's GPU now."""
    return [
        {
            "name": name,
            "current_hz": number(folder / "cur_freq"),
            "load_percent": None if load is None else load / 10,
        }
        for name, folder in _gpus(root)
        for load in [number(folder / "device/load")]
    ]


def lock_of(root: Path) -> Lock:
    """Whether nothing may change the clocks, those of a Jetson's GPU and memory included."""
    found = policies(root)
    if not found:
        return Lock(False, ["whether the clocks are locked cannot be read"])
    reasons = []
    floating, rising = set(), set()
    for policy in found:
        least, most = number(policy / "scaling_min_freq"), number(policy / "scaling_max_freq")
        governor = text(policy / "scaling_governor") or "unknown"
        fixed = least is not None and least == most
        guaranteed = number(policy / "base_frequency")
        if not fixed and governor != "performance":
            floating.add(governor)
        elif turbo(root) and (not fixed or (guaranteed and most and most > guaranteed)):
            rising.add(guaranteed)
    if floating:
        reasons.append(f"the clocks float (governor {', '.join(sorted(floating))})")
    elif rising:
        reasons.append("turbo is on: the clocks rise as far as heat and power allow")
    for name, folder in _gpus(root):
        if number(folder / "min_freq") != number(folder / "max_freq"):
            reasons.append(f"the GPU's clock floats ({name})")
    rate, top = number(root / _EMC / "rate"), number(root / _EMC / "max_rate")
    if rate is not None and top is not None and rate != top:
        reasons.append("the memory's clock is below its most")
    return Lock(not reasons, reasons)


def _cpus_of(policy: Path) -> list[int]:
    listed = text(policy / "affected_cpus")
    return cpu_list(listed) if listed else cpu_list(policy.parent.name)


def _gpus(root: Path) -> list[tuple[str, Path]]:
    found = []
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        name = text(folder / "device/of_node/name") or folder.name
        if name in _GPU_NAMES:
            found.append((name, folder))
    return found
