import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgebench.records import Reason, SearchRecord, TriedChain
from edgebench.report.html import render_html
from edgebench.report.markdown import render_markdown
from edgebench.report.terminal import summary, verdict_table


def printed(renderable, width):
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["run", "hostile", "bare", "invalid", "scenarios"])
@pytest.mark.parametrize("width", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal(kind, width, request):
    text = printed(summary(request.getfixturevalue(kind), width), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text


@pytest.mark.parametrize("width", range(80, 220, 7))
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


def test_a_chain_is_told_with_the_options_that_were_asked_for(run):
    full = {"technique": "distill", "student": "lenet-small", "width": None, "loss": "logits"}
    variants = tuple(
        v.model_copy(update={"chain": (full | {"temperature": 4.0, "epochs": 30, "crd": None},)})
        if v.name == "student"
        else v
        for v in run.variants
    )
    recorded = run.model_copy(update={"variants": variants})

    def shown(one):
        return " ".join(printed(verdict_table(one, 320), 320).split())

    assert "Chain" in shown(run)
    assert shown(recorded) == shown(run)
    # What a search found stands among its trials, as it was drawn.
    step = {"technique": "distill", "width": 0.5}
    tried = {"number": 7, "name": "a", "metrics": {}, "within": True, "on_front": True}
    trial = TriedChain(chain=(step,), variant="student", **tried)
    search = SearchRecord(objectives=("latency_ratio",), trials=(trial,))
    recipe = {**run.recipe, "variants": {}}
    assert "distill (width 0.5)" in shown(
        recorded.model_copy(update={"recipe": recipe, "search": search})
    )
    # A record that holds neither, or nonsense, is told by its own chain.
    for broken in ({}, {"variants": 3}, {"variants": {"student": ["x"]}}):
        assert "crd –" in shown(recorded.model_copy(update={"recipe": broken}))


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
    assert "device grade C (shared or virtual): a virtual machine: others may use" in above
    assert "base against itself differs by up to 1.5 %" in above
    assert "operators that ran as integers: int8 4 of 11, int8-qat 4 of 11" in above
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


def test_the_least_change_is_a_column_or_a_line(run):
    """A variant's long name takes the room of the column at 80 characters."""
    for record, column in ((run, True), (with_variants(run, {"fp16": {"name": "x" * 24}}), False)):
        text = printed(summary(record, 80), 80)
        head = text[: text.index("sparse-50 ")].splitlines()[-3:]
        assert any("Least" in line for line in head) == column
        words = " ".join(text.split())
        assert ("least change of latency told from none: 3.0 to 5.7 %" in words) != column
        assert ("least change: what four in five such measurements tell" in words) == column
    row = next(r for r in printed(summary(run, 160), 160).splitlines() if r.startswith("int8 "))
    assert "5.2 %" in row
    assert "0.139 mJ" in row


def test_columns_nobody_measured_are_not_there(run):
    without = {
        v.name: {
            "metrics": {k: x for k, x in v.metrics.items() if k != "energy_mj"},
            "measurement": v.measurement.model_copy(update={"smallest_detectable_change": None}),
        }
        for v in run.variants
        if v.measurement
    }
    text = printed(verdict_table(with_variants(run, without), 200), 200)
    assert "Energy" not in text
    assert "Least" not in text


def test_an_invalid_measurement_is_marked_in_the_table_and_told_once(invalid):
    table = printed(verdict_table(invalid, 80), 80).splitlines()
    marked = [table[i - 1].split()[0] for i, line in enumerate(table) if "NOT VALID" in line]
    assert marked == ["base", "int8"]
    assert not [line for line in table if line.startswith("int8 ") and "5.2 %" in line]
    text = " ".join(printed(summary(invalid, 160), 160).split())
    assert "base NOT VALID: the device slowed itself down" in text
    assert text.count("CUDA was left out") == 1
    assert text.count("base's measurement is not valid") == 1
    assert "sparse-50, sparse-90, structured-50, fp16, int8-qat, student" in text


def test_scenarios_stand_below_the_table(run, scenarios):
    text = printed(summary(scenarios, 80), 80)
    assert text.index("Variant") < text.index("Scenarios: how queries arrive")
    assert "12.5 ms" in text
    assert "not valid: int8, scenario server-qps200: cannot keep up" in " ".join(text.split())
    assert "Scenarios" not in printed(summary(run, 80), 80)
