"""`edgebench search`: the best chain for a target, found by trying."""

from __future__ import annotations

from typing import Annotated

import typer

from edgebench.cli.options import (
    DataOption,
    DebugOption,
    HostOption,
    JsonOption,
    ModelOption,
    OutOption,
    SetOption,
    TargetOption,
    WeightsOption,
    recipe_and_target,
    run_folder,
)


def search(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe with 'search:'.")],
    target: TargetOption = "cpu",
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many chains to try at most; none: the recipe's.")
    ] = None,
    out: OutOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    host: HostOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Try chains on the target; measure and judge the best of them."""
    del debug
    from edgebench.cli.output import print_rich, print_run
    from edgebench.cli.progress import TerminalProgress
    from edgebench.pipeline.folder import RunFolder
    from edgebench.report.search import front_table

    chosen, place = recipe_and_target(
        recipe,
        target=target,
        model=model,
        weights=weights,
        data=data,
        settings=[*(set_ or []), *([f"search.trials={trials}"] if trials else [])],
        host=host,
    )
    folder = RunFolder(run_folder(out, chosen, place))
    from edgebench.pipeline.search import SearchJob

    with TerminalProgress(quiet=json) as progress:
        record = SearchJob(chosen, place, folder, progress).run()
    table = None if json else front_table(record)
    if table is not None:
        print_rich(table)
        print_rich("")
    print_run(record, folder.path / "report.html", as_json=json)
    return record.exit_code
