"""What the proof has to show, and what a run shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgebench.records import RunRecord, Variant

# Percentage deviation of test accuracy from base, LeNet on MNIST: paper 000, Table of results.
PUBLISHED = {
    "fp16": -0.07,
    "int8-weights": -0.05,
    "prune-10": -0.07,
    "prune-30": -0.08,
    "prune-50": -0.01,
    "prune-70": -1.04,
    "prune-90": -22.55,
}


@dataclass(frozen=True)
class Claim:
    """One thing the proof has to show, and what was seen."""

    wanted: str
    seen: str
    shown: bool | None

    def row(self) -> tuple[str, str, str]:
        """A row of the table of claims."""
        return self.wanted, self.seen, {True: "yes", False: "**no**", None: "not run"}[self.shown]


def claims(
    lenet: RunRecord | None, resnet: RunRecord | None, beside: dict[str, Any] | None
) -> list[Claim]:
    return [*_lenet_claims(lenet), *_resnet_claims(resnet), *_beside_claims(beside)]


def _lenet_claims(run: RunRecord | None) -> list[Claim]:
    wanted = [
        "LeNet, MNIST: base ≥ 98.9 %",
        "pruned by 10 to 90 %, 16 and 8 bit: as paper 000's table (deviation %)",
        "QAT ≥ PTQ at 8 bits",
        "QAT ≥ PTQ at 4 bits",
    ]
    if run is None:
        return [Claim(text, "", None) for text in wanted]
    base = accuracy(run, "base")
    deviations = {
        name: 100 * (accuracy(run, name) - base) / base for name in PUBLISHED if _has(run, name)
    }
    told = ", ".join(f"{n} {d:+.2f} ({PUBLISHED[n]:+.2f})" for n, d in deviations.items())
    mild = [n for n in deviations if n not in {"prune-70", "prune-90"}]
    alike = all(abs(deviations[n]) <= 0.5 for n in mild) and deviations["prune-90"] < -5
    return [
        Claim(wanted[0], f"{base:.2%}", base >= 0.989),
        Claim(wanted[1], told, alike and deviations["prune-70"] < deviations["prune-50"] + 0.2),
        *(
            Claim(
                text,
                f"{accuracy(run, qat):.2%} against {accuracy(run, ptq):.2%}",
                accuracy(run, qat) >= accuracy(run, ptq),
            )
            for text, qat, ptq in (
                (wanted[2], "int8-qat", "int8"),
                (wanted[3], "int4-qat", "int4"),
            )
        ),
    ]


def _resnet_claims(run: RunRecord | None) -> list[Claim]:
    wanted = [
        "ResNet-8, CIFAR-10: base ≥ 85 %",
        "int8 PTQ within 1 pp",
        "int8 QAT within 0.5 pp",
        "int4 QAT ≥ 10 pp above int4 PTQ (per tensor)",
        "a structured chain ≥ 2.5 × faster than base within 1.5 pp",
    ]
    if run is None:
        return [Claim(text, "", None) for text in wanted]
    base = accuracy(run, "base")
    found = [Claim(wanted[0], f"{base:.2%}", base >= 0.85)]
    for text, name, limit in ((wanted[1], "int8", 1.0), (wanted[2], "int8-qat", 0.5)):
        delta = 100 * (accuracy(run, name) - base)
        found.append(Claim(text, f"{delta:+.2f} pp", delta >= -limit))
    gain = 100 * (accuracy(run, "int4-qat") - accuracy(run, "int4"))
    found.append(Claim(wanted[3], f"{gain:+.2f} pp", gain >= 10))
    structured = [v for v in run.variants if _is_structured(v) and v.status == "measured"]
    told = []
    met = False
    for one in structured:
        ratio = one.comparisons["latency_ratio"].point or 1.0
        delta = 100 * (accuracy(run, one.name) - base)
        told.append(f"{one.name} {1 / ratio:.2f} ×, {delta:+.2f} pp")
        met = met or (1 / ratio >= 2.5 and delta >= -1.5)
    found.append(Claim(wanted[4], "; ".join(told), met if structured else None))
    return found


def _beside_claims(beside: dict[str, Any] | None) -> list[Claim]:
    wanted = "best chain ≥ 1.8 × faster than the best of the other tools, within 1 pp of it"
    if beside is None:
        return [Claim(wanted, "", None)]
    rows = beside["rows"]
    base = rows[0]
    ours = [r for r in rows if r["name"].startswith("edgebench")]
    # A file that lost more than a point is no alternative to one that did not.
    usable = [
        r
        for r in rows[1:]
        if r not in ours and r["accuracy"] >= base["accuracy"] - 0.01 and r["speedup"] > 0
    ]
    best = max(usable, key=lambda r: r["speedup"])
    near = [r for r in ours if r["accuracy"] >= best["accuracy"] - 0.01]
    if not near:
        return [Claim(wanted, f"none within 1 pp of {best['name']}", False)]
    top = max(near, key=lambda r: r["speedup"])
    times = top["speedup"] / best["speedup"]
    seen = (
        f"{top['name']} {top['speedup']:.2f} × base, {best['name']} {best['speedup']:.2f} ×: "
        f"{times:.2f} ×, {100 * (top['accuracy'] - best['accuracy']):+.2f} pp"
    )
    return [Claim(wanted, seen, times >= 1.8)]


def _is_structured(variant: Variant) -> bool:
    return any(step.get("technique") == "prune-structured" for step in variant.chain)


def _has(run: RunRecord, name: str) -> bool:
    found = run.variant(name)
    return found is not None and found.status == "measured"


def accuracy(run: RunRecord, name: str) -> float:
    found = run.variant(name)
    value = None if found is None else found.metrics.get("accuracy")
    return float("nan") if value is None else value
