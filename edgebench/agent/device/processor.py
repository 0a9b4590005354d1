"""The processor: its model, the instructions that matter to a network, caches, and who may use it.

Source: the Linux kernel's Documentation/filesystems/proc.rst, admin-guide/cputopology.rst and
ABI/testing/sysfs-devices-system-cpu; Arm's part numbers are those of its reference manuals.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from .files import cpu_list, number, numbered, text

if TYPE_CHECKING:
    from pathlib import Path

# What int8, fp16 and bf16 kernels are chosen by.
_FLAGS = {
    *("fma", "f16c", "avx2", "avx_vnni", "avx_vnni_int8"),
    *("avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "asimd", "asimddp", "i8mm", "fphp", "asimdhp", "bf16"),
    *("sve", "sve2", "svei8mm", "svebf16", "sme", "smei8i32"),
}
# With one of these, sums of int8 products are kept in 32 bits; with AVX2 alone they saturate at 16.
_EXACT_INT8 = {"avx_vnni", "avx_vnni_int8", "avx512_vnni", "amx_int8"}
_ARM_PARTS = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd04"): "Cortex-A35",
    ("0x41", "0xd05"): "Cortex-A55",
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd09"): "Cortex-A73",
    ("0x41", "0xd0a"): "Cortex-A75",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd0d"): "Cortex-A77",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd41"): "Cortex-A78",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd44"): "Cortex-X1",
    ("0x41", "0xd46"): "Cortex-A510",
    ("0x41", "0xd47"): "Cortex-A710",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd80"): "Cortex-A520",
    ("0x41", "0xd81"): "Cortex-A720",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x4e", "0x003"): "NVIDIA Denver 2",
    ("0x4e", "0x004"): "NVIDIA Carmel",
}


def processors(root: Path) -> list[dict[str, str]]:
    """One mapping for each processor of /proc/cpuinfo."""
    found = []
    for paragraph in (text(root / "proc/cpuinfo") or "").split("\n\n"):
        pairs = [line.split(":", 1) for line in paragraph.splitlines() if ":" in line]
        fields = {key.strip(): value.strip() for key, value in pairs}
        if "processor" in fields:
            found.append(fields)
    return found


def flags(found: list[dict[str, str]]) -> list[str]:
    """The instructions that matter to int8, fp16 and bf16, of those all processors have."""
    sets = [set((f.get("flags") or f.get("Features") or "").split()) for f in found]
    return sorted(set.intersection(*sets) & _FLAGS) if sets else []


def model(found: list[dict[str, str]]) -> str:
    """The processor's name; of unlike cores, each one's."""
    names = list(dict.fromkeys(_name(fields) for fields in found))
    return " + ".join(names) or platform.processor() or "unknown"


def microarchitecture(root: Path, found: list[dict[str, str]]) -> dict[str, Any]:
    """What decides beside the name: stepping, cores, caches in KiB, and whether int8 saturates."""
    first = found[0] if found else {}
    base = root / "sys/devices/system/cpu"
    siblings = cpu_list(text(base / "cpu0/topology/thread_siblings_list") or "")
    packages = {number(c / "topology/physical_package_id") for c in base.glob("cpu[0-9]*")}
    known = {name: sum(_name(f) == name for f in found) for name in map(_name, found)}
    for kind in ("core", "atom"):
        cpus = cpu_list(text(root / f"sys/devices/cpu_{kind}/cpus") or "")
        if cpus:
            known[f"x86 {kind}"] = len(cpus)
    present = set(flags(found))
    return {
        "family": first.get("cpu family") or first.get("CPU architecture"),
        "model": first.get("model") or first.get("CPU variant"),
        "stepping": first.get("stepping") or first.get("CPU revision"),
        "core_types": known,
        "threads_per_core": len(siblings) or None,
        "sockets": len(packages - {None}) or None,
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "cache_kib": _caches(base / "cpu0/cache"),
        "int8_may_saturate": "avx2" in present and not present & _EXACT_INT8,
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
    ranked = sorted(allowed_cpus(), key=lambda cpu: (_speed(root, cpu), cpu))
    return sorted(ranked[-count:])


def _name(fields: dict[str, str]) -> str:
    if "CPU part" in fields:
        implementer, part = fields.get("CPU implementer", "?"), fields["CPU part"]
        known = _ARM_PARTS.get((implementer, part))
        return known or f"ARM implementer {implementer} part {part}"
    return fields.get("model name") or platform.processor() or "unknown"


def _caches(folder: Path) -> dict[str, int]:
    sizes = {}
    for index in numbered(folder, "index[0-9]*"):
        kind = {"Data": "d", "Instruction": "i"}.get(text(index / "type") or "", "")
        size = text(index / "size") or ""
        if size.endswith("K") and size[:-1].isdigit():
            sizes[f"L{text(index / 'level')}{kind}"] = int(size[:-1])
    return sizes


def _speed(root: Path, cpu: int) -> int:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}"
    return number(folder / "cpu_capacity") or number(folder / "cpufreq/cpuinfo_max_freq") or 0
