"""The verdict table, one row a variant, as every report shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgebench.records import Reason, RunRecord, Variant, Verdict
from edgebench.report import format as fmt
from edgebench.report.evidence import invalid_reasons, least_change

NOT_VALID = "NOT VALID"

_STATUS_WORDS = {"failed": "FAILED", "skipped": "SKIPPED", "not_measured": "NOT MEASURED"}
_EXIT_WORDS = {4: "NOT MEASURED", 5: "FAILED"}
_DECIDING: tuple[Verdict, ...] = ("NO-GO", "INCONCLUSIVE", "GO")
_TONES = {"GO": "go", "NO-GO": "no-go", "INCONCLUSIVE": "inconclusive", "FAILED": "no-go"}


class Cell(NamedTuple):
    """A value, and its interval (or what else belongs under it)."""

    point: str = fmt.MISSING
    interval: str = ""

    @property
    def line(self) -> str:
        """Both on one line."""
        return f"{self.point} {self.interval}".strip()


@dataclass(frozen=True)
class Row:
    """One variant with its numbers written out; `tone` is the colour family of its verdict.

    `chain` has the options that were asked for.
    `told`: the least change of latency its measurement would have told from none. `invalid`: why
    the measurement is no evidence, empty where it is. `reasons`: what decided the verdict comes
    first, and what holds for several gates is there once.
    """

    name: str
    chain: str
    word: str
    tone: str
    latency: Cell
    ratio: Cell
    told: str
    energy: Cell
    size: Cell
    size_ratio: Cell
    accuracy: Cell
    delta: Cell
    disagreement: Cell
    preservation: Cell
    sqnr: Cell
    cosine: Cell
    error: Cell
    problem: str
    invalid: str
    reasons: tuple[Reason, ...]


def ordered(run: RunRecord, *, controls: bool = False) -> list[Variant]:
    """Base, then the variants in the recipe's order, then the controls where they are wanted."""
    wanted = [v for v in run.variants if controls or not v.beside]
    return sorted(wanted, key=lambda v: (v.name != "base", v.beside))


def verdict_word(variant: Variant) -> str:
    """The verdict, or the word that stands in its place."""
    if variant.verdict is not None:
        return variant.verdict
    if variant.status != "measured":
        return _STATUS_WORDS[variant.status]
    if variant.name == "base":
        return "reference"
    return "control" if variant.beside else "NO VERDICT"


def run_word(run: RunRecord) -> str:
    """The verdict of the whole run, or what it ended in instead."""
    return run.verdict or _EXIT_WORDS.get(run.exit_code, "NO VERDICT")


def tone(word: str) -> str:
    """The colour family of a verdict's word: go, no-go, inconclusive or none."""
    return _TONES.get(word, "none")


def draw_order(tone: str) -> int:
    """Where two marks meet, the higher is drawn on top: a GO is never hidden."""
    return ("none", "no-go", "inconclusive", "go").index(tone)


