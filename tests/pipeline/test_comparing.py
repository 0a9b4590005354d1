"""Two real models on a real agent, once; verdicts from samples put in their place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.comparison import Comparison
from edgebench.errors import NotMeasuredError, UsageError
from edgebench.pipeline.comparing import compare_models
from edgebench.pipeline.comparison_bundle import Question
from edgebench.pipeline.comparison_inputs import Inputs, read_signature
from edgebench.pipeline.comparison_judging import judge_models
from edgebench.pipeline.folder import RunFolder
from edgebench.pipeline.progress import Silent
from edgebench.protocol import resolve_protocol
from edgebench.target import load_target

FAST = {
    "processes": 1,
    "pairs": 1,
    "block_s": 0.001,
    "warmup_s": 0.0,
    "warmup_cap_s": 0.5,
    "single_s": 0.001,
    "inspect": True,
}


def two_inputs(path: Path, scale: float, *, external: bool = False) -> Path:
    """y[N,3] = x·scale + one_hot(n), and the integers again: no classifier in the second output."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Gather", ["table", "n"], ["rows"]),
        helper.make_node("Add", ["scaled", "rows"], ["y"]),
        helper.make_node("Identity", ["n"], ["m"]),
    ]
    table = np.eye(5, 3, dtype=np.float32)
    weights = [
        numpy_helper.from_array(np.full((1, 3), scale, np.float32), "scale"),
        numpy_helper.from_array(table, "table"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("n", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("m", TensorProto.INT64, ["N"]),
        ],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, path, save_as_external_data=external, size_threshold=0)
    return path


def question(folder: Path, **changes: object) -> Question:
    fields: dict[str, object] = {
        "a": folder / "a.onnx",
        "b": folder / "b.onnx",
        "target": load_target("cpu"),
        "protocol": resolve_protocol(dict(FAST), where="test"),
    }
    return Question(**{**fields, **changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    """The folder of one real comparison of two models, and its record."""
    home = tmp_path_factory.mktemp("compare")
    two_inputs(home / "a.onnx", 1.0)
    two_inputs(home / "b.onnx", 1.01, external=True)
    found = compare_models(question(home), RunFolder(home / "out"), Silent())
    return home, found


def test_a_comparison_is_written_whole(measured) -> None:
    home, found = measured
    out = home / "out"
    assert Comparison.model_validate_json((out / "comparison.json").read_text()) == found
    assert json.loads((out / "comparison.json").read_text())["schema"] == "edgebench.comparison/1"
    assert "b.onnx" in (out / "comparison.md").read_text()
    assert found.kind == "models"
    assert found.inputs.startswith("random (seed 0): x float32 [64, 3] normal, n int64 [64] below")
    assert any("random" in note for note in found.warnings)
    assert found.device["grade"] in {"A", "B", "C"}


def test_one_process_cannot_decide(measured) -> None:
    _, found = measured
    assert (found.verdict, found.exit_code) == ("INCONCLUSIVE", 3)
    assert found.pairs[0].latency_ratio.low is None


def test_every_metric_of_both_is_there(measured) -> None:
    home, found = measured
    metrics = {one.metric: one for one in found.pairs[0].metrics}
    timed = ["latency_p50_ms", "load_ms", "first_inference_ms", "peak_memory_mib"]
    assert all(metrics[name].a > 0 and metrics[name].b > 0 for name in timed)
    assert metrics["latency_p99_ms"].ratio is None
    size = metrics["size_bytes"]
    assert size.a == (home / "a.onnx").stat().st_size
    assert size.ratio.point == size.b / size.a


def test_the_answers_are_set_beside_each_other(measured) -> None:
    function = measured[1].pairs[0].function
    assert function["sqnr_db"].point > 20
    assert 0 < function["max_abs_difference"].point < 0.1
    assert 0 <= function["prediction_disagreement"].point < 0.2


def test_evidence_of_both_is_kept(measured) -> None:
    _, found = measured
    assert found.a.evidence["providers"] == ["CPUExecutionProvider"]
    assert found.b.integer_operators == {}


def test_weights_beside_the_file_travel_in_it(measured) -> None:
    home, _ = measured
    packed = onnx.load(home / "out" / "bundle" / "models" / "b.onnx", load_external_data=False)
    assert all(tensor.raw_data for tensor in packed.graph.initializer)


def samples(folder: Path, ratios: list[list[float]]) -> None:
    """Write samples whose processes have these ratios: one list a phase."""
    rows = [
        (process, phase, pair, arm, 1000.0 * (ratio if arm else 1.0))
        for phase, of_phase in enumerate(ratios)
        for process, ratio in enumerate(of_phase, start=100 * phase)
        for pair in range(2)
        for arm in (0, 1)
    ]
    process, phase, pair, arm, ns = (np.array(column) for column in zip(*rows, strict=True))
    count = len(rows)
    np.savez(
        folder / "samples.npz",
        block_process=process.astype(np.int32),
        block_phase=phase.astype(np.int32),
        block_pair=pair.astype(np.int32),
        block_arm=arm.astype(np.int32),
        block_cause=np.zeros(count, np.int32),
        block_start_ns=np.arange(count, dtype=np.int64),
        sample_block=np.arange(count, dtype=np.int32),
        sample_ns=ns,
        inner=np.array([1, 1], np.int64),
        single_process=process.astype(np.int32),
        single_ns=ns.astype(np.int64),
    )


@pytest.fixture
def judged(measured, tmp_path: Path) -> Callable[..., Comparison]:
    """Judges the real comparison with other samples, changes to B's result.json, turned answers."""

    def judge(
        base: list[float],
        *phases: list[float],
        result: dict[str, object] | None = None,
        turn: bool = False,
        **changes: object,
    ) -> Comparison:
        home, _ = measured
        shutil.copytree(home / "out", tmp_path / "out", dirs_exist_ok=True)
        folder = RunFolder(tmp_path / "out")
        samples(folder.results / "base", [base])
        samples(folder.results / "b", list(phases))
        if turn:
            answers = np.load(folder.results / "b" / "outputs.npy")
            np.save(folder.results / "b" / "outputs.npy", np.roll(answers, 1, axis=1))
        file = folder.results / "b" / "result.json"
        content = json.loads(file.read_text())
        for one in (file, folder.results / "base" / "result.json"):
            # How a warm-up of a thousandth of a second ended says nothing here.
            own = json.loads(one.read_text())
            own["evidence"]["steady"] = True
            own |= {"valid": True, "invalid_reasons": []}
            one.write_text(json.dumps(own))
            content = own if one == file else content
        file.write_text(json.dumps({**content, **(result or {})}))
        arrays = tuple(np.load(folder.bundle / f"input-{i}.npy") for i in range(2))
        inputs = Inputs(("x", "n"), arrays, "random", random=True)
        return judge_models(question(home, **changes), folder, inputs, classes=True)

    return judge


QUIET = [0.999, 1.0, 1.001, 1.0, 0.999, 1.001]
SLOW = [1.05, 1.051, 1.049, 1.05, 1.052, 1.048]


def test_slower_in_both_looks_is_slower(judged) -> None:
    found = judged(QUIET, SLOW, SLOW)
    assert (found.verdict, found.exit_code) == ("SLOWER", 1)
    assert found.pairs[0].latency_ratio.point == pytest.approx(1.05, abs=0.001)
    assert found.pairs[0].confirmation.point == pytest.approx(1.05, abs=0.001)
    assert found.pairs[0].metrics[0].p_adjusted < 0.001


def test_slower_only_once_is_not_enough(judged) -> None:
    assert judged(QUIET, SLOW, QUIET).verdict == "INCONCLUSIVE"
    assert judged(QUIET, SLOW).verdict == "INCONCLUSIVE"


def test_within_the_limit_is_not_slower(judged) -> None:
    found = judged(QUIET, SLOW, limit=0.1)
    assert (found.verdict, found.exit_code) == ("NOT SLOWER", 0)
    assert found.pairs[0].delta == 0.1


def test_within_the_noise_of_a_against_itself_nothing_is_slower(judged) -> None:
    noisy = [0.9, 1.1, 0.95, 1.06, 0.92, 1.08]
    found = judged(noisy, SLOW, SLOW)
    assert found.verdict == "NOT SLOWER"
    assert found.pairs[0].noise_floor > 0.1


def test_faster_is_said(judged) -> None:
    found = judged(QUIET, [1 / r for r in SLOW])
    assert (found.verdict, found.exit_code) == ("FASTER", 0)


def test_what_is_not_valid_decides_nothing_and_says_why(judged) -> None:
    found = judged(
        QUIET, SLOW, SLOW, result={"valid": False, "invalid_reasons": ["it was throttled"]}
    )
    assert (found.verdict, found.valid) == ("INCONCLUSIVE", False)
    assert "b.onnx: it was throttled" in found.pairs[0].reasons[0]


def test_another_function_beyond_the_limit_fails_however_fast(judged) -> None:
    fast = [1 / r for r in SLOW]
    assert judged(QUIET, fast, max_disagreement=0.5).verdict == "FASTER"
    found = judged(QUIET, fast, max_disagreement=0.5, turn=True)
    assert (found.verdict, found.exit_code) == ("ANOTHER FUNCTION", 1)
    assert judged(QUIET, SLOW, SLOW, max_disagreement=0.5, turn=True).verdict == "SLOWER"


def test_a_model_that_failed_is_one_line(judged) -> None:
    with pytest.raises(NotMeasuredError) as caught:
        judged(QUIET, QUIET, result={"status": "failed", "problem": "died of signal 11"})
    assert "b.onnx: the model was not measured: died of signal 11" in caught.value.line()


def test_predictions_are_asked_of_classifiers_alone(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 18]> g (float[N,3,2] x) => (float[N,3,2] y)'
    for name in ("a", "b"):
        onnx.save(onnx.parser.parse_model(text + "{ y = Relu(x) }"), tmp_path / f"{name}.onnx")
    with pytest.raises(UsageError, match="predict no classes"):
        compare_models(
            question(tmp_path, max_disagreement=0.1), RunFolder(tmp_path / "out"), Silent()
        )


def test_a_finished_run_is_not_written_over(measured, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="the folder holds a run"):
        compare_models(question(measured[0]), RunFolder(tmp_path), Silent())


def test_a_runtime_of_other_files_is_one_line(measured, tmp_path: Path) -> None:
    target = load_target("cpu", settings=["runtime.name=torch"])
    asked = replace(question(measured[0]), target=target)
    with pytest.raises(UsageError, match=r"'torch' runs \.pt2 files"):
        compare_models(asked, RunFolder(tmp_path / "out"), Silent())


def test_the_signature_of_weights_beside_the_file_is_read(measured) -> None:
    found, _ = read_signature(measured[0] / "b.onnx")
    assert [t.name for t in found.inputs] == ["x", "n"]
    assert found.below == {"n": 5}


def test_scenarios_are_refused(measured, tmp_path: Path) -> None:
    asked = question(measured[0])
    listed = {**FAST, "scenarios": [{"scenario": "single-stream"}]}
    asked = replace(asked, protocol=resolve_protocol(listed, where="test"))
    with pytest.raises(UsageError, match="compare runs no scenarios"):
        compare_models(asked, RunFolder(tmp_path / "out"), Silent())
