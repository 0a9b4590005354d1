"""A target is looked at, and the built-in model really timed against itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgebench.agent.bundle import open_bundle
from edgebench.errors import NotMeasuredError
from edgebench.pipeline.checking import Check, check_target, write_check_bundle
from edgebench.pipeline.progress import Silent
from edgebench.protocol import Protocol
from edgebench.target import Runtime, Target

SHORT = Protocol(
    name="short",
    processes=6,
    max_processes=6,
    pairs=2,
    block_s=0.002,
    warmup_s=0.0,
    warmup_cap_s=0.05,
    single_s=0.005,
)
CPU = Target(name="here", runtime=Runtime(providers=["CPUExecutionProvider"]))


@pytest.fixture(scope="module")
def checked() -> Check:
    return check_target(CPU, Silent(), protocol=SHORT)


def test_device_is_described(checked: Check) -> None:
    assert checked.device["grade"] in {"A", "B", "C"}
    assert checked.device["identity"]["runtime"]["name"] == "onnxruntime"
    assert checked.problem is None
    assert set(checked.device["hazards"]) <= set(checked.hazards)


def test_smallest_change_is_that_of_the_interval(checked: Check) -> None:
    timing = checked.timing
    assert timing is not None
    assert timing.providers == ("CPUExecutionProvider",)
    ratio = timing.to_itself
    assert ratio.n == 6
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low <= 1.5
    assert ratio.high >= 1 / 1.5
    half = (ratio.high / ratio.low) ** 0.5 - 1
    assert timing.noise_floor is not None
    assert timing.noise_floor >= 2 * half
    assert timing.smallest_detectable_change == pytest.approx(timing.noise_floor + 3.5 * half)
    assert timing.seconds > 0


def test_check_can_be_read_again(checked: Check) -> None:
    text = checked.model_dump_json()
    assert json.loads(text)["schema"] == "edgebench.check/1"
    assert Check.model_validate_json(text) == checked


def test_too_few_processes_tell_nothing() -> None:
    one = SHORT.model_copy(update={"processes": 1, "max_processes": 1})
    timing = check_target(CPU, Silent(), protocol=one).timing
    assert timing is not None
    assert timing.smallest_detectable_change is None


def test_torch_times_a_program_of_its_own() -> None:
    runtime = Runtime(name="torch", providers=["cpu"])
    found = check_target(Target(name="here", runtime=runtime), Silent(), protocol=SHORT)
    assert found.problem is None
    assert found.timing is not None
    assert found.timing.providers == ("cpu",)
    assert found.timing.smallest_detectable_change is not None


def test_without_timing() -> None:
    found = check_target(CPU, Silent(), timing=False)
    assert found.timing is None
    assert found.problem is None


def test_provider_that_is_not_there_is_told_and_the_check_stands() -> None:
    target = CPU.model_copy(update={"runtime": Runtime(providers=["NoExecutionProvider"])})
    found = check_target(target, Silent(), protocol=SHORT)
    assert found.timing is None
    assert found.problem is not None
    assert "does not offer NoExecutionProvider" in found.problem
    assert found.device["grade"] in {"A", "B", "C"}


def test_device_that_is_not_what_the_target_says() -> None:
    target = CPU.model_copy(
        update={"family": "jetson", "runtime": Runtime(providers=["NoExecutionProvider"])}
    )
    found = check_target(target, Silent(), timing=False)
    assert found.hazards[:2] == (
        "it does not look like a Jetson: it has no L4T release file",
        "the target asks for NoExecutionProvider, which the runtime does not offer",
    )


def test_target_without_a_connection() -> None:
    with pytest.raises(NotMeasuredError, match="carry a bundle there"):
        check_target(CPU.model_copy(update={"transport": "bundle"}), Silent())


def test_bundle_is_whole_and_alike_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_check_bundle(tmp_path / name, CPU, SHORT)
    one, two = (open_bundle(tmp_path / name, tmp_path).manifest for name in ("one", "two"))
    assert one["models"] == two["models"]
    assert one["inputs"] == two["inputs"]
    assert one["run_id"] != two["run_id"]
    assert np.load(tmp_path / "one/inputs.npy").std() == pytest.approx(1, abs=0.05)
