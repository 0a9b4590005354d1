"""The evidence in words: what a sceptic reads, whatever the device wrote down."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.records import Measurement, Variant
from edgebench.report.evidence import evidence_of, least_change, range_told, told_of_integers
from edgebench.report.html import render_html
from edgebench.report.markdown import render_markdown
from edgebench.report.terminal import summary

HOSTILE = "<script>x</script>|`\x1b[31m\u202e"


def measured(run, name, **changes):
    """A variant of the example whose evidence has other values; `None` takes a key away."""
    variant = run.variant(name)
    evidence = copy.deepcopy(variant.measurement.evidence)
    for key, value in changes.items():
        found = evidence.get(key)
        evidence[key] = found | value if isinstance(found, dict) and value else value
    return variant.model_copy(
        update={"measurement": variant.measurement.model_copy(update={"evidence": evidence})}
    )


def facts(variant):
    """{title: fact} of everything that is told; a title that is there twice is a fault."""
    found = [fact for section in evidence_of(variant).sections for fact in section.facts]
    assert len({fact.title for fact in found}) == len(found)
    return {fact.title: fact for fact in found}


def test_every_key_of_the_example_is_told_in_words(run):
    for variant in run.variants:
        if variant.measurement is None:
            continue
        for section in evidence_of(variant).sections:
            for fact in section.facts:
                assert "{" not in fact.text
                assert fact.title not in variant.measurement.evidence or fact.title == "energy"


def test_how_many_operators_ran_as_integers(run):
    int8, base = run.variant("int8"), run.variant("base")
    assert facts(int8)["integers"].text.startswith(
        "4 of 11 operators ran as integers (QGemm 2, QLinearConv 2)"
    )
    assert facts(base)["integers"].text == "none of 8 operators ran as integers"
    assert (evidence_of(int8).integers, evidence_of(base).integers) == ("4 of 11", "none")
    assert evidence_of(run.variant("independent-1")).integers == "–"
    assert told_of_integers([base, int8]) == "int8 4 of 11"


def test_operators_by_provider(run):
    nodes = {"CUDAExecutionProvider": {"Conv": 20}, "CPUExecutionProvider": {"Cast": 1}}
    found = facts(measured(run, "base", inspection={"nodes": nodes}))
    assert found["operators"].text == (
        "1 on CPUExecutionProvider (Cast 1); 20 on CUDAExecutionProvider (Conv 20)"
    )
    (table,) = evidence_of(run.variant("int8")).sections[0].tables
    assert ("QLinearConv", "CPUExecutionProvider", "2", "yes") in table.rows
    assert ("Reshape", "CPUExecutionProvider", "1", "no") in table.rows


@pytest.mark.parametrize(
    ("session", "words", "doubtful", "short"),
    [
        (
            {"sqnr_db": 35.1, "max_abs_difference": 0.25, "changed_predictions": 0, "n": 64},
            "answers as the plain one does (35.1 dB of signal over difference on 64 examples, "
            "no prediction is another, largest difference 0.250; healthy: over 18 dB)",
            False,
            "35.1 dB",
        ),
        (
            {"sqnr_db": 9.9, "max_abs_difference": 4.0, "changed_predictions": 12, "n": 64},
            "answers otherwise than the plain one: int8 saturates",
            True,
            "9.90 dB, saturates",
        ),
        (
            {"sqnr_db": None, "max_abs_difference": 0.0, "changed_predictions": None, "n": 8},
            "answers exactly as the plain one does on 8 examples",
            False,
            "identical",
        ),
    ],
)
def test_whether_the_optimised_session_answers_as_the_plain_one(
    run, session, words, doubtful, short
):
    variant = measured(run, "int8", inspection={"optimised_vs_unoptimised": session})
    found = facts(variant)["optimisations"]
    assert words in found.text
    assert found.doubtful == doubtful
    assert evidence_of(variant).plain_session == short


def test_an_inspection_that_failed_says_why(run):
    variant = measured(run, "int8", inspection=None)
    variant.measurement.evidence["inspection"] = {"problem": "crashed (SIGSEGV)"}
    found = facts(variant)["operators"]
    assert found.text == "could not be looked at: crashed (SIGSEGV)"
    assert found.doubtful


DOUBTS = [
    ({"steady": False}, "warm-up", "was still moving"),
    ({"stopped": "the time cap"}, "processes", "ended at the time cap"),
    ({"same_input_ratio": 0.4}, "same input again", "takes 40 % of the time of a new one"),
    ({"peak_memory_reset": False}, "peak memory", "cannot restart the count"),
    ({"hash_randomised": False}, "hash seed", "fixed"),
    ({"quality": {"tukey_outliers": 0.3}}, "outliers", "30 % of the single queries"),
    ({"quality": {"lag1_autocorrelation": 0.7}}, "independence", "correlate by +0.70"),
    ({"quality": {"blocks_dropped": {"throttled": 2}}}, "dropped", "2 blocks (throttled)"),
    (
        {"quality": {"bootstrap": {"point": 3, "low": 2, "high": 4, "n": 6, "method": "m"}}},
        "second method",
        "far from 1.31 [1.28, 1.33]",
    ),
    (
        {"confirmation": {"stopped": "all processes", "missed_again": False}},
        "second look",
        "not missed again",
    ),
    (
        {"watch": {"throttle_events": 3, "throttle_causes": {"soctherm": 3}}},
        "slowed itself down",
        "3 times (soctherm)",
    ),
    (
        {"watch": {"cgroup": {"periods": 40, "throttled": 4, "throttled_ms": 80.0, "share": 0.1}}},
        "control group",
        "stopped in 4 of 40 periods, 10 % of the time",
    ),
    ({"watch": {"swapped_pages": {"in": 300, "out": 1}}}, "swapped", "301 pages"),
    ({"watch": {"killed_for_memory": 1}}, "killed", "1 process by the kernel"),
    ({"watch": {"settings_changed": True}}, "settings of the clocks", "changed meanwhile"),
    ({"watch": {"others_share": 0.4}}, "other programs", "used 40 % of the processors' time"),
    ({"watch": {"stolen_share": 0.2}}, "its host", "took 20 % of the time"),
    ({"watch": {"throttled_now": ["hot"]}}, "slowed down at the end", "hot"),
    (
        {"watch": {"nvidia": {"slowed_share": {"power": 0.031, "heat": 0.0}}}},
        "card slowed down",
        "3.1 % of the time (power)",
    ),
    ({"energy": {"problem": "the sensor fell silent"}}, "energy", "the sensor fell silent"),
]


@pytest.mark.parametrize(("changes", "title", "words"), DOUBTS, ids=[d[1] for d in DOUBTS])
def test_what_a_sceptic_should_doubt_is_marked(run, changes, title, words):
    if title in facts(run.variant("int8")):
        assert not facts(run.variant("int8"))[title].doubtful
    variant = measured(run, "int8", **changes)
    found = facts(variant)[title]
    assert words in found.text
    assert found.doubtful
    # The example's int8 saturates, so that is doubted already.
    assert evidence_of(variant).doubtful == 2


def test_a_second_look_that_confirms_is_no_doubt(run):
    found = facts(run.variant("fp16"))["second look"]
    assert "taken again in fresh processes: 1.121 [1.110, 1.133]; missed again" in found.text
    assert not found.doubtful


def test_copies_and_the_time_without_them(run):
    found = facts(measured(run, "base", transfers=True, device_resident_ms=0.5))
    assert "part of every latency" in found["copies"].text
    assert found["without copies"].text == "0.500 ms a query, its data already on the device"
    assert facts(run.variant("base"))["copies"].text.startswith("none")


def test_energy_names_its_sensor_and_what_was_subtracted(run):
    found = facts(run.variant("base"))
    assert found["a query"].text.startswith("0.106 mJ beyond the idle device, over ")
    assert found["idle"].text == "3.14 W over 10 s"
    assert found["sensor"].text == (
        "RAPL package-0 (package, counter), new or read 1,000 times a second"
    )


def test_cold_starts_are_one_row_a_process(run):
    variant = run.variant("base")
    sections = {section.title: section for section in evidence_of(variant).sections}
    (table,) = sections["Fresh processes"].tables
    assert table.head == ("Process", "Load", "First inference", "Peak memory", "Memory before")
    assert [row[0] for row in table.rows] == ["1", "2", "3"]
    assert table.rows[0][1:] == ("2.11 ms", "0.244 ms", "59.6 MiB", "49.6 MiB")


def test_what_nobody_knows_is_shown_as_it_is(run):
    found = facts(measured(run, "base", new_thing=[1, {"a": 2}], steady="perhaps"))
    assert found["new thing"].text == "1, a 2"
    assert found["steady"].text == "perhaps"


def test_the_evidence_of_older_runs_is_still_told(run):
    old = {"throttle_events": 0, "inner": [32, 32], "providers": ["P"], "rechecked": 24}
    variant = run.base.model_copy(
        update={"measurement": Measurement(grade="C", valid=True, evidence=old)}
    )
    found = facts(variant)
    assert found["slowed itself down"].text.startswith("not once")
    assert found["inner"].text == "32, 32"


def test_the_least_change_that_a_measurement_tells(run):
    assert least_change(run.variant("int8")) == "5.2 %"
    assert range_told(list(run.variants)) == "3.0 to 5.7 %"
    invalid = run.variant("int8").measurement.model_copy(update={"valid": False})
    assert least_change(run.variant("int8").model_copy(update={"measurement": invalid})) == "–"
    assert range_told([run.variant("bf16")]) == ""


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 1e308, -1e308, 5e-324, HOSTILE, ""])
    | st.floats(allow_nan=True),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "nodes",
                    "before",
                    "after",
                    "run",
                    "idle",
                    "share",
                    "point",
                    "low",
                    "high",
                    HOSTILE,
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def places(value, path=()):
    """The path of every value inside nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(data=st.data())
