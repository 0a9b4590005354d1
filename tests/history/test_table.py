from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from rich.console import Console

from edgebench.history import RunSummary, history_table


def summary(**changes: object) -> RunSummary:
    fields: dict[str, object] = {
        "run_id": "20260102T030405-abcdef",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "recipe": "quickstart",
        "model": "lenet",
        "data": "digits",
        "target": "jetson-orin-nano",
        "device_fingerprint": "f" * 64,
        "edgebench_version": "0.1.0",
        "verdict": "INCONCLUSIVE",
        "exit_code": 3,
        "folder": Path("/runs/one"),
        "best": "small-int8",
    }
    return RunSummary(**{**fields, **changes})


def shown(rows: list[RunSummary], width: int, **options: object) -> str:
    console = Console(width=width, **options)
    with console.capture() as capture:
        console.print(history_table(rows, width))
    return capture.get()


def test_at_eighty_columns_a_run_is_one_line() -> None:
    lines = shown([summary()], 80).rstrip().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].split() == [
        "20260102T030405-abcdef", "2026-01-02", "quickstart", "jetson-orin-nano", "INCONCLUSIVE"
    ]  # fmt: skip


def test_a_wide_terminal_shows_the_time_and_the_best_variant() -> None:
    text = shown([summary()], 120)
    assert "2026-01-02 03:04" in text
    assert "small-int8" in text
    assert "created, UTC" in text


@pytest.mark.parametrize("width", [80, 120])
def test_long_names_are_folded_and_not_cut(width: int) -> None:
    name = "a-recipe-with-a-name-that-goes-on-and-on-for-ever"
    lines = shown([summary(recipe=name, best=None, verdict=None)], width).splitlines()
    assert all(len(line) <= width for line in lines)
    head = next(k for k, line in enumerate(lines) if "recipe" in line)
    start, stop = lines[head].index("recipe"), lines[head].index("target")
    assert "".join(line[start:stop].strip() for line in lines[head + 2 :]) == name
    assert lines[head + 2].split()[-1] == "none"


def test_names_are_neither_markup_nor_terminal_commands() -> None:
    text = shown([summary(recipe="[red]x[/red]", target="a\x1b[2Jb")], 120, force_terminal=True)
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text


def test_no_runs_are_a_table_with_no_rows() -> None:
    assert "recipe" in shown([], 80)
