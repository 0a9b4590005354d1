"""The main job, end to end, with the real agent on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgebench.errors import EdgebenchError, RecipeError, UnknownNameError
from edgebench.gate import judge_gate
from edgebench.history import History
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.judging import judge_again
from edgebench.pipeline.main import Job, read_run
from edgebench.recipe import Gate
from edgebench.records import RunRecord

Finished = tuple[RunRecord, Path]
NewJob = Callable[..., Job]


def test_the_record_is_whole(finished: Finished) -> None:
    run, folder = finished
    assert [v.name for v in run.variants] == [
        "base",
        "independent-1",
        "independent-2",
        "sparse",
        "int8",
        "chain",
        "chain.reference",
    ]
    assert all(v.status == "measured" for v in run.variants)
    assert run == read_run(RunFolder(folder))
    raw = json.loads((folder / "run.json").read_text())
    assert raw["schema"] == "edgebench.run/1"
    for name in ("report.html", "report.md", "junit.xml", "metrics.csv"):
        assert (folder / name).stat().st_size > 0


def test_every_metric_of_a_variant(finished: Finished) -> None:
    run, _ = finished
    found = run.variant("int8")
    assert found is not None
    assert {
        "latency_p50_ms",
        "latency_p90_ms",
        "first_inference_ms",
        "load_ms",
        "throughput_per_s",
        "peak_memory_mib",
        "size_bytes",
        "compressed_bytes",
        "parameters",
        "sparsity",
        "accuracy",
        "loss",
        "ece",
    } <= {name for name, value in found.metrics.items() if value is not None}
    assert {
        "latency_ratio",
        "size_ratio",
        "compressed_size_ratio",
        "accuracy_delta_pp",
        "accuracy_deviation_pct",
        "prediction_disagreement",
        "negative_flips",
        "activation_distance",
        "js_divergence",
        "kl_divergence",
        "logit_cosine",
        "sqnr_db",
        "functional_preservation",
    } <= set(found.comparisons)
    assert "accuracy" in found.intervals


def test_the_numbers_are_those_of_the_targets_outputs(finished: Finished) -> None:
    run, folder = finished
    labels = np.load(folder / "labels.npy")
    for variant in run.variants:
        assert variant.measurement is not None
        outputs = np.load(folder / variant.measurement.outputs_file)
        assert variant.metrics["accuracy"] == pytest.approx((outputs.argmax(1) == labels).mean())


def test_int8_preserves_more_than_a_stranger(finished: Finished) -> None:
    run, _ = finished
    preserved = {
        v.name: v.comparisons["functional_preservation"].point
        for v in run.variants
        if v.name != "base"
    }
    assert preserved["int8"] > 0.5
    assert preserved["int8"] > max(preserved["independent-1"], preserved["independent-2"])


def test_sparsity_shows_in_the_compressed_size_alone(finished: Finished) -> None:
    run, _ = finished
    sparse = run.variant("sparse")
    assert sparse is not None
    assert sparse.metrics["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert sparse.comparisons["size_ratio"].point == pytest.approx(1, abs=0.01)
    assert sparse.comparisons["compressed_size_ratio"].point < 0.8


def test_verdicts_follow_the_gates(finished: Finished) -> None:
    run, _ = finished
    verdicts = {v.name: v.verdict for v in run.variants}
    assert verdicts["base"] is verdicts["independent-1"] is None
    assert verdicts["sparse"] == "NO-GO"
    assert verdicts["int8"] == verdicts["chain"] == "GO"
    assert (run.verdict, run.exit_code) == ("GO", 0)


def test_base_is_timed_against_itself(finished: Finished) -> None:
    run, _ = finished
    itself = run.base.comparisons["latency_ratio"]
    assert 0.5 < itself.point < 2
    assert itself.n == 1
    assert itself.low is None


def test_another_policy(finished: Finished) -> None:
    run, _ = finished
    strict = [Gate(metric="size_bytes", max=1)]
    judged = judge_again(run, strict, [])
    assert (judged.verdict, judged.exit_code) == ("NO-GO", 1)
    assert run.verdict == "GO"
    assert judge_again(run, [Gate(metric="size_ratio", max=0.9)], ["sparse"]).exit_code == 1
    assert judge_gate(strict[0], None).verdict == "INCONCLUSIVE"


def test_the_files_hold_no_path_of_the_host(finished: Finished) -> None:
    _, folder = finished
    checkout = str(Path(__file__).parents[2]).encode()
    for path in (folder / "bundle" / "models").iterdir():
        assert checkout not in path.read_bytes()


def test_a_second_run_builds_nothing_and_measures_anew(new_job: NewJob, tmp_path: Path) -> None:
    first = new_job(tmp_path).run()
    again = new_job(tmp_path)
    second = again.run()
    rebuilt = [
        s.name
        for s in second.stages
        if not s.reused and (s.name.startswith("train") or ": " in s.name)
    ]
    assert rebuilt == []
    assert second.run_id != first.run_id
    old, new = first.base.metrics["latency_p50_ms"], second.base.metrics["latency_p50_ms"]
    assert old != new
    assert [r.run_id for r in History.open().list()] == [second.run_id, first.run_id]


def test_the_same_seed_builds_the_same_files(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = []
    for name in ("one", "two"):
        monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / name))
        build = prepare(new_job, tmp_path / f"run-{name}")
        digests.append({v.name: v.artifact.sha256 for v in build.variants})
    assert digests[0] == digests[1]


def prepare(new_job: NewJob, folder: Path, *settings: str):
    one = new_job(folder, *settings)
    with one.folder.held():
        return one.prepare(None)


def test_one_failing_variant_leaves_the_others(new_job: NewJob, tmp_path: Path) -> None:
    one = new_job(
        tmp_path,
        "variants.broken=[{technique: prune-structured, ratio: 0.5, round_to: 256}]",
        "controls.independent=0",
    )
    run = one.run()
    broken = run.variant("broken")
    assert broken is not None
    assert (broken.status, broken.verdict) == ("failed", None)
    assert "channels" in broken.problem
    assert run.variant("int8").verdict == "GO"
    assert any("broken failed" in line for line in one.progress.lines)


def test_without_controls_there_is_no_scale(new_job: NewJob, tmp_path: Path) -> None:
    run = new_job(
        tmp_path,
        "controls.independent=0",
        "gates=[{metric: functional_preservation, min: 0.1}]",
        "variants={int8: [{technique: ptq}]}",
    ).run()
    assert (run.verdict, run.exit_code) == ("INCONCLUSIVE", 3)
    assert "not measured" in run.variant("int8").reasons[0].text


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("variants.x=[{technique: prune-unstructerd}]", "did you mean 'prune-unstructured'?"),
        ("variants.x=[{technique: ptq, bit: 8}]", "did you mean 'bits'?"),
        ("variants.x=[{technique: prune-unstructured, ratio: 1.5}]", "less than 1"),
        ("variants.x=[{technique: prune-unstructured}]", "lacks 'ratio'"),
        ("variants.x=[{technique: ptq}, {technique: qat}]", "cannot follow 'ptq'"),
        ("variants.x=[{technique: cast}, {technique: ptq}]", "cannot follow 'cast'"),
        (
            "variants.x=[{technique: prune-unstructured, ratio: 0.5}, {technique: distill}]",
            "would lose 'prune-unstructured'",
        ),
        ("gates=[{metric: latency_ration, max: 1}]", "did you mean 'latency_ratio'?"),
        ("gates=[{metric: ece, max: 1}]", "cannot be a gate"),
        ("gates=[{metric: latency_ratio, max: 0}]", "always above 0: nothing can meet max: 0"),
        ("gates=[{metric: latency_ratio, max: -1}]", "always above 0: nothing can meet max: -1"),
        ("model=lenett", "did you mean 'lenet'?"),
        ("data=digit", "did you mean 'digits'?"),
    ],
)
def test_names_are_looked_up_before_any_work(
    new_job: NewJob, tmp_path: Path, setting: str, said: str
) -> None:
    with pytest.raises((RecipeError, UnknownNameError)) as caught:
        new_job(tmp_path, setting).run()
    assert said in caught.value.line()
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run" / "bundle").exists()


def test_a_required_variant_must_be_there(new_job: NewJob, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'int8'"):
        new_job(tmp_path, require=("int9",))


def test_a_history_out_of_reach_stops_before_the_work(
    new_job: NewJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no database")
    monkeypatch.setenv("EDGEBENCH_STORE", str(tmp_path / "file"))
    with pytest.raises(EdgebenchError) as caught:
        new_job(tmp_path).run()
    assert caught.value.exit_code == 5