def test_any_json_is_rendered_without_a_traceback(run, data):
    variant = run.variant("fp16")
    evidence = json.loads(json.dumps(variant.measurement.evidence))
    for *outer, key in data.draw(st.lists(st.sampled_from(sorted(places(evidence))), max_size=4)):
        inside = evidence
        for name in outer:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[key] = data.draw(JSON)
    changed = variant.model_copy(
        update={"measurement": variant.measurement.model_copy(update={"evidence": evidence})}
    )
    for section in evidence_of(changed).sections:
        for words in (
            *(text for fact in section.facts for text in (fact.title, fact.text)),
            *(cell for table in section.tables for line in table.rows for cell in line),
        ):
            assert isinstance(words, str)
            assert not {"\x1b", "\n", "\u202e"} & set(words)


def test_hostile_evidence_is_inert_in_every_report(run):
    def spoilt(value):
        if isinstance(value, dict):
            return {f"{HOSTILE}{k}" if k == "CPUExecutionProvider" else k: spoilt(v)
                    for k, v in value.items()} | {HOSTILE: HOSTILE}  # fmt: skip
        if isinstance(value, list):
            return [spoilt(v) for v in value]
        return HOSTILE if isinstance(value, str) else value

    def attacked(variant: Variant) -> Variant:
        if variant.measurement is None:
            return variant
        update = {
            "evidence": spoilt(variant.measurement.evidence),
            "valid": False,
            "invalid_reasons": (HOSTILE,),
        }
        return variant.model_copy(
            update={"measurement": variant.measurement.model_copy(update=update)}
        )

    odd = run.model_copy(update={"variants": tuple(map(attacked, run.variants))})
    for text in (render_html(odd), render_markdown(odd)):
        assert "<script" not in text
        assert not {"\x1b", "\u202e"} & set(text)
    assert summary(odd, 80)
