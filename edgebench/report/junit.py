"""The verdicts as JUnit XML, so that a CI server shows each gate of each variant as a test.

==================  ====================  =====================================================
what happened       in the file           why
==================  ====================  =====================================================
gate met            passed test case
gate missed         ``<failure>``         the variant may not ship
INCONCLUSIVE        ``<skipped>``         nothing was shown to be broken, nor to be well; the
                                          message says so, and the command's exit code fails
                                          the job where that matters
variant skipped     ``<skipped>``         the target cannot run it
failed, unmeasured  ``<error>``           there is no evidence to judge
==================  ====================  =====================================================
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from edgebench.records import Reason, RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.rows import ordered, run_word, subject


def render_junit(run: RunRecord) -> str:
    """One test suite a run, one test case for each variant (not the controls) and gate."""
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite")
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", run_word(run)),
        ("verdict_text", run.verdict_text),
        ("run_id", run.run_id),
        ("edgebench_version", run.edgebench_version),
        ("device_fingerprint", run.device.get("fingerprint")),
    ):
        if value:
            ET.SubElement(properties, "property", name=name, value=fmt.clean(value))
    for variant in ordered(run):
        _cases(suite, variant)
    counts = {kind: len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error")}
    attributes = {
        "name": f"edgebench: {subject(run)}",
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(len(suite.findall("testcase/skipped"))),
        "time": f"{sum(stage.seconds for stage in run.stages):.3f}",
    }
    for name, value in attributes.items():
        root.set(name, value)
        suite.set(name, value)
    suite.set("timestamp", fmt.clean(run.created))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _cases(suite: ET.Element, variant: Variant) -> None:
    if variant.status == "skipped":
        _case(suite, variant, "measured", "skipped", variant.problem or "not applicable here")
    elif variant.status != "measured":
        _case(suite, variant, "measured", "error", variant.problem or variant.status)
    elif variant.name != "base" and not variant.reasons:
        _case(suite, variant, "verdict", "error", "no gate was judged")
    for reason in variant.reasons:
        _gate_case(suite, variant, reason)


def _gate_case(suite: ET.Element, variant: Variant, reason: Reason) -> None:
    outcome = {"GO": None, "NO-GO": "failure", "INCONCLUSIVE": "skipped"}[reason.verdict]
    _case(suite, variant, reason.gate, outcome, f"{reason.verdict}: {reason.text}")


def _case(
    suite: ET.Element, variant: Variant, name: str, outcome: str | None, message: str
) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=fmt.clean(variant.name), name=fmt.plain(name), time="0"
    )
    text = fmt.plain(message)
    if outcome is None:
        ET.SubElement(case, "system-out").text = text
        return
    element = ET.SubElement(case, outcome, message=text)
    if outcome != "skipped":
        element.set("type", "gate" if outcome == "failure" else variant.status)
        element.text = text


RENDERERS.register("junit")(Renderer("junit.xml", render_junit))
