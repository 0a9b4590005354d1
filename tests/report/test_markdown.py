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


@pytest.mark.parametrize("kind", ["run", "hostile", "bare"])
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
