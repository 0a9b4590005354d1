from __future__ import annotations

import pytest

from edgebench.agent.errors import AgentError
from edgebench.agent.evidence import provider_problems, resolve_providers
from edgebench.agent.runtimes import RUNTIMES

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
