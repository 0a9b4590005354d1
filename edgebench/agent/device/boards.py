"""Boards that tell more than the kernel does: NVIDIA Jetson, Raspberry Pi, and power profiles.

Source: NVIDIA's L4T developer guide (nv_tegra_release, nvpmodel); the Devicetree specification; the
Linux kernel's ABI/testing/sysfs-platform_profile and sysfs-class-power.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Optional

from .files import number, text

if TYPE_CHECKING:
    from pathlib import Path


def board(root: Path) -> Optional[str]:
    """The board's name, as its device tree or its firmware tells it."""
    dmi = root / "sys/class/dmi/id"
    named = [text(dmi / "sys_vendor"), text(dmi / "product_name")]
    return text(root / "proc/device-tree/model") or " ".join(n for n in named if n) or None


def jetson(root: Path) -> Optional[dict[str, Any]]:
    """A Jetson's `model`, L4T release, and power mode; None on anything else."""
    release = text(root / "etc/nv_tegra_release")
    compatible = (text(root / "proc/device-tree/compatible") or "").replace("\0", " ").split()
    if release is None and not any(c.startswith("nvidia,tegra") for c in compatible):
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release or "")
    mode = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    number_of_mode = int(mode.group(1)) if mode else None
    return {
        "model": text(root / "proc/device-tree/model"),
        "l4t": f"{found.group(1)}.{found.group(2)}" if found else None,
        "power_mode": number_of_mode,
        "power_mode_name": _mode_name(root, number_of_mode),
    }


def power(root: Path) -> dict[str, Any]:
    """What a laptop's or a desktop's power settings are: `profile`, and whether on `battery`."""
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    online = [number(s / "online") for s in supplies if text(s / "type") == "Mains"]
    return {
        "profile": text(root / "sys/firmware/acpi/platform_profile"),
        "battery": not any(online) if online else None,
    }


def _mode_name(root: Path, mode: Optional[int]) -> Optional[str]:
    listed = re.findall(
        r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text(root / "etc/nvpmodel.conf") or ""
    )
    return {int(number_): name for number_, name in listed}.get(-1 if mode is None else mode)
