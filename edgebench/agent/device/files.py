"""Reads the small files by which Linux tells about itself; one that is not there is None."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from pathlib import Path


def text(path: Path) -> Optional[str]:
    """The content of a file without surrounding space, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().rstrip("\0")
    except (OSError, ValueError):
        return None


def number(path: Path) -> Optional[int]:
    """The whole number in a file, or None where there is none."""
    try:
        return int(text(path) or "")
    except ValueError:
        return None


def table(path: Path) -> dict[str, int]:
    """The lines `name number` of a file (cpu.stat, memory.events, vmstat)."""
    found = re.findall(r"^(\S+)\s+(\d+)$", text(path) or "", re.MULTILINE)
    return {name: int(value) for name, value in found}


def numbered(folder: Path, pattern: str) -> list[Path]:
    """What is in a folder under names that end in numbers, cpu2 before cpu10."""

    def rank(path: Path) -> tuple[list[int], str]:
        return [int(n) for n in re.findall(r"\d+", path.name)], path.name

    return sorted(folder.glob(pattern), key=rank)


def cpu_list(content: str) -> list[int]:
    """The processors of a list such as "0-3,8", or of "0 1 2"."""
    cpus: list[int] = []
    for part in re.findall(r"\d+(?:-\d+)?", content):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
