"""`edgebench bundle` and `edgebench ingest`: the way to a device that no wire reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebench.cli.options import (
    DataOption,
    DebugOption,
    JsonOption,
    ModelOption,
    OutOption,
    RecipeArgument,
    RequireOption,
    SetOption,
    TargetOption,
    WeightsOption,
    recipe_and_target,
    run_folder,
)


def bundle(
    recipe: RecipeArgument = None,
    target: TargetOption = "jetson",
    out: OutOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    debug: DebugOption = False,
) -> int:
    """Build everything, and write a zip to carry to the device."""
    del debug
    from edgebench.cli.progress import TerminalProgress
    from edgebench.pipeline.folder import RunFolder

    chosen, place = recipe_and_target(
        recipe, target=target, model=model, weights=weights, data=data, settings=set_, host=None
    )
    folder = RunFolder(run_folder(out, chosen, place))
    from edgebench.pipeline.main import Job
    from edgebench.transports.bundle import pack

    zip_path = folder.path / "bundle.zip"
    with TerminalProgress(quiet=False) as progress:
        job = Job(chosen, place, folder, progress)
        with folder.held():
            job.prepare(None)
            pack(folder.bundle, zip_path)
    print(
        f"{zip_path}: carry it to the device, unpack it, run 'python3 agent.pyz' there, carry "
        f"results.zip back, then: edgebench ingest results.zip {folder.path}"
    )
    return 0


def ingest(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.zip of the device.")],
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder that 'edgebench bundle' wrote.")
    ],
    require: RequireOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Read what a device measured, and judge it."""
    del debug
    from edgebench.cli.output import print_run
    from edgebench.cli.progress import TerminalProgress
    from edgebench.pipeline.folder import existing_run
    from edgebench.pipeline.ingest import ingest_results

    folder = existing_run(run, finished=False)
    with TerminalProgress(quiet=json) as progress:
        record = ingest_results(folder, results, require or [], progress)
    print_run(record, folder.path / "report.html", as_json=json)
    return record.exit_code
