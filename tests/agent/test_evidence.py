from __future__ import annotations

import json

import numpy as np
import pytest

from edgebench.agent.errors import AgentError
from edgebench.agent.evidence import (
    inspection_notes,
    inspection_record,
    placement_problems,
    provider_problems,
    resolve_providers,
    saturation,
)
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Inspection

ORT = RUNTIMES["onnxruntime"]
TRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


def test_auto_takes_the_best_that_is_offered_and_the_processor_last() -> None:
    assert resolve_providers("auto", [CPU, CUDA, TRT, "X"], ORT, "py") == [TRT, CUDA, CPU]
    assert resolve_providers("auto", ["AzureExecutionProvider", CPU], ORT, "py") == [CPU]


def test_provider_that_is_not_offered_says_what_is_and_what_to_install() -> None:
    with pytest.raises(AgentError) as caught:
        resolve_providers([CUDA, CPU], [CPU], ORT, "/usr/bin/python3")
    assert caught.value.exit_code == 4
    assert caught.value.problem == (
        "ONNX Runtime here does not offer CUDAExecutionProvider; it offers CPUExecutionProvider; "
        "/usr/bin/python3 -m pip install onnxruntime-gpu"
    )


@pytest.mark.parametrize(
    ("auto", "asked", "taken", "valid"),
    [
        (False, [CUDA, CPU], [CUDA, CPU], True),
        (False, [CUDA, CPU], [CPU], False),
        (False, [TRT, CUDA, CPU], [CUDA, CPU], False),
        (True, [TRT, CUDA, CPU], [CUDA, CPU], True),
        (True, [TRT, CUDA, CPU], [CPU], False),
        (True, [CPU], [CPU], True),
    ],
)
def test_silent_fall_back(auto: bool, asked: list[str], taken: list[str], valid: bool) -> None:
    problems = provider_problems({"providers": asked, "auto": auto}, taken, ORT)
    assert (not problems) == valid


@pytest.mark.parametrize(
    ("provider", "package"),
    [("QNNExecutionProvider", "onnxruntime-qnn"), ("OpenVINOExecutionProvider", "-openvino")],
)
def test_the_wheel_of_a_provider_is_named(provider: str, package: str) -> None:
    with pytest.raises(AgentError, match=f"pip install .*{package}$"):
        resolve_providers([provider], [CPU], ORT, "python3")


def _ran(**counts: int) -> Inspection:
    """Operators by provider: cpu=3, cuda=2, trt=1."""
    names = {"cpu": CPU, "cuda": CUDA, "trt": TRT}
    return Inspection({names[key]: {"Conv": count} for key, count in counts.items()}, {})


@pytest.mark.parametrize(
    ("auto", "asked", "ran", "passed_over"),
    [
        (False, [CPU], _ran(cpu=3), []),
        (False, [CUDA, CPU], _ran(cuda=3), []),
        (False, [CUDA, CPU], _ran(cuda=3, cpu=1), []),
        (False, [CUDA, CPU], _ran(cpu=4), [CUDA]),
        (False, [TRT, CUDA, CPU], _ran(trt=1), []),
        (False, [TRT, CUDA, CPU], _ran(cuda=4), [TRT]),
        (False, [TRT, CUDA, CPU], _ran(cpu=4), [TRT, CUDA]),
        (True, [TRT, CUDA, CPU], _ran(cuda=4, cpu=1), []),
        (True, [TRT, CUDA, CPU], _ran(cpu=4), [TRT, CUDA]),
        (False, [CUDA, CPU], Inspection({}, {}), []),
    ],
)
def test_a_provider_that_ran_nothing_makes_it_invalid(
    auto: bool, asked: list[str], ran: Inspection, passed_over: list[str]
) -> None:
    problems = placement_problems({"providers": asked, "auto": auto}, ran, ORT)
    assert [problem.partition(" ")[0] for problem in problems] == passed_over
    assert all("no operator ran there: CPU" in p or "CUDA" in p for p in problems)


def test_a_partial_fall_back_is_a_note_with_counts() -> None:
    found = Inspection({CUDA: {"Conv": 20, "Relu": 5}, CPU: {"Gather": 3, "Shape": 2}}, {})
    plan = {"providers": [CUDA, CPU], "auto": False}
    assert placement_problems(plan, found, ORT) == []
    assert inspection_notes(plan, found, ORT) == [
        "only some operators ran where they were asked to: CPUExecutionProvider 5 (Gather 3, "
        "Shape 2), CUDAExecutionProvider 25 (Conv 20, Relu 5)"
    ]


def _answers(optimised: np.ndarray | None, unoptimised: np.ndarray | None) -> Inspection:
    return Inspection(
        {CPU: {"QLinearConv": 1}},
        {"QLinearConv": 1},
        optimised=None if optimised is None else (optimised,),
        unoptimised=None if unoptimised is None else (unoptimised,),
    )


def test_saturation_is_the_distance_from_what_the_file_says() -> None:
    wanted = np.array([[3, 4], [4, 3]], np.float32)
    got = np.array([[3, 4], [4, 5]], np.float32)
    assert saturation(_answers(got, wanted)) == {
        "sqnr_db": round(10 * np.log10(50 / 4), 2),
        "max_abs_difference": 2.0,
        "changed_predictions": 1,
        "n": 2,
    }


def test_equal_answers_have_no_ratio() -> None:
    same = np.ones((2, 3), np.float32)
    seen = saturation(_answers(same, same))
    assert seen is not None
    assert seen["sqnr_db"] is None
    assert seen["max_abs_difference"] == 0


@pytest.mark.parametrize(
    ("optimised", "unoptimised"),
    [
        (None, np.ones((1, 2), np.float32)),
        (np.ones((1, 2), np.float32), None),
        (np.ones((1, 2), np.float32), np.ones((2, 2), np.float32)),
        (np.full((1, 2), np.nan, np.float32), np.ones((1, 2), np.float32)),
        (np.ones((1, 2), np.int64), np.ones((1, 2), np.int64)),
    ],
)
def test_what_cannot_be_compared_is_none(
    optimised: np.ndarray | None, unoptimised: np.ndarray | None
) -> None:
    assert saturation(_answers(optimised, unoptimised)) is None


def test_answers_far_off_without_integers_are_another_note() -> None:
    found = _answers(np.ones((2, 3), np.float32), -np.ones((2, 3), np.float32))
    found.integer_operators = {}
    (note,) = inspection_notes({"providers": [CPU], "auto": False}, found, ORT)
    assert "computes in other numbers than the file, or wrongly" in note


def test_the_record_is_json_without_answers() -> None:
    same = np.ones((2, 3), np.float32)
    record = inspection_record(_answers(same, same))
    assert json.loads(json.dumps(record)) == {
        "nodes": {CPU: {"QLinearConv": 1}},
        "integer_operators": {"QLinearConv": 1},
        "optimised_vs_unoptimised": {
            "sqnr_db": None,
            "max_abs_difference": 0.0,
            "changed_predictions": 0,
            "n": 2,
        },
    }
    assert inspection_record(None) is None
