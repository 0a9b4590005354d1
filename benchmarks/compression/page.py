"""The proof as a page: what was wanted, what was seen, how, and every variant's figures.

python -m benchmarks.compression.page --runs runs/compression --out reports/compression
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.compression.claims import claims
from edgebench.records import RunRecord, Variant

# What of a processor decides how fast integers are.
TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "asimddp", "i8mm")
BESIDE = Path("side-by-side.json")
OTHERS = Path("others/others.json")
HEAD = """# What the techniques reach on MNIST and CIFAR-10

Every claim of the proof, shown or not, then every variant's figures. Accuracies are of the 10,000
test images, on which nothing was trained or calibrated; the last phases of ResNet-8's training were
chosen by them (`benchmarks/compression/train.py`). CIFAR-10 here went through JPEG.
Latency ratios are over base, from interleaved pairs in fresh processes. "Over reference" is what
quantization-aware training gave beyond the same network trained on as long in float32.
Preservation is 1 for base's own function and 0 for a network of base's kind trained from another
seed. [How it was made](../../benchmarks/compression/README.md).
"""


def main() -> int:
    """Write the page of what there is; gives the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/compression"))
    parser.add_argument("--out", type=Path, default=Path("reports/compression"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lenet = _run(options.runs / "lenet-mnist")
    resnet = _run(options.runs / "resnet8-cifar10")
    beside = _json(options.runs / BESIDE)
    others = _json(options.runs / OTHERS)
    lines = [HEAD]
    lines += _table(("Wanted", "Seen", "Shown"), [c.row() for c in claims(lenet, resnet, beside)])
    for title, run, name in (
        ("LeNet on MNIST", lenet, "lenet-mnist"),
        ("ResNet-8 on CIFAR-10", resnet, "resnet8-cifar10"),
    ):
        if run is None:
            continue
        lines += ["", f"## {title}", "", *_circumstances(run), "", *_variants(run)]
        for file in ("run.json", "report.html"):
            shutil.copyfile(options.runs / name / file, options.out / f"{name}-{file}")
        lines += ["", f"[Page]({name}-report.html), [run.json]({name}-run.json)."]
    if beside is not None:
        for file in (BESIDE, OTHERS):
            if (options.runs / file).is_file():
                shutil.copyfile(options.runs / file, options.out / file.name)
        lines += ["", "## The same trained file, by other tools, in one interleaved run", ""]
        lines += _side_by_side(beside, others)
    (options.out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


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
    flags = ", ".join(f for f in identity.get("cpu_flags", []) if f in TELLING)
    machine = f"{identity.get('cores')} cores of {identity.get('cpu_model')} ({flags})"
    return [f"{run.created[:10]}, {machine}, grade {run.device.get('grade')}; {versions}."]


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
