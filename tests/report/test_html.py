import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from edgebench.report.glossary import words
from edgebench.report.html import doubts, render_html

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """The page's elements in order, its text, and whether every tag is closed where it should."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.open, self.faults = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module", params=["run", "hostile", "bare", "invalid", "scenarios"])
def page(request):
    text = render_html(request.getfixturevalue(request.param))
    return Page(text), text


@pytest.fixture(scope="module")
def example(run):
    return Page(render_html(run))


def test_every_tag_is_closed_and_no_script_runs(page):
    parsed, _ = page
    assert parsed.faults == []
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "iframe", "object", "link", "img", "foreignobject"}
    assert not [k for _, attrs in parsed.elements for k in attrs if k.startswith("on")]


def test_nothing_is_fetched(page):
    parsed, text = page
    for _, attrs in parsed.elements:
        for key in ("src", "href", "xlink:href", "action", "data"):
            assert (attrs.get(key) or "#").startswith("#")
    assert re.findall(r"url\((?!#)", text) == []
    assert "@import" not in text


def test_references_inside_the_page_resolve_and_ids_are_unique(page):
    parsed, text = page
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in parsed.elements if "href" in a}
    wanted |= {a["aria-labelledby"] for _, a in parsed.elements if "aria-labelledby" in a}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)


def test_one_h1_and_no_heading_skips_a_level(page):
    parsed, _ = page
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_pictures_are_labelled_and_tables_have_captions_and_scopes(page):
    parsed, _ = page
    assert all(a.get("role") == "img" and a.get("aria-label") for a in parsed.all("svg"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(a.get("scope") in {"col", "row", "rowgroup"} for a in parsed.all("th"))


def test_the_three_figures_are_there(example):
    assert len(example.all("svg")) == 3


def test_every_variant_verdict_and_reason_is_told(run, example):
    text = " ".join(" ".join(example.text).split())
    for variant in run.variants:
        assert variant.name in text
        assert (variant.problem or "") in text
        for reason in variant.reasons:
            assert f"{reason.verdict} {reason.text}" in text
    for warning in run.warnings:
        assert warning in text
    for stage in run.stages:
        assert stage.name in text
    assert run.verdict_text in text
    assert "edgebench run recipe.yaml --target host" in text


def test_base_comes_first_and_controls_stay_out_of_the_verdicts(example):
    text = "".join(example.text)
    table = text[text.index("Each variant against base") : text.index("What the columns mean")]
    assert table.index("uncompressed") < table.index("sparse-50")
    assert "independent-1" not in table


def test_hostile_text_is_escaped(hostile):
    text = render_html(hostile)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)


def test_without_measurements_the_page_says_so(bare):
    text = " ".join(Page(render_html(bare)).text)
    assert "NOT MEASURED" in text
    assert "the target was not reached" in text
    assert "so there is no figure" in text
    assert "This run holds no landscape" in text


def test_invalid_measurements_stand_among_the_doubts(run):
    measurement = run.variants[1].measurement.model_copy(
        update={"valid": False, "invalid_reasons": ("ran on another provider",)}
    )
    first, second, *rest = run.variants
    broken = run.model_copy(
        update={"variants": (first, second.model_copy(update={"measurement": measurement}), *rest)}
    )
    assert "sparse-50: the measurement is not valid: ran on another provider" in doubts(broken)
    assert "ran on another provider" not in " ".join(doubts(run))


def test_times_and_fingerprints_are_for_people(run, example):
    text = "".join(example.text)
    assert "2026-11-21 04:32 UTC" in text
    assert run.created not in text
    whole = run.device["fingerprint"]
    assert whole not in text
    assert whole[:12] in text
    assert whole in [attrs.get("title") for attrs in example.all("code")]


def words_of(run):
    return " ".join(" ".join(Page(render_html(run)).text).split())


def test_the_device_line_names_the_grade_and_why(run):
    text = words_of(run)
    head = text[: text.index("Verdicts")]
    assert "Grade C, shared or virtual" in head
    assert "Why: a virtual machine: others may use its processor unseen" in head
    assert "Base timed against itself differs by up to 1.5 %" in head


def test_the_table_says_what_each_measurement_tells(run, example):
    table = words_of(run)
    table = table[table.index("Each variant against base") : table.index("What the columns mean")]
    row = table[table.index("int8 ■ NO-GO") : table.index("ptq (bits 8")]
    assert "5.2 % 0.139 mJ" in row
    assert "Least change told The true change of latency" in " ".join(
        " ".join(example.text).split()
    )


def test_an_invalid_measurement_is_marked_in_the_table(invalid):
    text = words_of(invalid)
    table = text[text.index("Each variant against base") : text.index("What the columns mean")]
    assert "base reference ■ NOT VALID" in table
    assert "int8 ◆ INCONCLUSIVE ■ NOT VALID" in table
    assert table.count("NOT VALID") == 3
    assert table.count("CUDA was left out") == 1


def test_what_was_not_measured_is_named_apart(run):
    variant = run.variant("int8")
    few = variant.model_copy(
        update={"metrics": variant.metrics | {"latency_p99_ms": None, "ece": None}}
    )
    variants = tuple(few if v.name == "int8" else v for v in run.variants)
    text = words_of(run.model_copy(update={"variants": variants}))
    assert (
        "Not given: Latency, 99 % (takes 662 queries); Latency, 99.9 % (takes 6,636 queries); "
        f"{words('ece').label}." in text
    )


def test_scenarios_are_a_section_and_in_the_contents(run, scenarios):
    page = Page(render_html(scenarios))
    assert "#scenarios" in [a.get("href") for a in page.all("a")]
    assert "scenarios" in [a.get("id") for a in page.all("h2")]
    assert "int8, scenario server-qps200: cannot keep up" in doubts(scenarios)
    assert "scenarios" not in [a.get("id") for a in Page(render_html(run)).all("h2")]


def test_long_tables_are_folded(run):
    names = {f"Op{i}": 1 for i in range(20)}
    evidence = {"inspection": {"nodes": {"P": names}, "integer_operators": {}}}
    measurement = run.base.measurement.model_copy(update={"evidence": evidence})
    base = run.base.model_copy(update={"measurement": measurement})
    assert "Operators that ran: 20 rows" in words_of(run.model_copy(update={"variants": (base,)}))


def test_what_the_device_does_not_have_is_one_line(run):
    text = words_of(run)
    device = text[text.index("The device machine") :]
    assert "none, or not known board, " in device
    assert "jetson –" not in device
