"""`edgebench compare`: two models, or two finished runs, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgebench.cli.options import DataOption, DebugOption, HostOption, short_name

if TYPE_CHECKING:
    from edgebench.comparison import Comparison
    from edgebench.pipeline.comparison_bundle import Question

FREE_SIZE = "dim."


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A file.onnx, or a run's folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What is to take A's place: alike.")],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="A target's name or file; none: cpu."),
    ] = None,
    data: DataOption = None,
    protocol: Annotated[
        str | None, typer.Option(help="quick, standard or rigorous; none: quick.")
    ] = None,
    limit: Annotated[
        float, typer.Option(min=0.0, help="B may be slower by this share: 0.05 is 5 %.")
    ] = 0.0,
    max_disagreement: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="At most this share of predictions may differ."),
    ] = None,
    host: HostOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write; none: runs/compare-A-B-TARGET."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="protocol.KEY, seed, data_limits.test, dim.NAME (a free size) or target.KEY.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print comparison.json, and nothing else.")
    ] = False,
    debug: DebugOption = False,
) -> int:
    """Say whether B is slower than A: two ONNX models on a target, or two finished runs.

    Exit codes: 0 not slower, 1 slower or another function, 2 usage, 3 inconclusive, 4 not
    measured or not comparable.
    """
    del debug
    from edgebench.errors import UsageError

    if a.endswith(".onnx") != b.endswith(".onnx"):
        raise UsageError(
            "one is an ONNX file, the other is not",
            where=f"{a} and {b}",
            hint="name two files that end in .onnx, or the folders of two finished runs",
        )
    if a.endswith(".onnx"):
        question = _question(
            a,
            b,
            target or "cpu",
            data=data,
            protocol=protocol or "quick",
            host=host,
            settings=set_ or [],
            limit=limit,
            max_disagreement=max_disagreement,
        )
        folder = (
            out
            or Path("runs")
            / f"compare-{short_name(a)}-{short_name(b)}-{short_name(target or 'cpu')}"
        )
        found = _models(question, folder, quiet=json)
    else:
        from edgebench.pipeline.comparing_runs import compare_runs
        from edgebench.report.comparison import write_comparison

        measuring = {
            "--target": target,
            "--data": data,
            "--protocol": protocol,
            "--host": host,
            "--set": set_,
        }
        given = next((name for name, value in measuring.items() if value), None)
        if given is not None:
            raise UsageError(
                "two finished runs are compared as they are: nothing is measured",
                where=given,
                hint="leave it out",
            )
        found = compare_runs(a, b, limit=limit, max_disagreement=max_disagreement)
        folder = out or Path("runs") / f"compare-{short_name(a)}-{short_name(b)}"
        write_comparison(found, folder)
    _print(found, folder, as_json=json)
    return found.exit_code


def _question(
    a: str,
    b: str,
    target: str,
    *,
    data: str | None,
    protocol: str,
    host: str | None,
    settings: list[str],
    limit: float,
    max_disagreement: float | None,
) -> Question:
    """What the command line asks of two models; raises UsageError."""
    from pydantic import BaseModel, ConfigDict, Field

    from edgebench.errors import UsageError
    from edgebench.pipeline.comparison_bundle import Question
    from edgebench.protocol import resolve_protocol
    from edgebench.recipe import DataLimits, apply_setting
    from edgebench.target import load_target
    from edgebench.validation import validated

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        protocol: str | dict[str, Any]
        seed: int = Field(0, ge=0, le=2**31 - 1)
        data_limits: DataLimits = DataLimits()

    values: dict[str, Any] = {"protocol": protocol}
    sizes: dict[str, int] = {}
    theirs = []
    for setting in (text.strip() for text in settings):
        if setting.startswith("target."):
            theirs.append(setting.removeprefix("target."))
        elif setting.startswith(FREE_SIZE):
            # The name of a dimension may hold dots, so it is no path.
            name, _, size = setting.removeprefix(FREE_SIZE).partition("=")
            if not size.strip().isdigit() or int(size) < 1:
                raise UsageError(
                    "a size is a whole number of 1 or more",
                    where=f"--set {setting}",
                    hint=f"e.g. --set dim.{name or 'NAME'}=128",
                )
            sizes[name] = int(size)
        else:
            apply_setting(values, setting)
    chosen = validated(Settings, values, UsageError, where="--set", noun="settings")
    resolved = resolve_protocol(chosen.protocol, where="--protocol")
    asked = chosen.protocol.get("batch") if isinstance(chosen.protocol, dict) else None
    return Question(
        a=Path(a),
        b=Path(b),
        target=load_target(target, host=host, settings=theirs),
        protocol=resolved,
        batch=resolved.batch if asked is not None else None,
        seed=chosen.seed,
        data=data,
        limits=chosen.data_limits,
        sizes=sizes,
        limit=limit,
        max_disagreement=max_disagreement,
    )


def _models(question: Question, folder: Path, *, quiet: bool) -> Comparison:
    from edgebench.cli.progress import TerminalProgress
    from edgebench.pipeline.comparing import compare_models
    from edgebench.pipeline.folder import RunFolder

    with TerminalProgress(quiet=quiet) as progress:
        return compare_models(question, RunFolder(folder), progress)


def _print(found: Comparison, folder: Path, *, as_json: bool) -> None:
    from edgebench.cli.output import console, print_rich, write
    from edgebench.report.comparison import COMPARISON_FILES, comparison_summary

    if as_json:
        write(found.model_dump_json(indent=1) + "\n")
        return
    print_rich(comparison_summary(found, console().width, folder / COMPARISON_FILES[1]))
