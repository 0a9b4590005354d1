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


def test_one_case_a_gate_with_its_outcome(run):
    cases = {(c.get("classname"), c.get("name")): c for c in suite_of(run).findall("testcase")}
    tags = {"GO": "system-out", "NO-GO": "failure", "INCONCLUSIVE": "skipped"}
    judged = 0
    for variant in run.variants:
        for reason in variant.reasons:
            (outcome,) = cases[variant.name, reason.gate]
            assert outcome.tag == tags[reason.verdict]
            assert reason.text in (outcome.get("message") or outcome.text)
            judged += 1
    assert len(cases) == judged + 2
    assert cases["structured-98", "measured"].find("error").get("type") == "failed"
    assert "does not run bf16" in cases["bf16", "measured"].find("skipped").get("message")
    assert not [name for name, _ in cases if name.startswith("independent")]


def test_a_target_out_of_reach_is_an_error(bare):
    (case,) = suite_of(bare).findall("testcase")
    assert case.find("error").get("message") == "the target was not reached"
