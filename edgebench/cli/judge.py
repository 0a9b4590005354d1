"""`edgebench gate` and `edgebench report`: a finished run, judged or rendered again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebench.cli.options import DebugOption, JsonOption, RequireOption

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]


def gate(
    run: RunArgument,
    policy: Annotated[
        Path | None,
        typer.Option(help="A YAML file with 'gates:'; none: the run's own gates."),
    ] = None,
    require: RequireOption = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> int:
    """Judge a finished run again, under another policy; nothing is measured or changed."""
    del debug
    from edgebench.cli.output import print_run
    from edgebench.errors import UnknownNameError
    from edgebench.pipeline.folder import existing_run
    from edgebench.pipeline.judging import judge_again
    from edgebench.pipeline.main import read_run
    from edgebench.pipeline.plan import check_gates
    from edgebench.recipe import Gate, read_policy

    folder = existing_run(run)
    record = read_run(folder)
    gates = read_policy(policy) if policy else [Gate(**g) for g in record.recipe["gates"]]
    check_gates(gates, where=str(policy or folder.record_file))
    known = [v.name for v in record.variants if v.judged]
    for name in require or []:
        if name not in known:
            raise UnknownNameError("variant", name, known, where="--require")
    judged = judge_again(record, gates, require or [])
    # The page shows the run's own gates, not these.
    print_run(judged, None, as_json=json)
    return judged.exit_code


def report(run: RunArgument, debug: DebugOption = False) -> int:
    """Render the reports of a finished run again."""
    del debug
    from edgebench.cli.output import write
    from edgebench.pipeline.folder import existing_run
    from edgebench.pipeline.main import read_run
    from edgebench.report.base import write_reports

    folder = existing_run(run)
    paths = write_reports(read_run(folder), folder.path)
    write("".join(f"{path}\n" for path in paths))
    return 0
