"""Progress on the terminal: what runs, how far, how long still. Quiet where there is none."""

from __future__ import annotations

import sys
from types import TracebackType

from edgebench.cli.output import console


class TerminalProgress:
    """Shows the pipeline's steps on standard error, one line that is replaced."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._live = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console(stderr=True),
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=None, detail="", visible=False)

    def __enter__(self) -> TerminalProgress:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._bar.stop()

    def begin(self, step: str, total: float | None = None) -> None:
        """A step starts."""
        self._bar.reset(
            self._task, total=total, description=step, detail="", visible=True, completed=0
        )

    def advance(self, done: float, detail: str = "") -> None:
        """So much of the current step is done."""
        self._bar.update(self._task, completed=done, detail=detail)

    def end(self, *, reused: bool = False) -> None:
        """The current step is done, or was already."""
        self._bar.update(self._task, visible=False)

    def say(self, line: str) -> None:
        """Something worth a line of its own."""
        if not self._quiet:
            self._bar.console.print(line, markup=False)
