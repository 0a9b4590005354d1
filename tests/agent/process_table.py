"""The processes of this machine by what their command lines say: none may be left behind."""

from __future__ import annotations

import time
from pathlib import Path

_PATIENCE_S = 10.0


def naming(*texts: str, without: str | None = None) -> list[int]:
    """The ids of the processes whose command line holds all `texts`, and not `without`.

    Arguments are separated by a null character, as in /proc.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if without is not None and without.encode() in command:
            continue
        if all(text.encode() in command for text in texts):
            found.append(int(entry.name))
    return found


def await_gone(*texts: str, without: str | None = None) -> list[int]:
    """Wait until `naming` finds none; gives those that are still there after 10 s."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = naming(*texts, without=without)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)
