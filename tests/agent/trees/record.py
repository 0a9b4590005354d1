"""Record the device this runs on as a tree for the tests.

    python tests/agent/trees/record.py FOLDER

copies every file that a device record and a watch read into FOLDER, below the same path, and makes
the folders they count. Look it through before it is passed on: nothing is left out, names of
control groups included.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebench.agent.device import device_record
from edgebench.agent.device.counters import counters
from edgebench.agent.device.sensors import find_sensors
from edgebench.agent.device.watch import Watch

RUNTIME = {"name": "onnxruntime", "version": "0", "providers": [], "numpy": "0"}


@contextmanager
def reads() -> Iterator[dict[Path, str | None]]:
    """What is read or looked for meanwhile, by path: a file's content, None for a folder."""
    seen: dict[Path, str | None] = {}
    read_text, glob = Path.read_text, Path.glob

    def noting(self: Path, *arguments: Any, **options: Any) -> str:
        content = read_text(self, *arguments, **options)
        seen.setdefault(self, content)
        return content

    def listing(self: Path, pattern: str) -> list[Path]:
        found = list(glob(self, pattern))
        for path in found:
            if path.is_dir():
                seen.setdefault(path, None)
        return found

    Path.read_text, Path.glob = noting, listing  # type: ignore[method-assign,assignment]
    try:
        yield seen
    finally:
        Path.read_text, Path.glob = read_text, glob  # type: ignore[method-assign]


def main(folder: Path) -> None:
    """Write the tree."""
    root = Path("/")
    with reads() as seen:
        device_record(root, RUNTIME)
        find_sensors(root)
        cpus = sorted(os.sched_getaffinity(0))
        counters(root, cpus)
        watch = Watch(root, cpus)
        watch.start()
        watch.stop()
    # A live device is asked for its architecture; a tree names it.
    seen.setdefault(Path("/proc/sys/kernel/arch"), platform.machine() + "\n")
    for path, content in sorted(seen.items()):
        target = folder / path.relative_to(root)
        if content is None:
            target.mkdir(parents=True, exist_ok=True)
            # Git keeps no folder that is empty.
            (target / ".keep").touch()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    print(f"{len(seen)} files and folders in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
