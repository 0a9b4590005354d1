"""`edgebench history`: the store of past runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgebench.cli.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from edgebench.history.check import Finding

JsonFindings = Annotated[
    bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")
]

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


@app.command("check")
def check(
    recipe: Annotated[str | None, typer.Option(help="Only runs of this recipe.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
    target: Annotated[str | None, typer.Option(help="Only runs on this target.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only this variant.")] = None,
    metric: Annotated[str | None, typer.Option(help="Only this metric.")] = None,
    limit: Annotated[
        float, typer.Option(min=0.0, help="Least change of a timed metric that counts, a share.")
    ] = 0.05,
    since: Annotated[
        str | None,
        typer.Option(metavar="RUN_ID", help="Leave out what was before this run: start from it."),
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="Look at so many of the newest runs.")] = 200,
    json: JsonFindings = False,
    debug: DebugOption = False,
) -> int:
    """Find regressions and change points; exit 1 for a regression, 3 for too few runs."""
    del debug
    from edgebench.history import History
    from edgebench.history.check import ORDER, check_series, exit_code
    from edgebench.history.series import EXACT, TIMED, current_series

    if metric is not None and metric not in (*TIMED, *EXACT):
        from edgebench.errors import UnknownNameError

        raise UnknownNameError("metric", metric, (*TIMED, *EXACT), where="--metric")
    history = History.open()
    runs, unread = history.records(recipe=recipe, model=model, target=target, limit=last)
    if since is not None:
        start = history.get(since)[0].run_id
        places = [place for place, run in enumerate(runs) if run.run_id == start]
        runs = runs[places[0] :] if places else runs[:0]
    if variant is not None and runs:
        known = {v.name for run in runs for v in run.variants if not v.beside}
        if variant not in known:
            from edgebench.errors import UnknownNameError

            raise UnknownNameError("variant", variant, known, where="--variant")
    findings = [
        check_series(s, limit) for s in current_series(runs, variant=variant, metric=metric)
    ]
    findings.sort(key=lambda f: ORDER.index(f.state))
    code = exit_code(findings)
    _print_findings(findings, len(runs), unread, code, as_json=json)
    return code


def _print_findings(
    findings: list[Finding], runs: int, unread: int, code: int, *, as_json: bool
) -> None:
    """What was found: a table of what moved or cannot be told, and one line for all of it."""
    from edgebench.cli.output import console, print_rich, write

    if as_json:
        import json

        content = {
            "schema": "edgebench.history-check/1",
            "runs": runs,
            "unread": unread,
            "findings": [f.record() for f in findings],
            "exit_code": code,
        }
        write(json.dumps(content, indent=1) + "\n")
        return
    from edgebench.history import findings_table

    told = [f for f in findings if f.state in {"regression", "improvement", "changed"}]
    if told:
        print_rich(findings_table(told, console().width))
    counts = {
        word: sum(f.state == word for f in findings)
        for word in ("regression", "improvement", "changed", "steady", "too few runs")
    }
    if not findings:
        write(f"nothing to check in {_runs(runs)}; 'edgebench run' adds one\n")
        return
    parts = [
        f"{counts['regression']} got worse",
        f"{counts['improvement']} got better",
        f"{counts['changed']} changed",
        f"{counts['steady']} steady",
    ]
    if counts["too few runs"]:
        parts.append(
            f"{counts['too few runs']} with too few runs on one fingerprint (4 are needed where a "
            "clock decides, 2 elsewhere)"
        )
    if unread:
        parts.append(f"{_runs(unread)} of another version left out")
    write(f"{_runs(runs)}, {len(findings)} series: {', '.join(parts)}\n")


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
