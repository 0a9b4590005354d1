"""`edgebench targets`: the devices there are files for, and what one of them is good for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgebench.cli.options import DebugOption, HostOption
from edgebench.errors import EXIT_NOT_MEASURED

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgebench.pipeline.checking import Check

app = typer.Typer(help="The devices there are files for.", no_args_is_help=True)

_NameArgument = Annotated[str, typer.Argument(help="A target's name or file.")]


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
    name: _NameArgument,
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


@app.command("check")
def check(
    name: _NameArgument,
    host: HostOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the target, e.g. runtime.threads."),
    ] = None,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing/--no-timing", help="Time a small model against itself, about 5 s; or not."
        ),
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    debug: DebugOption = False,
) -> int:
    """Reach a device, grade it, and measure the smallest change it can tell.

    Exit codes: 0 checked, 2 usage, 4 not reached, or reached and not able to time a model.
    """
    del debug
    from edgebench.cli.output import print_rich, write
    from edgebench.cli.progress import TerminalProgress
    from edgebench.target import load_target

    settings = [setting.strip().removeprefix("target.") for setting in set_ or []]
    target = load_target(name, host=host, settings=settings)
    from edgebench.pipeline.checking import check_target

    with TerminalProgress(quiet=json) as progress:
        found = check_target(target, progress, timing=timing)
    if json:
        write(found.model_dump_json(indent=1) + "\n")
    else:
        print_rich(check_page(found))
    return EXIT_NOT_MEASURED if found.problem else 0


def check_page(found: Check) -> RenderableType:
    """What a check found, for people; it folds to any width."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from edgebench.report import format as fmt
    from edgebench.report.glossary import GRADES

    device = found.device
    grade = str(device.get("grade"))
    style = {"A": "bold green", "B": "bold yellow", "C": "bold red"}.get(grade, "bold")
    head = Text.assemble(
        (f"grade {grade}", style),
        "  ",
        (str(found.target["name"]), "bold"),
        f"  {GRADES.get(grade, '')}",
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    rows = [("why", reason) for reason in device.get("grade_reasons", [])]
    rows += _identity_rows(device)
    hazards = [h for h in found.hazards if h not in device.get("grade_reasons", [])]
    rows += [("hazard", hazard) for hazard in hazards]
    if not found.hazards:
        rows.append(("hazard", "none in sight"))
    rows += _timing_rows(found)
    shown = ""
    for label, value in rows:
        # What a device says of itself goes to a terminal.
        table.add_row("" if label == shown else label, Text(fmt.clean(value)))
        shown = label
    return Group(head, Text(), table)


def _identity_rows(device: dict[str, Any]) -> list[tuple[str, str]]:
    identity, state = device.get("identity", {}), device.get("state", {})
    runtime = identity.get("runtime", {})
    rows = [
        ("board", identity.get("board")),
        (
            "processor",
            f"{identity.get('cpu_model')}, {identity.get('cores')} cores, "
            f"{identity.get('memory_mib')} MiB",
        ),
        ("instructions", ", ".join(identity.get("cpu_flags", []))),
        ("clocks", _clocks(identity.get("clocks", {}))),
        ("power mode", _power_mode(identity)),
        ("card", ", ".join(identity.get("gpu") or [])),
        ("container", state.get("container")),
        (
            "runtime",
            f"{runtime.get('name')} {runtime.get('version')}, "
            f"offers {', '.join(identity.get('providers', []))}",
        ),
        ("python", f"{identity.get('python')}, numpy {identity.get('numpy')}"),
        ("load", _load(state)),
        ("temperature", f"{state['temperature_c']:.0f} °C" if state.get("temperature_c") else None),
        ("energy", _energy(state)),
        ("fingerprint", str(device.get("fingerprint", ""))[:16]),
    ]
    return [(label, str(value)) for label, value in rows if value]


def _clocks(clocks: dict[str, Any]) -> str:
    words = [
        f"{(p.get('least_khz') or 0) / 1000:.0f} to {(p.get('most_khz') or 0) / 1000:.0f} MHz "
        f"({p.get('governor')}, {len(p.get('cpus', []))} processors)"
        for p in clocks.get("policies", [])
    ]
    if clocks.get("turbo") is not None:
        words.append("turbo on" if clocks["turbo"] else "turbo off")
    words += [
        f"GPU {(g.get('least_hz') or 0) / 1e6:.0f} to {(g.get('most_hz') or 0) / 1e6:.0f} MHz"
        for g in clocks.get("gpu", [])
    ]
    return ", ".join(words) or "cannot be read"


def _power_mode(identity: dict[str, Any]) -> str | None:
    jetson, power = identity.get("jetson"), identity.get("power") or {}
    if jetson:
        named = jetson.get("power_mode_name")
        return (
            f"{jetson.get('power_mode')}{f' ({named})' if named else ''}, L4T {jetson.get('l4t')}"
        )
    profile: str | None = power.get("profile")
    return profile


def _load(state: dict[str, Any]) -> str | None:
    if state.get("load_1min") is None:
        return None
    swap = state.get("swap_used_mib") or 0
    return f"{state['load_1min']:g} over a minute, {swap} MiB swapped out"


def _energy(state: dict[str, Any]) -> str:
    sensors = ", ".join(state.get("energy_sensors", []))
    refused = "; ".join(state.get("energy_sensors_refused", []))
    return sensors or refused or "no sensor"


def _timing_rows(found: Check) -> list[tuple[str, str]]:
    from edgebench.report import format as fmt

    timing = found.timing
    if timing is None:
        return [("timing", f"not possible: {found.problem}" if found.problem else "left out")]
    least = timing.smallest_detectable_change
    return [
        (
            "timing",
            f"{fmt.point('latency_p50_ms', timing.latency_p50_ms)} a query of the built-in model "
            f"on {', '.join(timing.providers)} ({timing.protocol}, "
            f"{fmt.duration(timing.seconds)})",
        ),
        ("to itself", fmt.estimate("latency_ratio", timing.to_itself)),
        (
            "tells apart",
            "nothing: there is no interval"
            if least is None
            else f"changes of latency of {100 * least:.2g} % and more, in a model of this length",
        ),
    ]
