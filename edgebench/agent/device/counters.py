"""What can be read between two timed blocks: slow-downs so far, and the clocks."""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from .heat import counter_files, firmware_file

if TYPE_CHECKING:
    from pathlib import Path


def counters(root: Path, cpus: Sequence[int]) -> Tuple[int, Tuple[int, ...]]:
    """How often the device slowed itself down, and the clock of each of `cpus` now in kHz.

    Takes a few microseconds: the files are found once and stay open. Where there are none it is
    (0, ()). A Raspberry Pi has bits instead of a counter; each that is set counts as one.
    """
    return _Reader.of(root, tuple(cpus)).read()


class _Reader:
    def __init__(self, root: Path, cpus: tuple[int, ...]) -> None:
        base = root / "sys/devices/system/cpu"
        self._counts = [
            fd
            for files in counter_files(root, list(cpus)).values()
            for fd in map(_opened, files)
            if fd is not None
        ]
        firmware = firmware_file(root)
        self._firmware = None if firmware is None else _opened(firmware)
        self._clocks = [
            fd
            for cpu in cpus
            for fd in [_opened(base / f"cpu{cpu}/cpufreq/scaling_cur_freq")]
            if fd is not None
        ]

    @staticmethod
    @lru_cache(maxsize=8)
    def of(root: Path, cpus: tuple[int, ...]) -> _Reader:
        return _Reader(root, cpus)

    def read(self) -> Tuple[int, Tuple[int, ...]]:
        count = sum(_value(fd, 10) for fd in self._counts)
        if self._firmware is not None:
            count += bin(_value(self._firmware, 16)).count("1")
        return count, tuple(_value(fd, 10) for fd in self._clocks)

    def __del__(self) -> None:
        for fd in (*self._counts, *self._clocks, self._firmware):
            if fd is not None:
                with contextlib.suppress(OSError):
                    os.close(fd)


def _opened(file: Path) -> Optional[int]:
    try:
        return os.open(str(file), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _value(fd: int, base: int) -> int:
    try:
        return int(os.pread(fd, 64, 0), base)
    except (OSError, ValueError):
        return 0
