import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from edgebench.report.junit import render_junit


def suite_of(run):
    root = ET.fromstring(render_junit(run).encode("utf-8"))
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


@pytest.mark.parametrize("kind", ["run", "hostile", "bare"])
def test_counts_agree_with_the_cases(kind, request):
    suite = suite_of(request.getfixturevalue(kind))
    cases = suite.findall("testcase")
    found = Counter(child.tag for case in cases for child in case)
    assert int(suite.get("tests")) == len(cases) > 0
    assert int(suite.get("failures")) == found["failure"]
    assert int(suite.get("errors")) == found["error"]
    assert int(suite.get("skipped")) == found["skipped"]


def ended(run, verdict, exit_code):
    return run.model_copy(update={"verdict": verdict, "exit_code": exit_code})


def cases_of(run):
    return {(c.get("classname"), c.get("name")): c for c in suite_of(run).findall("testcase")}


def test_a_go_run_is_not_red_whatever_the_other_variants_are(run):
    suite = suite_of(run)
    assert run.exit_code == 0
    assert suite.get("failures") == suite.get("errors") == "0"
    first = suite.find("testcase")
    assert (first.get("classname"), first.get("name")) == ("edgebench", "verdict")
    assert run.verdict_text in first.find("system-out").text


@pytest.mark.parametrize(
    ("verdict", "exit_code", "tag", "kind"),
    [
        ("NO-GO", 1, "failure", "NO-GO"),
        ("INCONCLUSIVE", 3, "failure", "INCONCLUSIVE"),
        (None, 4, "error", "NOT MEASURED"),
        (None, 5, "error", "FAILED"),
    ],
)
@pytest.mark.parametrize("kept", ["all", "base", "go"])
def test_any_other_run_is_red(run, verdict, exit_code, tag, kind, kept):
    chosen = {
        "all": run.variants,
        "base": (run.base,),
        "go": tuple(v for v in run.variants if v.name == "base" or v.verdict == "GO"),
    }[kept]
    other = ended(run, verdict, exit_code).model_copy(update={"variants": chosen})
    assert cases_of(other)["edgebench", "verdict"].find(tag).get("type") == kind


@pytest.mark.parametrize("verdict", ["GO", "NO-GO"])
def test_one_case_a_gate_with_its_outcome(run, verdict):
    cases = cases_of(ended(run, verdict, 0 if verdict == "GO" else 1))
    missed = "skipped" if verdict == "GO" else "failure"
    judged = 0
    for variant in run.variants:
        for reason in variant.reasons:
            (outcome,) = cases[variant.name, reason.gate]
            assert outcome.tag == ("system-out" if reason.verdict == "GO" else missed)
            if outcome.tag == "failure":
                assert outcome.get("type") == reason.verdict
            told = outcome.get("message") or outcome.text
            assert told.startswith(f"{reason.verdict}: ")
            assert reason.text in told
            judged += 1
    assert len(cases) == judged + 3
    (failed,) = cases["structured-98", "measured"]
    assert failed.tag == ("skipped" if verdict == "GO" else "error")
    assert "does not run bf16" in cases["bf16", "measured"].find("skipped").get("message")
    assert not [name for name, _ in cases if name.startswith("independent")]


def test_a_target_out_of_reach_is_an_error(bare):
    verdict, base = suite_of(bare).findall("testcase")
    assert verdict.find("error").get("type") == "NOT MEASURED"
    assert "the target was not reached" in base.find("error").get("message")
