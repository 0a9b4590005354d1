"""How much memory this process holds, as the kernel counts it."""

from __future__ import annotations

import resource

_MIB = 1024.0
_ADDR_NO_RANDOMIZE = 0x0040000


def reset_peak_memory() -> bool:
    """Make VmHWM start from now (Linux 4.0 and later); says whether that worked."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def memory_mib(field: str) -> float:
    """VmRSS (resident now) or VmHWM (the peak) in MiB; the peak where there is no /proc."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) / _MIB
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB


def addresses_randomised() -> bool:
    """Whether this process got addresses of its own: else all processes share one layout's luck.

    Source: proc(5), /proc/sys/kernel/randomize_va_space, and personality(2).
    """
    try:
        with open("/proc/sys/kernel/randomize_va_space", encoding="ascii") as file:
            asked = int(file.read()) > 0
        with open("/proc/self/personality", encoding="ascii") as file:
            refused = int(file.read(), 16) & _ADDR_NO_RANDOMIZE
    except (OSError, ValueError):
        return False
    return asked and not refused
