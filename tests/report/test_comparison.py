from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from edgebench.comparison import ComparedMetric, Comparison, Pair, Side
from edgebench.records import Estimate
from edgebench.report.comparison import (
    comparison_markdown,
    comparison_summary,
    write_comparison,
)


def estimate(point: float | None, low: float | None, high: float | None) -> Estimate:
    return Estimate(point=point, low=low, high=high, n=6, method="t")


def make(*, kind: str = "models", name: str = "model.onnx", verdict: str = "SLOWER") -> Comparison:
    ratio = estimate(1.0712, 1.0523, 1.0934)
    metrics = (
        ComparedMetric(
            metric="latency_ratio" if kind == "runs" else "latency_p50_ms",
            a=0.0151,
            b=0.0162,
            ratio=ratio,
            p_value=1e-5,
            p_adjusted=4e-5,
        ),
        ComparedMetric(metric="latency_p99_ms", a=None, b=0.02),
        ComparedMetric(metric="load_ms", a=5.1, b=5.2, ratio=ratio, p_value=0.02, p_adjusted=0.06),
        ComparedMetric(metric="size_bytes", a=829440, b=207360, ratio=estimate(0.25, 0.25, 0.25)),
        ComparedMetric(metric="accuracy", a=0.9, b=0.89),
    )
    pair = Pair(
        name="int8",
        latency_ratio=ratio,
        confirmation=estimate(1.0698, 1.05, 1.09),
        noise_floor=0.021,
        delta=0.021,
        smallest_detectable_change=0.05,
        metrics=metrics,
        function={
            "max_abs_difference": estimate(0.7, 0.7, 0.7),
            "largest_answer": estimate(12.3, 12.3, 12.3),
            "sqnr_db": estimate(31.2, 30.0, 32.0),
            "prediction_disagreement": estimate(0.016, 0.01, 0.03),
        },
        verdict=verdict,
        reasons=("the whole interval of the latency ratio is above 1 + δ = 1.0210",),
    )
    return Comparison(
        kind=kind,
        created="2026-11-21T04:32:00+00:00",
        edgebench_version="0.1.0",
        a=Side(name=name, path=name, integer_operators={}),
        b=Side(name=f"int8-{name}", path=name, integer_operators={"QLinearConv": 2, "QGemm": 1}),
        target={"name": "cpu"},
        device={"grade": "B"},
        protocol={"name": "quick", "batch": 1},
        inputs="random (seed 0): x float32 [64, 3] normal",
        limit=0.0,
        pairs=(pair,),
        warnings=("the inputs are random",),
        verdict=verdict,
        verdict_text=f"int8-{name} is slower than {name}.",
        exit_code=1,
    )


def shown(comparison: Comparison, width: int) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(comparison_summary(comparison, width, Path("out/comparison.md")))
    return capture.get()


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("kind", ["models", "runs"])
@pytest.mark.parametrize("name", ["m.onnx", "a-very-long-name-of-a-model-that-goes-on-and-on.onnx"])
def test_it_fits_and_no_number_is_broken(width: int, kind: str, name: str) -> None:
    text = shown(make(kind=kind, name=name), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "1.071 [1.052, 1.093]" in text
    assert text.startswith("SLOWER")


def test_everything_asked_of_two_models_is_told() -> None:
    text = shown(make(), 160)
    for part in (
        "Again in fresh processes: 1.070 [1.050, 1.090]",
        "Noise floor (A against itself): 2.1%",
        "smallest detectable change 5.0%",
        "15.1 µs",
        "too few samples",
        "< 0.001",
        "0.060",
        "0.250",
        "−1.00 pp",
        "max |difference| 0.700 (largest answer 12.3)",
        "SQNR 31.2 dB [30.0, 32.0]",
        "prediction disagreement 1.60 % [1.00, 3.00]",
        "device grade B (floating)",
        "integer operators: A none, B 1 QGemm + 2 QLinearConv",
        "inputs: random (seed 0)",
        "note: the inputs are random",
        "Report: out/comparison.md",
    ):
        assert part in text


def test_names_neither_drive_a_terminal_nor_break_a_table(tmp_path: Path) -> None:
    bad = make(name="\x1b[31m|<b>x</b>.onnx")
    assert "\x1b[31m" not in shown(bad, 80)
    text = comparison_markdown(bad)
    assert "<b>" not in text
    assert "\x1b" not in text


def test_the_markdown_has_a_whole_table() -> None:
    lines = [line for line in comparison_markdown(make()).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 2 + 5


def test_the_record_comes_back(tmp_path: Path) -> None:
    record, text = write_comparison(make(), tmp_path / "new")
    assert Comparison.model_validate_json(record.read_text()) == make()
    assert text.read_text().startswith("## SLOWER")
