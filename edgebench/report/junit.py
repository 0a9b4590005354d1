"""The verdicts as JUnit XML, so that a CI server shows each gate of each variant as a test.

The suite is red exactly where the run's exit code is not 0. Its first case is the run's verdict;
then comes one case for each variant and gate:

==================  ==================  =============================================
what happened       the run is GO       the run is not GO
==================  ==================  =============================================
the run's verdict   passed              ``<failure>``; ``<error>`` where there is none
gate met            passed              passed
gate missed         ``<skipped>``       ``<failure type="NO-GO">``
INCONCLUSIVE        ``<skipped>``       ``<failure type="INCONCLUSIVE">``
failed, unmeasured  ``<skipped>``       ``<error>``
does not apply      ``<skipped>``       ``<skipped>``
==================  ==================  =============================================

One variant that may ship is enough for a GO, so there the others are information, not red.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from edgebench.records import RunRecord, Variant
from edgebench.report import format as fmt
from edgebench.report.base import RENDERERS, Renderer
from edgebench.report.rows import ordered, run_word, subject, verdict_word


def render_junit(run: RunRecord) -> str:
    """One test suite a run: its verdict, then a case for each variant (no controls) and gate."""
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
    _verdict_case(suite, run)
    for variant in ordered(run):
        _cases(suite, variant, red=run.verdict != "GO")
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


def _verdict_case(suite: ET.Element, run: RunRecord) -> None:
    word = run_word(run)
    outcome = {"GO": None, None: "error"}.get(run.verdict, "failure")
    text = f"{word}: {run.verdict_text}" if run.verdict_text else word
    _case(suite, "edgebench", "verdict", outcome, text, kind=word)


def _cases(suite: ET.Element, variant: Variant, *, red: bool) -> None:
    """A variant's cases; where they are not `red`, whatever did not pass is only told."""
    word = verdict_word(variant)
    missed, unknown = ("failure", "error") if red else ("skipped", "skipped")
    if variant.status != "measured":
        outcome = "skipped" if variant.status == "skipped" else unknown
        text = f"{word}: {variant.problem or 'no reason is given'}"
        _case(suite, variant.name, "measured", outcome, text, kind=word)
    elif variant.name != "base" and not variant.reasons:
        _case(suite, variant.name, "verdict", unknown, "no gate was judged", kind=word)
    for reason in variant.reasons:
        met = reason.verdict == "GO"
        text = f"{reason.verdict}: {reason.text}"
        _case(suite, variant.name, reason.gate, None if met else missed, text, kind=reason.verdict)


def _case(
    suite: ET.Element, group: str, name: str, outcome: str | None, message: str, *, kind: str
) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=fmt.clean(group), name=fmt.plain(name), time="0"
    )
    text = fmt.plain(message)
    if outcome is None:
        ET.SubElement(case, "system-out").text = text
        return
    element = ET.SubElement(case, outcome, message=text)
    if outcome != "skipped":
        element.set("type", kind)
        element.text = text


RENDERERS.register("junit")(Renderer("junit.xml", render_junit))
