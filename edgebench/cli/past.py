"""`edgebench history`: the store of past runs."""

from __future__ import annotations

from typing import Annotated

import typer

from edgebench.cli.options import DebugOption, JsonOption

app = typer.Typer(help="The store of past runs.", no_args_is_help=True)


@app.command("list")
def list_(
    recipe: Annotated[str | None, typer.Option(help="Only runs of this recipe.")] = None,
    target: Annotated[str | None, typer.Option(help="Only runs on this target.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    debug: DebugOption = False,
) -> int:
    """List past runs, newest first."""
    del debug
    from edgebench.cli.output import console, print_rich
    from edgebench.history import History, history_table

    rows = History.open().list(recipe=recipe, target=target, limit=limit)
    if not rows:
        print("no runs yet; 'edgebench run' adds one")
        return 0
    print_rich(history_table(rows, console().width))
    return 0


@app.command("show")
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The id or how it begins.")],
    json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Show one past run as it was."""
    del debug
    from edgebench.cli.output import print_run
    from edgebench.history import History

    run, folder = History.open().get(run_id)
    print_run(run, folder / "report.html", as_json=json)
    return 0
