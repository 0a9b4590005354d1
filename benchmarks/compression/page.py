"""The proof as a page: what was wanted, what was seen, and every variant's figures.

python -m benchmarks.compression.page --runs runs/compression --out reports/compression
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
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


def main() -> int:
    """Write the page of what there is; gives the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/compression"))
    parser.add_argument("--out", type=Path, default=Path("reports/compression"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lenet = _run(options.runs / "lenet-mnist")
    resnet = _run(options.runs / "resnet8-cifar10")
    beside = _json(options.runs / "side-by-side.json")
    others = _json(options.runs / "others" / "others.json")
    lines = ["# What the techniques reach on MNIST and CIFAR-10", ""]
    lines += _table(("Wanted", "Seen", "Shown"), [c.row() for c in _claims(lenet, resnet, beside)])
    for title, run, name in (
        ("LeNet on MNIST", lenet, "lenet-mnist"),
        ("ResNet-8 on CIFAR-10", resnet, "resnet8-cifar10"),
    ):
        if run is None:
            continue
        lines += ["", f"## {title}", "", *_circumstances(run), "", *_variants(run)]
        for file in ("run.json", "report.html"):
            shutil.copyfile(options.runs / name / file, options.out / f"{name}-{file}")
        lines += ["", f"[run.json]({name}-run.json), [page]({name}-report.html)"]
    if beside is not None:
        lines += ["", "## The same trained file, by other tools, in one interleaved run", ""]
        lines += _side_by_side(beside, others)
    (options.out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def _claims(
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
    base = _accuracy(run, "base")
    deviations = {
        name: 100 * (_accuracy(run, name) - base) / base for name in PUBLISHED if _has(run, name)
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
                f"{_accuracy(run, qat):.2%} against {_accuracy(run, ptq):.2%}",
                _accuracy(run, qat) >= _accuracy(run, ptq),
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
    base = _accuracy(run, "base")
    found = [Claim(wanted[0], f"{base:.2%}", base >= 0.85)]
    for text, name, limit in ((wanted[1], "int8", 1.0), (wanted[2], "int8-qat", 0.5)):
        delta = 100 * (_accuracy(run, name) - base)
        found.append(Claim(text, f"{delta:+.2f} pp", delta >= -limit))
    gain = 100 * (_accuracy(run, "int4-qat") - _accuracy(run, "int4"))
    found.append(Claim(wanted[3], f"{gain:+.2f} pp", gain >= 10))
    structured = [v for v in run.variants if _is_structured(v) and v.status == "measured"]
    told = []
    met = False
    for one in structured:
        ratio = one.comparisons["latency_ratio"].point or 1.0
        delta = 100 * (_accuracy(run, one.name) - base)
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


def _variants(run: RunRecord) -> list[str]:
    head = (
        *("Variant", "Accuracy", "pp", "Over reference", "Preservation", "Disagreement"),
        *("Latency ratio", "Bytes", "Compressed", "Verdict"),
    )
    rows = []
    for v in run.variants:
        if v.status != "measured" or v.artifact is None:
            rows.append((v.name, v.problem or v.status, *("",) * 8))
            continue
        rows.append(
            (
                v.name,
                f"{v.metrics['accuracy']:.2%}",
                _point(v, "accuracy_delta_pp", "{:+.2f}"),
                _point(v, "accuracy_over_reference_pp", "{:+.2f}"),
                _point(v, "functional_preservation", "{:.3f}"),
                _point(v, "prediction_disagreement", "{:.2%}"),
                _point(v, "latency_ratio", "{:.3f}"),
                f"{v.artifact.bytes:,}",
                f"{v.artifact.compressed_bytes:,}",
                v.verdict or "",
            )
        )
    return _table(head, rows)


def _side_by_side(beside: dict[str, Any], others: dict[str, Any] | None) -> list[str]:
    head = ("File", "Runtime", "Accuracy", "Disagreement", "µs", "× base", "95 %", "Bytes")
    rows = [
        (
            r["name"],
            r["runtime"],
            f"{r['accuracy']:.2%}",
            f"{r['disagreement']:.2%}",
            f"{r['median_us']:.1f}",
            f"{r['speedup']:.2f}",
            f"{r['speedup_low']:.2f} to {r['speedup_high']:.2f}" if r["speedup_low"] else "",
            f"{r['bytes']:,}",
        )
        for r in beside["rows"]
    ]
    lines = _table(head, rows)
    if others is not None:
        versions = ", ".join(f"{name} {text}" for name, text in others["versions"].items())
        failed = [f"{n}: {m['problem']}" for n, m in others["made"].items() if "problem" in m]
        lines += ["", f"Other tools: {versions}."]
        lines += [f"Failed: {one}." for one in failed]
    return lines


def _circumstances(run: RunRecord) -> list[str]:
    identity = run.device.get("identity", {})
    versions = ", ".join(f"{n} {v}" for n, v in run.versions.items())
    return [f"{run.created}, {identity.get('cpu', 'unknown processor')}; {versions}."]


def _is_structured(variant: Variant) -> bool:
    return any(step.get("technique") == "prune-structured" for step in variant.chain)


def _has(run: RunRecord, name: str) -> bool:
    found = run.variant(name)
    return found is not None and found.status == "measured"


def _accuracy(run: RunRecord, name: str) -> float:
    found = run.variant(name)
    value = None if found is None else found.metrics.get("accuracy")
    return float("nan") if value is None else value


def _point(variant: Variant, name: str, form: str) -> str:
    found = variant.comparisons.get(name)
    return "" if found is None or found.point is None else form.format(found.point)


def _run(folder: Path) -> RunRecord | None:
    file = folder / "run.json"
    return RunRecord.model_validate_json(file.read_text()) if file.is_file() else None


def _json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.is_file() else None


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    rule = tuple("---" for _ in head)
    return [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]


if __name__ == "__main__":
    sys.exit(main())
