import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgebench.records import Reason
from edgebench.report.html import render_html
from edgebench.report.markdown import render_markdown
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


def with_variants(run, changes):
    variants = tuple(v.model_copy(update=changes.get(v.name, {})) for v in run.variants)
    return run.model_copy(update={"variants": variants})


def test_grade_and_warnings_stand_above_the_table(run):
    text = " ".join(printed(summary(run, 80), 80).split())
    above = text[: text.index("Variant")]
    assert "device grade C (shared or virtual)" in above
    for warning in run.warnings:
        assert f"note: {warning}" in above
    many = run.model_copy(update={"warnings": tuple(f"warning {i}" for i in range(9))})
    assert "note: 4 more in the report" in printed(summary(many, 80), 80)


def test_what_decided_comes_first(run):
    texts = {"GO": "fine", "INCONCLUSIVE": "unsure", "NO-GO": "broken"}
    reasons = tuple(
        Reason(gate=f"g{i}", metric="accuracy", verdict=verdict, text=f"{texts[verdict]} {i}")
        for i, verdict in enumerate(("INCONCLUSIVE", "GO", "NO-GO", "INCONCLUSIVE", "NO-GO"))
    )
    odd = with_variants(run, {"fp16": {"reasons": reasons}})
    for text in (printed(summary(odd, 80), 80), render_markdown(odd), render_html(odd)):
        places = [text.index(t) for t in ("broken 2", "broken 4", "unsure 0", "unsure 3")]
        assert places == sorted(places)


def test_the_same_problem_is_told_once(run):
    skipped = {"status": "skipped", "verdict": None, "reasons": (), "problem": "needs a GPU"}
    odd = with_variants(run, {"sparse-50": skipped, "sparse-90": skipped})
    text = printed(summary(odd, 100), 100)
    assert "sparse-50, sparse-90 SKIPPED: needs a GPU" in text
    assert text.count("needs a GPU") == 1
    assert "bf16 SKIPPED: the target 'host' does not run bf16" in text
