"""What the commands print."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from edgebench.records import RunRecord

# Wide enough for every column; a file or a pipe has no width of its own.
WIDTH_WITHOUT_TERMINAL = 160


def console(*, stderr: bool = False) -> Console:
    """A rich console as wide as the terminal, or wide where there is none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, soft_wrap=False, highlight=False)


def print_rich(what: RenderableType) -> None:
    """Print something rich on standard output; without the padding where nobody sees colours."""
    screen = console()
    if screen.is_terminal:
        screen.print(what)
        return
    with screen.capture() as captured:
        screen.print(what, markup=False)
    write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def write(text: str) -> None:
    """Write to standard output; a reader that has seen enough (head, less) changes no exit code."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_run(run: RunRecord, report: Path | None, *, as_json: bool) -> None:
    """The finished run: for people, with where its report lies, or `run.json` for machines."""
    if as_json:
        write(run.model_dump_json(indent=1) + "\n")
        return
    from edgebench.report.terminal import summary

    print_rich(summary(run, console().width, report))
