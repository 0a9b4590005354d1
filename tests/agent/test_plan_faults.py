"""Models and devices that fail: the report says which and why, and the others are measured."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgebench.agent.errors import AgentError

PROBLEMS = {
    "broken": "ONNX Runtime cannot load the model: ",
    "tall": "output 'y' has shape [1, 1, 4]; a classifier gives [N, classes]",
    "fixed-8": "its batch is fixed at 8, and latency is measured at batch 1",
    "segfault": "crashed with SIGSEGV while loading",
    "segfault-first": "crashed with SIGSEGV while running its first inference",
    "killed": "was killed (SIGKILL) while loading: ",
    "leaves": "ended without a result while loading",
    "exits": "ended with exit code 3 while loading: "
    "libsomething.so.9: cannot open shared object file",
    "out-of-memory": "the device ran out of memory",
    "greedy": "ONNX Runtime cannot run the model: ",
    "fails-later": "line one line two",
    "fails-when-timed": "ONNX Runtime failed inside the timed phase: the device fell off the bus",
    "dies-when-timed": "was killed (SIGKILL) while warming up: ",
    "clock-goes-back": "cannot be timed: the device's clock went back by 9",
    "another-shape": "output 'y' has shape [3] an example, and had [4] before",
    "another-shape-when-timed": "an answer inside the timed phase has shape [1, 3], the same input",
}
DOUBTS = {
    "leaks": "it leaks memory",
    "throttles": "the device slowed itself down in 4 of 4 blocks of a process",
}


@pytest.fixture(scope="module")
def troubled(
    bundles: ModuleType, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of a run in which most models cannot be measured."""
    folder = tmp_path_factory.mktemp("troubled")
    chosen = {name: models.get(name, models["small"]) for name in PROBLEMS}
    doubtful = dict.fromkeys(DOUBTS, models["small"])
    chosen = {"base": models["base"], **chosen, **doubtful, "log": models["log"]}
    chosen["after"] = models["fixed-1"]
    bundle = bundles.make_bundle(folder / "bundle", chosen, processes=1, pairs=2)
    bundles.run(bundle, folder / "out", command=bundles.FAULTY)
    return folder


@pytest.mark.parametrize("name", PROBLEMS)
def test_model_that_cannot_be_measured_says_why(
    bundles: ModuleType, troubled: Path, name: str
) -> None:
    failed = bundles.result(troubled / "out", name)
    assert (failed["status"], failed["valid"]) == ("failed", False)
    assert failed["problem"].startswith(PROBLEMS[name])
    assert "\n" not in failed["problem"]
    assert [p.name for p in (troubled / "out" / name).iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", DOUBTS)
def test_measurement_that_is_no_evidence_says_why(
    bundles: ModuleType, troubled: Path, name: str
) -> None:
    found = bundles.result(troubled / "out", name)
    assert (found["status"], found["valid"]) == ("measured", False)
    assert DOUBTS[name] in " ".join(found["invalid_reasons"])


def test_the_others_go_on(bundles: ModuleType, troubled: Path) -> None:
    assert bundles.result(troubled / "out", "base")["status"] == "measured"
    assert bundles.result(troubled / "out", "after")["status"] == "measured"


def test_outputs_that_are_not_numbers_are_counted(bundles: ModuleType, troubled: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(troubled / "bundle/models/log.onnx"))
    outputs = session.run(None, {"x": np.load(troubled / "bundle/inputs.npy")})[0]
    bad = int((~np.isfinite(outputs).all(axis=1)).sum())
    problem = bundles.result(troubled / "out", "log")["problem"]
    assert problem == f"{bad} of 100 outputs are not finite"


@pytest.mark.parametrize(
    ("name", "processes", "reasons"),
    [
        (
            "wrong-when-timed",
            1,
            r"the outputs inside the timed phase differ from those outside it \(by 0\.01\)",
        ),
        # Nor need the latency of such a model be steady.
        ("remembers", 6, r".* answers are remembered(\n.*)*"),
    ],
    ids=["wrong", "remembered"],
)
def test_answers_that_are_wrong_or_remembered_are_no_evidence(
    bundles: ModuleType,
    models: dict[str, Path],
    tmp_path: Path,
    name: str,
    processes: int,
    reasons: str,
) -> None:
    chosen = {"base": models["base"], name: models["small"]}
    bundle = bundles.make_bundle(tmp_path / "bundle", chosen, processes=processes, pairs=1)
    bundles.run(bundle, tmp_path / "out", command=bundles.FAULTY)
    found = bundles.result(tmp_path / "out", name)
    assert (found["status"], found["valid"]) == ("measured", False)
    assert re.fullmatch(reasons, "\n".join(found["invalid_reasons"]))
    assert bundles.faults(bundles.result(tmp_path / "out", "base")) == []


def test_provider_that_is_silently_left_out_is_no_evidence(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    # The stand-in says it offers CUDA; the real ONNX Runtime below it then falls back by itself.
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, processes=1)
    bundles.edit_manifest(
        bundle, runtime__providers=["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    bundles.run(bundle, tmp_path / "out", command=bundles.FAULTY)
    found = bundles.result(tmp_path / "out", "base")
    assert not found["valid"]
    assert found["invalid_reasons"] == [
        "CUDAExecutionProvider was asked for, but the session left it out "
        "and ran on CPUExecutionProvider"
    ]


def test_provider_that_is_not_offered_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    bundles.edit_manifest(bundle, runtime__providers=["ROCMExecutionProvider"])
    with pytest.raises(AgentError, match=r"does not offer ROCMExecutionProvider; it offers .*CPU"):
        bundles.run(bundle, tmp_path / "out")


def test_processor_that_is_not_there_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, cpu=[4000])
    with pytest.raises(AgentError, match=r"names processor 4000; this device offers \d"):
        bundles.run(bundle, tmp_path / "out")


def test_session_option_reaches_the_runtime(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]}, processes=1)
    long_key = "k" * 5000
    bundles.edit_manifest(bundle, runtime__session_config={long_key: "1"})
    bundles.run(bundle, tmp_path / "out")
    found = bundles.result(tmp_path / "out", "base")
    assert found["problem"].startswith("ONNX Runtime cannot load the model: ")


def test_results_folder_belongs_to_one_agent(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgebench.agent import results

    monkeypatch.setattr(results, "_LOCK_WAIT_S", 0.0)
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    holder = results.Results(tmp_path / "out")
    try:
        with pytest.raises(AgentError, match="another agent is writing") as caught:
            bundles.run(bundle, tmp_path / "out")
    finally:
        holder.close()
    assert caught.value.code == "storage"


def test_results_that_cannot_be_written_are_a_storage_fault(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path
) -> None:
    bundle = bundles.make_bundle(tmp_path / "bundle", {"base": models["base"]})
    with pytest.raises(AgentError, match="the results cannot be written") as caught:
        bundles.run(bundle, Path("/proc/edgebench-results"))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("kib", [64, 400])
def test_full_disk_ends_the_run(
    bundles: ModuleType, models: dict[str, Path], tmp_path: Path, kib: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    try:
        bundle = bundles.make_bundle(
            tmp_path / "bundle", {"base": models["base"]}, examples=40_000, processes=1
        )
        with pytest.raises(AgentError, match=r"No space left|no space is left") as caught:
            bundles.run(bundle, disk / "out")
        assert caught.value.exit_code == 5
        assert not (disk / "out/base/result.json").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
