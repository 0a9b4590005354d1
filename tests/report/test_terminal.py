import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgebench.report.terminal import summary, verdict_table


def printed(renderable, width):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["run", "hostile", "bare"])
@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal(kind, width, request):
    text = printed(summary(request.getfixturevalue(kind), width), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 100, 115, 130, 140, 156, 160, 200])
def test_nothing_is_cut_off_at_usual_widths(run, width):
    text = printed(verdict_table(run, width), width)
    assert "…" not in text
    for variant in run.variants:
        assert (variant.name in text) == (not variant.control)
    assert "0.709 [0.700, 0.718]" in text


def test_wider_terminals_show_more(run):
    narrow, wide = (printed(verdict_table(run, width), width) for width in (80, 160))
    assert "219 KiB" not in narrow
    assert "219 KiB" in wide
    assert "0.875 [0.859, 0.892]" in wide


def test_summary_tells_why_and_where(run):
    text = " ".join(printed(summary(run, 100, Path("runs/x/report.html")), 100).split())
    assert text.startswith("GO lenet on digits, target host")
    assert "fp16 NO-GO: latency_ratio = 1.125" in text
    assert "structured-98 FAILED" in text
    assert "sparse-50 GO:" not in text
    assert "Report: runs/x/report.html" in text


def test_markup_in_names_is_text(run):
    first, second, *rest = run.variants
    odd = run.model_copy(
        update={"variants": (first, second.model_copy(update={"name": "[red]x[/red]"}), *rest)}
    )
    assert "[red]x[/red]" in printed(verdict_table(odd, 160), 160)
