"""What the pipeline tells whoever watches: steps, how far, and what was already there."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A watcher. Steps come one after the other; `total` and `done` are in the step's own unit."""

    def begin(self, step: str, total: float | None = None) -> None:
        """A step starts."""

    def advance(self, done: float, detail: str = "") -> None:
        """So much of the current step is done."""

    def end(self, *, reused: bool = False) -> None:
        """The current step is done, or was already."""

    def say(self, line: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """A watcher that does not look."""

    def begin(self, step: str, total: float | None = None) -> None:
        """Nothing to show."""

    def advance(self, done: float, detail: str = "") -> None:
        """Nothing to show."""

    def end(self, *, reused: bool = False) -> None:
        """Nothing to show."""

    def say(self, line: str) -> None:
        """Nothing to show."""
