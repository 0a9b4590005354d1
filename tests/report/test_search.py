"""The search in the report: its table, its figure, and the front on a terminal."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from edgebench.records import SearchRecord, TriedChain
from edgebench.report.html import render_html
from edgebench.report.markdown import render_markdown
from edgebench.report.search import front_table, search_columns, search_figure, search_rows

PRUNED = ({"technique": "prune-structured", "ratio": 0.5}, {"technique": "ptq", "bits": 8})


def trial(number, latency=None, delta=None, *, within=True, front=False, **more):
    metrics = {} if latency is None else {"latency_ratio": latency, "accuracy_delta_pp": delta}
    return TriedChain(
        number=number,
        name="pruned",
        chain=more.pop("chain", PRUNED),
        metrics={**metrics, **more.pop("metrics", {})},
        within=within,
        on_front=front,
        **more,
    )


@pytest.fixture
def found(run):
    """The example with a search: two on the front, one within, two beyond a limit, one failed."""
    trials = (
        trial(1, 0.8, -0.5, front=True, metrics={"functional_preservation": 0.9}),
        trial(2, 0.6, -1.5, front=True, variant="trial-2"),
        trial(3, 0.85, -1.0),
        trial(4, 1.3, -0.2, within=False),
        trial(5, 0.5, -90.0, within=False),
        trial(6, within=False, problem="nothing | left to <b>prune</b>"),
    )
    objectives = ("latency_ratio", "accuracy_delta_pp")
    gates = [
        {"metric": "latency_ratio", "min": None, "max": 1.0},
        {"metric": "accuracy_delta_pp", "min": -2.0, "max": None},
        {"metric": "functional_preservation", "min": 0.5, "max": None},
    ]
    return run.model_copy(
        update={
            "search": SearchRecord(objectives=objectives, trials=trials),
            "recipe": {**run.recipe, "gates": gates, "data_limits": {"validation": 100}},
        }
    )


def without(found, **changes):
    return found.model_copy(update={"search": found.search.model_copy(update=changes)})


def test_the_front_comes_first_best_first(found):
    rows = search_rows(found)
    assert [row.name for row in rows] == [
        *("trial-2", "trial-1", "trial-3"),
        *("trial-4", "trial-5", "trial-6"),
    ]
    assert [row.outcome for row in rows] == [
        "on the front, kept",
        "on the front",
        "within the limits",
        "misses: latency ratio",
        "misses: accuracy change",
        "nothing | left to <b>prune</b>",
    ]
    assert rows[0].chain == "prune-structured (ratio 0.5) → ptq (bits 8)"


def test_objectives_and_limits_are_columns(found):
    assert search_columns(found) == (
        "Latency ratio",
        "Accuracy change",
        "Functional preservation",
    )
    rows = search_rows(found)
    assert rows[1].values == ("0.800", "−0.50 pp", "0.900")
    # A trial that failed has no values; one that was measured has one that is not finite.
    assert rows[-1].values == ("–", "–", "–")
    assert rows[0].values[2] == "not finite"


def test_nothing_of_a_search_without_one(run):
    assert search_rows(run) == []
    assert search_columns(run) == ()
    assert search_figure(run) is None
    assert front_table(run) is None
    assert 'id="search"' not in render_html(run)
    assert "#search" not in render_html(run)


def test_the_figure(found):
    svg = search_figure(found)
    root = ET.fromstring(svg)
    assert svg == search_figure(found)
    texts = "".join(root.itertext())
    for word in ("trial-1", "trial-2", "base", "limit", "on the front", "misses a limit"):
        assert word in texts
    # Only the front is named in the drawing; all of them to whoever cannot see it.
    assert "trial-3" not in texts
    for number in range(1, 6):
        assert f"trial-{number} " in root.get("aria-label")
    assert "trial-6" not in root.get("aria-label")


def test_what_lies_far_off_does_not_squeeze_the_rest(found):
    ticks = [t for t in ET.fromstring(search_figure(found)).itertext() if t.endswith(" pp")]
    assert ticks
    assert all(abs(float(t.removesuffix(" pp").replace("−", "-"))) < 12 for t in ticks)


@pytest.mark.parametrize(
    ("objectives", "drawn"),
    [
        (("latency_ratio",), False),
        (("latency_ratio", "accuracy_delta_pp", "functional_preservation"), True),
        (("latency_ratio", "sqnr_db"), False),
    ],
)
def test_one_three_and_unknown_objectives(found, objectives, drawn):
    changed = without(found, objectives=objectives)
    assert (search_figure(changed) is not None) == drawn
    assert search_columns(changed)[: len(objectives)][0] == "Latency ratio"
    assert "trial-2" in render_html(changed)


def test_a_metric_without_a_value_of_base_has_no_star(found):
    trials = tuple(
        t.model_copy(update={"metrics": {"accuracy": 0.9, "size_bytes": 1000.0 * t.number}})
        for t in found.search.trials
    )
    svg = search_figure(without(found, objectives=("accuracy", "size_bytes"), trials=trials))
    texts = list(ET.fromstring(svg).itertext())
    assert "base" not in "".join(texts)
    assert any(t.endswith(" KiB") for t in texts)
    assert any(t.endswith(" %") for t in texts)


def test_all_alike(found):
    alike = tuple(trial(n, 0.8, 0.0, within=False) for n in (1, 2))
    assert "NaN" not in search_figure(without(found, trials=alike))


def test_the_page_says_what_it_was_judged_on(found):
    page = render_html(found)
    assert '<a href="#search">' in page
    assert "examples held out of training" in page
    assert "&lt;b&gt;prune&lt;/b&gt;" in page
    borrowed = found.model_copy(update={"recipe": {**found.recipe, "data_limits": {}}})
    assert "training examples, since none are held out" in render_html(borrowed)
    assert "6 chains were tried" in page
    assert "1 chain was tried" in render_html(without(found, trials=found.search.trials[:1]))


def test_markdown(found):
    text = render_markdown(found)
    assert "<summary>The search</summary>" in text
    assert "trial-2" in text


def terminal(record, width):
    stream = io.StringIO()
    Console(file=stream, width=width).print(front_table(record))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 160])
def test_the_front_on_a_terminal(found, width):
    lines = terminal(found, width)
    assert lines[0].strip() == "The Pareto front of 6 chains, as the search saw them"
    assert all(len(line) <= width for line in lines)
    assert lines[2].startswith("trial-2 ")
    assert lines[2].split()[1:4] == ["0.600", "−1.50", "pp"]
    assert any(line.startswith("trial-1 (not kept)") for line in lines)
    assert "0.800" in "".join(lines)
    assert "trial-3" not in "".join(lines)


def test_no_front_no_table(found):
    none = tuple(t.model_copy(update={"on_front": False}) for t in found.search.trials)
    assert front_table(without(found, trials=none)) is None


def test_hostile_texts(found):
    bad = "<script>|\x1b[31m$\\frac{$"
    trials = (
        trial(1, 0.8, -0.5, front=True, variant=bad, chain=({"technique": bad, bad: bad},)),
        trial(2, within=False, problem=bad),
    )
    changed = without(found, trials=trials)
    ET.fromstring(search_figure(changed))
    for text in (render_html(changed), render_markdown(changed), "".join(terminal(changed, 80))):
        assert "\x1b" not in text
    assert "<script>|" not in render_html(changed)
