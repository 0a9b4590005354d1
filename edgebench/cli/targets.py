"""`edgebench targets`: the devices there are files for."""

from __future__ import annotations

from typing import Annotated

import typer

from edgebench.cli.options import DebugOption

app = typer.Typer(help="The devices there are files for.", no_args_is_help=True)


@app.command("list")
def list_(debug: DebugOption = False) -> int:
    """List the targets and what they are."""
    del debug
    from edgebench.cli.listing import print_rows
    from edgebench.errors import EdgebenchError
    from edgebench.target import load_target, target_files

    rows = []
    for name in sorted(target_files()):
        try:
            rows.append((name, load_target(name).description))
        except EdgebenchError as error:
            rows.append((name, f"cannot be used: {error.line()}"))
    print_rows(rows)
    return 0


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A target's name or file.")],
    debug: DebugOption = False,
) -> int:
    """Print a target with every setting, and where its file is."""
    del debug
    import yaml

    from edgebench.target import load_target, target_files

    target = load_target(name)
    path = target_files().get(name, name)
    print(f"# {path}")
    print(yaml.safe_dump(target.model_dump(mode="json"), sort_keys=False), end="")
    return 0
