import re

import pytest

from edgebench.report.markdown import escape, render_markdown


def tables(text):
    """The tables of a page: lists of rows, each a list of cells."""
    blocks, block = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(re.split(r"(?<!\\)\|", line)[1:-1])
        elif block:
            blocks.append(block)
            block = []
    return blocks


@pytest.mark.parametrize("kind", ["run", "hostile", "bare", "invalid", "scenarios"])
def test_all_rows_of_a_table_have_the_same_cells(kind, request):
    found = tables(render_markdown(request.getfixturevalue(kind)))
    assert found
    for block in found:
        assert len({len(row) for row in block}) == 1


def test_verdicts_and_reasons(run):
    text = render_markdown(run)
    rows = tables(text)[0]
    shown = [row[0].strip() for row in rows[2:]]
    assert shown[0] == "base"
    assert sorted(shown) == sorted(v.name for v in run.variants if not v.control)
    open_part = text[: text.index("<details>")]
    for variant in run.variants:
        for reason in variant.reasons:
            told = f"- **{variant.name}** {reason.verdict}: {reason.text}"
            assert (told in open_part) == (reason.verdict != "GO")
    assert text.count("<details>") == text.count("</details>") > 0


def test_short_enough_for_a_comment(run):
    assert len(render_markdown(run)) < 65_536


def test_hostile_text_is_inert(hostile):
    text = render_markdown(hostile)
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\[a\]\(", text)
    assert not re.search(r"(?<!\\)`", text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("two\nlines", "two lines"),
        ("latency_ratio = 0.6 [0.5, 0.7]", "latency_ratio = 0.6 [0.5, 0.7]"),
        ("_a_", r"\_a\_"),
        ("<b>", "&lt;b&gt;"),
        ("![1](http://x)", r"![1\](http://x)"),
        ("@team", "@\u200bteam"),
    ],
)
def test_escape(text, escaped):
    assert escape(text) == escaped


def test_what_the_device_tells_apart(run):
    text = render_markdown(run)
    open_part = text[: text.index("<details>")]
    assert "Device grade C (shared or virtual): a virtual machine: others may use its" in open_part
    assert "Base against itself differs by up to 1.5 %." in open_part
    head, _, *rows = tables(text)[0]
    column = [cell.strip() for cell in head].index("Least change told")
    assert {row[0].strip(): row[column].strip() for row in rows}["int8"] == "5.2 %"


def test_an_invalid_measurement_is_marked_in_the_table(invalid):
    text = render_markdown(invalid)
    verdicts = {row[0].strip(): row[1].strip() for row in tables(text)[0][2:]}
    assert verdicts["base"] == "reference, **NOT VALID**"
    assert verdicts["int8"] == "**INCONCLUSIVE**, **NOT VALID**"
    assert verdicts["fp16"] == "**INCONCLUSIVE**"
    assert text[: text.index("<details>")].count("CUDA was left out") == 1


def test_evidence_is_folded_in_words(run):
    text = render_markdown(run)
    block = text[text.index("<summary>int8: what was seen") :]
    block = block[: block.index("</details>")]
    assert "4 of 11 operators ran as integers" in block
    assert "- optimisations: **to be doubted**: the optimised session answers otherwise" in block
    assert "{" not in block


def test_many_models_leave_room_for_the_rest(run):
    many = tuple(
        v.model_copy(update={"name": f"{v.name}-{i}" if i else v.name})
        for i in range(12)
        for v in run.variants[:9]
    )
    text = render_markdown(run.model_copy(update={"variants": many}))
    assert re.search(r"What was seen of \d+ more: in report.html.", text)
    evidence = text[text.index("<summary>Evidence of the measurement") :]
    assert len(evidence) < 36_000


def test_tails_and_energy_only_where_they_were_measured(run):
    text = render_markdown(run)
    (head,) = [t[0] for t in tables(text) if "Energy" in "".join(t[0])]
    shown = [cell.strip() for cell in head]
    assert "Latency, 95 %" in shown
    assert "Latency, 99.9 %" not in shown


def test_scenarios_are_a_section_only_where_there_are_any(run, scenarios):
    assert "<summary>Scenarios</summary>" not in render_markdown(run)
    text = render_markdown(scenarios)
    assert "<summary>Scenarios</summary>" in text
    assert "- int8, scenario server-qps200: cannot keep up" in text
