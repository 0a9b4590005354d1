"""The evidence of a measurement in words, for every report alike."""

from __future__ import annotations

from dataclasses import dataclass

from edgebench.records import Variant
from edgebench.report import format as fmt
from edgebench.report.evidence_clock import clock_sections
from edgebench.report.evidence_device import device_sections
from edgebench.report.evidence_program import (
    integers_of,
    plain_session_of,
    program_section,
)
from edgebench.report.facts import Fact, Section, Told, listed, share

NO_REASON = "no reason is given"


@dataclass(frozen=True)
class Evidence:
    """One measurement: whether it is evidence, and what was seen.

    The texts from `told` on are its row in the table of all measurements.
    """

    name: str
    grade: str
    valid: bool
    reasons: tuple[str, ...]
    told: str
    integers: str
    plain_session: str
    load: str
    first: str
    memory: str
    sections: tuple[Section, ...]

    @property
    def doubtful(self) -> int:
        """How many facts a sceptic should know of."""
        return sum(fact.doubtful for section in self.sections for fact in section.facts)


def evidence_of(variant: Variant) -> Evidence | None:
    """What is known of one variant's measurement; None where it was not measured."""
    measurement = variant.measurement
    if measurement is None:
        return None
    metrics = variant.metrics
    return Evidence(
        name=fmt.clean(variant.name),
        grade=measurement.grade,
        valid=measurement.valid,
        reasons=tuple(fmt.plain(reason) for reason in measurement.invalid_reasons),
        told=least_change(variant),
        integers=integers_of(measurement.evidence),
        plain_session=plain_session_of(measurement.evidence),
        load=fmt.point("load_ms", metrics.get("load_ms")),
        first=fmt.point("first_inference_ms", metrics.get("first_inference_ms")),
        memory=fmt.point("peak_memory_mib", metrics.get("peak_memory_mib")),
        sections=_sections(variant),
    )


def least_change(variant: Variant) -> str:
    """The least change of latency that a variant's measurement would have told from none."""
    found = _told(variant)
    return fmt.MISSING if found is None else share(found)


def _told(variant: Variant) -> float | None:
    measurement = variant.measurement
    if measurement is None or not measurement.valid:
        return None
    return fmt.finite(measurement.smallest_detectable_change)


def noise_floor(variant: Variant | None) -> float | None:
    """What base differs by when it is timed against itself, as a share."""
    measurement = variant.measurement if variant else None
    return fmt.finite(measurement.noise_floor) if measurement else None


def invalid_reasons(variant: Variant) -> str:
    """Why a variant's measurement is no evidence; empty where it is."""
    measurement = variant.measurement
    if measurement is None or measurement.valid:
        return ""
    return "; ".join(map(fmt.plain, measurement.invalid_reasons)) or NO_REASON


def _sections(variant: Variant) -> tuple[Section, ...]:
    measurement = variant.measurement
    assert measurement is not None  # noqa: S101 - the caller chose those that have one
    told = Told(measurement.evidence)
    ratio = variant.comparisons.get("latency_ratio")
    sections = [program_section(told), *clock_sections(told, ratio), *device_sections(told)]
    others = told.rest()
    files = (("raw samples", measurement.samples_file), ("raw answers", measurement.outputs_file))
    others += [Fact(title, fmt.plain(path)) for title, path in files if path]
    if measurement.fingerprint:
        others.append(Fact("fingerprint", fmt.clean(measurement.fingerprint)))
    sections.append(Section("Written down besides", tuple(others)))
    return tuple(section for section in sections if section.facts or section.tables)


def range_told(variants: list[Variant]) -> str:
    """The least changes of latency that several measurements tell: `0.9 %` or `0.9 to 2.1 %`."""
    known = sorted(value for v in variants if (value := _told(v)) is not None)
    if not known:
        return ""
    least, most = share(known[0]), share(known[-1])
    return least if least == most else f"{least.removesuffix(' %')} to {most}"


def told_of_integers(variants: list[Variant]) -> str:
    """How many operators ran as integers, of the variants of which some did."""
    found = [
        f"{fmt.clean(v.name)} {words}"
        for v in variants
        if v.measurement is not None
        and (words := integers_of(v.measurement.evidence)) not in {fmt.MISSING, "none"}
    ]
    return listed(found)