def problems(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """What went wrong, once for all variants it befell: (names, word, tone, text)."""
    befell = [(row.name, row.word, row.tone, row.problem) for row in rows if row.problem]
    befell += [(row.name, NOT_VALID, "no-go", row.invalid) for row in rows if row.invalid]
    return _together(befell)


def unmet(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """The gates that were not met, once for all variants of one text: (names, word, tone, text)."""
    return _together(
        [
            (row.name, reason.verdict, tone(reason.verdict), fmt.plain(reason.text))
            for row in rows
            for reason in row.reasons
            if reason.verdict != "GO" and not _says_invalid(row, reason)
        ]
    )


def _says_invalid(row: Row, reason: Reason) -> bool:
    """Whether a reason only repeats why the row's own measurement is not valid."""
    return bool(row.invalid) and row.invalid in fmt.plain(reason.text)


def _together(told: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    names: dict[tuple[str, str, str], list[str]] = {}
    for name, *rest in told:
        names.setdefault((rest[0], rest[1], rest[2]), []).append(name)
    return [(", ".join(group), *rest) for rest, group in names.items()]


def subject(run: RunRecord) -> str:
    """What was judged: `lenet on digits, target host`."""
    model = fmt.plain(run.recipe.get("model", "model"))
    data = fmt.plain(run.data.get("name") or run.recipe.get("data", "data"))
    return f"{model} on {data}, target {fmt.plain(run.target.get('name', 'unknown'))}"


def verdict_rows(run: RunRecord) -> list[Row]:
    """All variants that are not controls, base first."""
    base = run.variant("base")
    return [_row(variant, base, written_chain(run, variant)) for variant in ordered(run)]


def written_chain(run: RunRecord, variant: Variant) -> Sequence[Mapping[str, Any]]:
    """A variant's steps with the options that were asked for; the record's own hold them all."""
    written = run.recipe.get("variants")
    steps = written.get(variant.name) if isinstance(written, Mapping) else None
    if isinstance(steps, list) and all(isinstance(step, Mapping) for step in steps):
        return steps
    trials = run.search.trials if run.search is not None else ()
    return next((trial.chain for trial in trials if trial.variant == variant.name), variant.chain)


def reference(base: Variant | None, name: str) -> float | None:
    """Base's value of a metric, which chooses the unit for all variants."""
    return base.metrics.get(name) if base else None


def metric_cell(variant: Variant, name: str, base: Variant | None) -> Cell:
    """A metric of the variant's own, with its interval where there is one."""
    unit_from = reference(base, name)
    if name in variant.intervals:
        return Cell(*fmt.parts(name, variant.intervals[name], unit_from))
    return Cell(fmt.point(name, variant.metrics.get(name), unit_from))


def comparison_cell(variant: Variant, name: str) -> Cell:
    """A comparison with base."""
    return Cell(*fmt.parts(name, variant.comparisons.get(name)))


def _row(variant: Variant, base: Variant | None, chain: Sequence[Mapping[str, Any]]) -> Row:
    word = verdict_word(variant)

    def against_base(name: str) -> Cell:
        # Base against itself is the A/A control; it has its own place in the latency figure.
        return Cell() if variant.name == "base" else comparison_cell(variant, name)

    return Row(
        name=fmt.clean(variant.name),
        chain=fmt.chain(chain) or ("uncompressed" if variant.name == "base" else ""),
        word=word,
        tone=tone(word),
        latency=metric_cell(variant, "latency_p50_ms", base),
        ratio=against_base("latency_ratio"),
        told=least_change(variant),
        energy=metric_cell(variant, "energy_mj", base),
        size=_size(variant, base),
        size_ratio=against_base("size_ratio"),
        accuracy=metric_cell(variant, "accuracy", base),
        delta=against_base("accuracy_delta_pp"),
        disagreement=against_base("prediction_disagreement"),
        preservation=against_base("functional_preservation"),
        sqnr=against_base("sqnr_db"),
        cosine=against_base("output_cosine"),
        error=against_base("mean_relative_error"),
        problem=fmt.plain(variant.problem or ""),
        invalid=invalid_reasons(variant),
        reasons=_reasons(variant),
    )


def _reasons(variant: Variant) -> tuple[Reason, ...]:
    """What decided first; a text that several gates give, as of an invalid measurement, once."""
    once = {(reason.verdict, reason.text): reason for reason in reversed(variant.reasons)}
    kept = [r for r in variant.reasons if once[r.verdict, r.text] is r]
    return tuple(sorted(kept, key=lambda r: _DECIDING.index(r.verdict)))


def _size(variant: Variant, base: Variant | None) -> Cell:
    artifact = variant.artifact
    if artifact is None:
        return Cell(fmt.point("size_bytes", variant.metrics.get("size_bytes")))
    unit_from = base.artifact.bytes if base and base.artifact else None
    compressed = fmt.point("size_bytes", artifact.compressed_bytes, unit_from)
    return Cell(fmt.point("size_bytes", artifact.bytes, unit_from), f"zip {compressed}")
