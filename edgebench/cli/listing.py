"""`edgebench list`: what there is, with its options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgebench.cli.options import DebugOption

KINDS = ("techniques", "models", "metrics", "data", "runtimes", "recipes")


def list_(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS))],
    debug: DebugOption = False,
) -> int:
    """List techniques, models, metrics, data, runtimes or recipes."""
    del debug
    from edgebench.errors import UnknownNameError

    rows = {
        "techniques": _techniques,
        "models": _models,
        "metrics": _metrics,
        "data": _data,
        "runtimes": _runtimes,
        "recipes": _recipes,
    }
    if kind not in rows:
        raise UnknownNameError("kind", kind, KINDS)
    print_rows(rows[kind]())
    return 0


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Print names and what they mean in two columns."""
    from rich.table import Table

    from edgebench.cli.output import print_rich

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(name, text)
    print_rich(table)


def _techniques() -> list[tuple[str, str]]:
    from edgebench.techniques.base import TECHNIQUES

    rows = []
    for name, technique in TECHNIQUES.items():
        rows.append((name, technique.summary))
        rows += [(f"  {key}", text) for key, text in _options(technique.Options)]
    return rows


def _options(model: Any) -> list[tuple[str, str]]:
    rows = []
    for key, found in model.model_fields.items():
        default = found.get_default(call_default_factory=True)
        shown = "required" if found.is_required() else f"default {default}"
        rows.append((key, f"{found.description or ''} ({shown})"))
        for inner in getattr(found.annotation, "__args__", ()):
            if hasattr(inner, "model_fields"):
                rows += [(f"  {name}", text) for name, text in _options(inner)]
    return rows


def _models() -> list[tuple[str, str]]:
    from edgebench.models.base import MODELS

    return [(name, _first_line(factory.__doc__)) for name, factory in MODELS.items()]


def _metrics() -> list[tuple[str, str]]:
    from edgebench.metrics.base import METRICS

    return [
        (name, f"{metric.meaning}{f' ({metric.unit})' if metric.unit else ''}")
        for name, metric in METRICS.items()
    ]


def _data() -> list[tuple[str, str]]:
    from edgebench.data import DATASETS

    return [(name, _first_line(getattr(item, "__doc__", None))) for name, item in DATASETS.items()]


def _runtimes() -> list[tuple[str, str]]:
    from importlib.util import find_spec

    from edgebench.agent.runtimes import RUNTIMES

    rows = []
    for name, runtime in RUNTIMES.items():
        # Found, not imported: torch alone takes seconds.
        there = "installed here" if find_spec(runtime.package) else "not installed here"
        rows.append(
            (name, f"{runtime.title}: package {runtime.package}, {runtime.suffix} files ({there})")
        )
        accelerators = ", ".join(runtime.accelerators)
        rows.append(("  providers", f"{runtime.processor}; faster ones: {accelerators}"))
    return rows


def _recipes() -> list[tuple[str, str]]:
    from edgebench.shipped import shipped_folder

    rows = []
    for path in sorted(shipped_folder("recipes").glob("*.yaml")):
        comment = path.read_text(encoding="utf-8").partition("\n")[0]
        rows.append((path.stem, comment.lstrip("# ")))
    return rows


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
