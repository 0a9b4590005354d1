from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebench.comparison import Comparison
from edgebench.errors import NotComparableError, UsageError
from edgebench.pipeline.comparing_runs import compare_runs
from edgebench.records import Estimate, Measurement, RunRecord, Variant

Make = Callable[..., str]


def ratio(point: float, half: float = 0.005) -> Estimate:
    return Estimate(point=point, low=point * (1 - half), high=point * (1 + half), n=6, method="t")


@pytest.fixture
def folder(tmp_path: Path) -> Make:
    """Writes the folder of a finished run, with the answers of its variant `int8`."""

    def make(
        name: str,
        *,
        latency: float = 0.5,
        size: int = 1000,
        accuracy: float = 0.9,
        answers: list[int] | None = None,
        fingerprint: str = "f1",
        cpu: str = "Cortex-A78AE",
        threads: int = 1,
        data: str = "d1",
        mark: str | None = "m1",
        variant: str = "int8",
        valid: bool = True,
        batch: int = 1,
        model: str = "lenet",
    ) -> str:
        measurement = Measurement(
            grade="B",
            valid=valid,
            fingerprint=mark,
            invalid_reasons=() if valid else ("throttled",),
        )
        base = Variant(
            name="base",
            status="measured",
            comparisons={"latency_ratio": ratio(1.0)},
            measurement=measurement,
        )
        other = Variant(
            name=variant,
            status="measured",
            verdict="GO",
            metrics={"size_bytes": size, "accuracy": accuracy},
            comparisons={"latency_ratio": ratio(latency)},
            measurement=measurement,
        )
        run = RunRecord(
            run_id=name,
            created="2026-01-02T03:04:05+00:00",
            edgebench_version="0.1.0",
            recipe={"name": "quickstart", "model": model, "protocol": {"batch": batch}},
            target={"name": "cpu", "runtime": {"name": "onnxruntime", "threads": threads}},
            device={"fingerprint": fingerprint, "identity": {"cpu_model": cpu}, "grade": "B"},
            data={"name": "digits", "fingerprint": data, "test": 4, "classes": 3},
            variants=(base, other),
            verdict="GO",
            exit_code=0,
        )
        path = tmp_path / name
        (path / "results" / variant).mkdir(parents=True)
        (path / "run.json").write_text(run.model_dump_json())
        if answers is not None:
            rows = np.eye(3, dtype=np.float32)[answers]
            np.save(path / "results" / variant / "outputs.npy", rows)
        return str(path)

    return make


def pair(found: Comparison) -> tuple[str, int]:
    return found.verdict, found.exit_code


def test_ratios_to_base_are_compared_and_never_latencies(folder: Make) -> None:
    found = compare_runs(folder("a"), folder("b", latency=0.6))
    assert pair(found) == ("SLOWER", 1)
    (one,) = found.pairs
    assert one.name == "int8"
    assert one.latency_ratio is not None
    assert one.latency_ratio.point == pytest.approx(1.2)
    assert {m.metric for m in one.metrics} == {"latency_ratio", "size_bytes", "accuracy"}


def test_alike_is_not_slower_and_quicker_is_faster(folder: Make) -> None:
    a = folder("a")
    assert pair(compare_runs(a, folder("b"))) == ("NOT SLOWER", 0)
    assert pair(compare_runs(a, folder("c", latency=0.4))) == ("FASTER", 0)
    assert pair(compare_runs(a, folder("d", latency=0.5075))) == ("INCONCLUSIVE", 3)
    assert pair(compare_runs(a, folder("e", latency=0.6), limit=0.3)) == ("NOT SLOWER", 0)


def test_sizes_and_answers_stand_beside_each_other(folder: Make) -> None:
    a = folder("a", answers=[0, 1, 2, 0])
    b = folder("b", size=1500, accuracy=0.8, answers=[0, 1, 2, 1])
    (one,) = compare_runs(a, b).pairs
    size = next(m for m in one.metrics if m.metric == "size_bytes")
    assert size.ratio is not None
    assert size.ratio.point == 1.5
    assert one.function["prediction_disagreement"].point == 0.25
    assert one.function["max_abs_difference"].point == 1.0


def test_another_function_fails(folder: Make) -> None:
    a = folder("a", answers=[0, 1, 2, 0])
    b = folder("b", answers=[1, 2, 0, 1])
    assert pair(compare_runs(a, b, max_disagreement=0.1)) == ("ANOTHER FUNCTION", 1)
    assert pair(compare_runs(a, folder("c"), max_disagreement=0.1)) == ("INCONCLUSIVE", 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "f2", "cpu": "Xeon"}, "cpu_model (Cortex-A78AE, Xeon)"),
        ({"fingerprint": "f2"}, "the device"),
        ({"threads": 2}, "runtime threads (1, 2)"),
        ({"data": "d2"}, "data (digits, digits)"),
        ({"batch": 8}, "batch (1, 8)"),
        ({"model": "mynets:Small"}, "model (lenet, mynets:Small)"),
        ({"mark": "m2"}, "how base was measured"),
    ],
)
def test_other_fingerprints_are_refused_and_named(
    folder: Make, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(NotComparableError) as caught:
        compare_runs(folder("a"), folder("b", **changes))
    assert said in caught.value.line()
    assert caught.value.exit_code == 4


def test_what_is_not_valid_decides_nothing(folder: Make) -> None:
    found = compare_runs(folder("a"), folder("b", latency=0.9, valid=False))
    assert pair(found) == ("INCONCLUSIVE", 3)
    assert "throttled" in found.pairs[0].reasons[0]


def test_runs_without_a_common_variant_do_not_compare(folder: Make) -> None:
    with pytest.raises(NotComparableError, match="no variant was measured in both"):
        compare_runs(folder("a"), folder("b", variant="pruned"))


def test_a_folder_that_is_no_run_is_one_line(folder: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished run"):
        compare_runs(folder("a"), str(tmp_path / "nothing"))
