from __future__ import annotations

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from edgebench.records import Estimate, ScenarioResult
from edgebench.report import markdown
from edgebench.report.scenarios import doubts, markdown_lines, scenario_groups, terminal_table

HOSTILE = "<script>x</script>|\x1b[31m"


def estimate(point: float) -> Estimate:
    return Estimate(point=point, low=0.9 * point, high=1.1 * point, n=6, method="test")


def server(**changes) -> ScenarioResult:
    return ScenarioResult(
        **{
            "label": "server-qps200",
            "scenario": "server",
            "driver": "loadgen",
            "settings": {"batch": 1, "qps": 200.0, "duration_s": 2.0, "threads": 2},
            "valid": True,
            "queries": 720,
            "processes": 6,
            "metrics": {
                "p50_ms": estimate(1.5),
                "p99_ms": estimate(12.5),
                "service_p99_ms": estimate(2.0),
                "achieved_qps": estimate(199.0),
                "throughput_per_s": estimate(199.0),
            },
            "ratios": {"p50": estimate(0.5), "p99": estimate(0.75)},
            "needed": {"p999_ms": 6636},
            "offered_qps": 200.0,
            "target_latency_ms": 20.0,
            "target_met": "yes",
            "evidence": {
                "runs": [
                    {"arm": 1, "loadgen": {"validity": "VALID"}},
                    {"arm": 1, "loadgen": {"validity": "INVALID"}},
                    {"arm": 0, "loadgen": {"validity": "INVALID"}},
                ]
            },
        }
        | changes
    )


def offline() -> ScenarioResult:
    return server(
        label="offline-b32",
        scenario="offline",
        driver="edgebench",
        metrics={"throughput_per_s": estimate(5000.0)},
        ratios={"throughput": estimate(2.0)},
        target_met=None,
        offered_qps=None,
        evidence={},
    )


@pytest.fixture
def with_scenarios(run):
    def make(*scenarios: ScenarioResult):
        variants = tuple(
            v if v.control else v.model_copy(update={"scenarios": scenarios}) for v in run.variants
        )
        return run.model_copy(update={"variants": variants})

    return make


def html(run) -> str:
    environment = Environment(
        loader=PackageLoader("edgebench.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("scenarios.html.j2").render(scenarios=scenario_groups(run))


def test_a_run_without_scenarios_has_no_section(run):
    assert scenario_groups(run) == []
    assert markdown_lines(run, markdown.table, markdown.escape) == []
    assert terminal_table(run, 80) is None


def test_each_scenario_is_a_table_with_a_row_a_variant(with_scenarios):
    found = with_scenarios(server(), offline())
    first, second = scenario_groups(found)
    assert first.rows[0].name == "base"
    assert len(first.rows) == len([v for v in found.variants if not v.control])
    assert first.title == "server-qps200"
    assert "200 queries a second arrive" in first.settings
    for group in (first, second):
        assert {len(row.cells) + 2 for row in group.rows} == {len(group.head)}
    page = html(found)
    for text in ("1.50 ms", "12.5 ms", "0.50", "server-qps200", "offline-b32"):
        assert text in page


def test_what_there_is_to_know_is_said(with_scenarios):
    notes = scenario_groups(with_scenarios(server()))[0].rows[0].notes
    assert "99 % within 20.0 ms: yes" in notes
    assert "LoadGen says VALID in 1 of 2 processes" in notes
    assert any(note.startswith("200 /s offered, 199 /s answered") for note in notes)
    assert "service alone, p99: 2.00 ms" in notes


def test_a_tail_that_is_not_given_says_how_many_queries_it_takes(with_scenarios):
    few = server(metrics={"p50_ms": estimate(1.5)}, needed={"p99_ms": 662}, queries=100)
    row = scenario_groups(with_scenarios(few))[0].rows[0]
    assert row.cells[1].line == "–"
    assert "p99 takes 662 queries, there were 100" in row.notes


def test_a_ratio_that_is_not_given_says_why(with_scenarios):
    why = "base cannot keep up: of 200 queries a second it answers 83"
    none = Estimate(point=None, low=None, high=None, n=6, method=why)
    row = scenario_groups(with_scenarios(server(ratios={"p50": none, "p99": none})))[0].rows[0]
    assert row.valid
    assert [cell.line for cell in row.cells[2:4]] == ["–", "–"]
    assert f"no ratio: {why}" in row.notes


def test_a_run_that_kept_all_it_may_says_where_it_ended(with_scenarios):
    runs = [{"arm": arm, "ended_at": 200_000 if process else None, "loadgen": None}
            for process in range(6) for arm in (0, 1)]  # fmt: skip
    row = scenario_groups(with_scenarios(server(evidence={"runs": runs})))[0].rows[0]
    assert "ended at 200,000 queries in 5 of 6 processes" in row.notes


def test_what_is_not_valid_comes_first_and_among_the_doubts(with_scenarios):
    reason = "cannot keep up: of 200 queries a second it answers 83"
    found = with_scenarios(server(valid=False, invalid_reasons=(reason,)), offline())
    row = scenario_groups(found)[0].rows[0]
    assert row.notes[0] == f"not valid: {reason}"
    assert doubts(found)[0] == f"base, scenario server-qps200: {reason}"
    assert reason in "\n".join(markdown_lines(found, markdown.table, markdown.escape))


def test_a_failed_scenario_is_shown_with_its_problem(with_scenarios):
    failed = server(valid=False, problem="crashed", metrics={}, ratios={}, needed={}, evidence={})
    for text in (html(with_scenarios(failed)), doubts(with_scenarios(failed))[0]):
        assert "crashed" in text


def test_markup_of_unknown_origin_stays_text(with_scenarios):
    found = with_scenarios(
        server(label=HOSTILE, valid=False, problem=HOSTILE, settings={"batch": HOSTILE})
    )
    for text in (
        html(found),
        "\n".join(markdown_lines(found, markdown.table, markdown.escape)),
    ):
        assert "<script>" not in text
        assert "\x1b" not in text


def test_a_terminal_shows_one_line_a_scenario_and_variant(with_scenarios):
    from rich.console import Console

    found = with_scenarios(server(), offline())
    console = Console(width=120, record=True)
    console.print(terminal_table(found, 120))
    text = console.export_text()
    assert text.count("server-qps200") == text.count("offline-b32") > 1
    assert "12.5 ms" in text
    assert "5,000 /s" in text
