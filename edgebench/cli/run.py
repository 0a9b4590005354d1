"""`edgebench run`: the main job."""

from __future__ import annotations

from edgebench.cli.options import (
    DataOption,
    DebugOption,
    HostOption,
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


def run(
    recipe: RecipeArgument = None,
    target: TargetOption = "cpu",
    out: OutOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    host: HostOption = None,
    require: RequireOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Compress, export, run on the target, compare, judge."""
    del debug  # read before the command line is parsed
    from edgebench.cli.output import print_run
    from edgebench.cli.progress import TerminalProgress
    from edgebench.pipeline.folder import RunFolder

    chosen, place = recipe_and_target(
        recipe,
        target=target,
        model=model,
        weights=weights,
        data=data,
        settings=set_,
        host=host,
    )
    folder = RunFolder(run_folder(out, chosen, place))
    from edgebench.pipeline.main import Job

    with TerminalProgress(quiet=json) as progress:
        record = Job(chosen, place, folder, progress, require or []).run()
    print_run(record, folder.path / "report.html", as_json=json)
    return record.exit_code
