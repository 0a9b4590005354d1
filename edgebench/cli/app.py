"""The commands and their options. Heavy parts are imported by the command that needs them."""

from __future__ import annotations

import typer

from edgebench.cli import bundles, compare, judge, listing, past, run, search, targets
from edgebench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE

app = typer.Typer(
    name="edgebench",
    help="May this compressed model ship to that device?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(run.run)
app.command("search")(search.search)
app.command("compare")(compare.compare)
app.command("gate")(judge.gate)
app.command("report")(judge.report)
app.command("bundle")(bundles.bundle)
app.command("ingest")(bundles.ingest)
app.command("list")(listing.list_)
app.add_typer(targets.app, name="targets")
app.add_typer(past.app, name="history")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """May this compressed model ship to that device?

    Exit codes: 0 GO or done, 1 NO-GO, 2 usage or recipe, 3 inconclusive, 4 not measured, 5 failed.
    """
    if version:
        from edgebench import __version__

        print(f"edgebench {__version__}")
        raise typer.Exit
    del context


def invoke(arguments: list[str]) -> int:
    """Run one command; returns its exit code. Wrong usage is one line and exit code 2."""
    import sys

    command = typer.main.get_command(app)
    try:
        result = command.main(arguments, prog_name="edgebench", standalone_mode=False)
    except SystemExit:
        # typer's only exit of its own here: the reader of our output (head, less) has seen enough.
        return EXIT_FAILED
    except Exception as error:
        # typer brings its own copy of click or the installed one: tell them by their interface.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        text = message()
        if text.startswith("Usage:"):
            # No arguments at all: the help is the answer, as it stands.
            print(text, file=sys.stderr)
        elif text:
            where = getattr(getattr(error, "ctx", None), "command_path", "edgebench")
            print(f"{where}: {text.rstrip('.')}; see '{where} --help'", file=sys.stderr)
        return EXIT_USAGE
    if result == EXIT_INTERRUPTED:
        # typer turns an interrupt into this code; the way in says how to go on.
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0
