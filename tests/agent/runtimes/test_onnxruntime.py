from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgebench.agent.errors import ModelFailedError
from edgebench.agent.evidence import SATURATED_DB, inspection_notes, saturation
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Inspection
from edgebench.agent.runtimes.onnxruntime import _INTEGER, _split

ORT = RUNTIMES["onnxruntime"]
CPU = "CPUExecutionProvider"
PLAN = {"providers": [CPU], "auto": False}
QEMU = "qemu-x86_64-static"
RECORDING = Path(__file__).with_name("int8_on_avx2.npz")


def test_an_int8_file_runs_integer_operators(tmp_path: Path, int8_models: ModuleType) -> None:
    path = int8_models.write(tmp_path / "int8.onnx", reduce_range=True)
    found = ORT.inspect(path, [CPU], 1, {}, (int8_models.feed(),))
    assert found is not None
    assert found.nodes == {CPU: {"QuantizeLinear": 1, "QGemm": 1, "DequantizeLinear": 1}}
    assert found.integer_operators == {"QGemm": 1}
    seen = saturation(found)
    assert seen is not None
    assert seen["changed_predictions"] == 0
    assert seen["n"] == 16
    assert inspection_notes(PLAN, found, ORT) == []


def test_int8_in_the_file_and_floats_in_the_runtime_is_a_note(
    tmp_path: Path, int8_models: ModuleType
) -> None:
    path = int8_models.write(tmp_path / "w8.onnx", reduce_range=True, weight_only=True)
    found = ORT.inspect(path, [CPU], 1, {}, (int8_models.feed(),))
    assert found is not None
    assert found.integer_operators == {}
    (note,) = inspection_notes(PLAN, found, ORT)
    assert note.startswith("int8 in the file, float in the runtime")


def test_inspection_leaves_no_profile_behind(
    tmp_path: Path, int8_models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = int8_models.write(tmp_path / "int8.onnx", reduce_range=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    ORT.inspect(path, [CPU], 1, {}, (int8_models.feed(),))
    assert list(empty.iterdir()) == []


def _recorded() -> Inspection:
    """What ONNX Runtime 1.31 answered on an emulated processor with AVX2 and without VNNI.

    A recording and not a session, since most machines that run the tests have VNNI; the next test
    runs the real thing where there is an emulator.
    """
    with np.load(RECORDING) as seen:
        return Inspection(
            {CPU: {"QGemm": 1, "QuantizeLinear": 1, "DequantizeLinear": 1}},
            {"QGemm": 1},
            optimised=(seen["optimised"],),
            unoptimised=(seen["unoptimised"],),
        )


def test_recorded_saturation_is_found_and_said_with_its_remedies() -> None:
    seen = saturation(_recorded())
    assert seen is not None
    assert seen["sqnr_db"] == pytest.approx(9.93, abs=0.01)
    assert seen["changed_predictions"] == 11
    assert seen["sqnr_db"] < SATURATED_DB
    (note,) = inspection_notes(PLAN, _recorded(), ORT)
    assert "int8 saturates here: the answers are 9.9 dB away" in note
    assert "11 of 16 predictions" in note
    assert "u8s8-reduced" in note
    assert "session.x64quantprecision" in note
    assert "\n" not in note


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"there is no {QEMU} to emulate AVX2 with")
def test_real_kernels_saturate_without_vnni_and_both_remedies_hold(
    tmp_path: Path, int8_models: ModuleType
) -> None:
    int8_models.write(tmp_path / "8.onnx", reduce_range=False)
    int8_models.write(tmp_path / "7.onnx", reduce_range=True)
    np.save(tmp_path / "x.npy", int8_models.feed())
    code = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from pathlib import Path
import numpy as np
from edgebench.agent.evidence import saturation
from edgebench.agent.runtimes import RUNTIMES
x = np.load({str(tmp_path / "x.npy")!r})
exact = {{"session.x64quantprecision": "1"}}
for bits, config in (("8", {{}}), ("7", {{}}), ("8", exact)):
    path = Path({str(tmp_path)!r}) / f"{{bits}}.onnx"
    print(saturation(RUNTIMES["onnxruntime"].inspect(path, ["{CPU}"], 1, config, (x,)))["sqnr_db"])
"""
    done = subprocess.run(
        [str(shutil.which(QEMU)), "-cpu", "Haswell", os.path.realpath(sys.executable), "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"this Python does not run under {QEMU}: {done.stderr[-200:]}")
    eight, seven, exact = done.stdout.split()
    assert float(eight) < SATURATED_DB
    assert seven == exact == "None"


@pytest.mark.parametrize(
    ("operator", "counts"),
    [
        ("QLinearConv", True),
        ("QLinearMatMul", True),
        ("QLinearAdd", True),
        ("QGemm", True),
        ("MatMulInteger", True),
        ("MatMulIntegerToFloat", True),
        ("ConvInteger", True),
        ("DynamicQuantizeMatMul", True),
        ("QuantizeLinear", False),
        ("DequantizeLinear", False),
        ("MatMulNBits", False),
        ("Conv", False),
    ],
)
def test_what_counts_as_integer_compute(operator: str, counts: bool) -> None:
    assert bool(_INTEGER.fullmatch(operator)) == counts


def test_options_of_a_provider_are_told_by_its_name() -> None:
    assert _split(
        {"session.x64quantprecision": "1", "QNNExecutionProvider.backend_path": "libQnnHtp.so"}
    ) == (
        {"session.x64quantprecision": "1"},
        {"QNNExecutionProvider": {"backend_path": "libQnnHtp.so"}},
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_those_asked_for(networks: Path, threads: int) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("this system does not list a process's threads")
    before = len(list(tasks.iterdir()))
    model = ORT.load(networks / "network.onnx", [CPU], threads, {})
    assert len(list(tasks.iterdir())) - before == threads - 1
    del model


def test_half_and_double_precision_answers_are_float32(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["h"], ["d"], to=TensorProto.DOUBLE),
            helper.make_node("Identity", ["h"], ["same"]),
            helper.make_node("Cast", ["t"], ["small"], to=TensorProto.INT8),
        ],
        "kinds",
        [value("h", TensorProto.FLOAT16, ["N", 2]), value("t", TensorProto.BOOL, ["N", 2])],
        [
            value("d", TensorProto.DOUBLE, ["N", 2]),
            value("same", TensorProto.FLOAT16, ["N", 2]),
            value("small", TensorProto.INT8, ["N", 2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "kinds.onnx")
    loaded = ORT.load(tmp_path / "kinds.onnx", [CPU], 1, {})
    assert [s.dtype for s in loaded.inputs] == ["float16", "bool"]
    feed = (np.array([[0.5, 2]], np.float32), np.array([[True, False]]))
    answer = loaded.infer(feed)
    assert [a.dtype.name for a in answer] == ["float32", "float32", "int8"]
    query = loaded.bind(feed, answer)
    query.run()
    assert all((a == b).all() for a, b in zip(query.read(), answer, strict=True))


def test_text_inputs_are_refused_in_one_line(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["out"])],
        "words",
        [value("words", TensorProto.STRING, ["N"])],
        [value("out", TensorProto.STRING, ["N"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "words.onnx")
    with pytest.raises(ModelFailedError, match=r"its input 'words' is tensor\(string\)"):
        ORT.load(tmp_path / "words.onnx", [CPU], 1, {})


def test_an_answer_of_another_size_does_not_go_unnoticed_in_a_bound_query(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["places"])],
        "places",
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("places", TensorProto.INT64, [2, "found"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "places.onnx")
    loaded = ORT.load(tmp_path / "places.onnx", [CPU], 1, {})
    feed = (np.ones((1, 3), np.float32),)
    query = loaded.bind(feed, loaded.infer(feed))
    query.run()
    query.write((np.zeros((1, 3), np.float32),))
    # Nothing is put between the clock and the session: who times a query wraps its errors.
    with pytest.raises(Exception, match=r"has shape \{2,3\} but the computed"):
        query.run()


def test_a_device_python_has_no_memory_on_is_bound_anew_for_each_query(networks: Path) -> None:
    """A processor's session called DirectML: what is tested is that a new feed arrives."""
    model = ORT.load(networks / "network.onnx", [CPU], 1, {})
    model.providers = ["DmlExecutionProvider", CPU]
    feeds = [(np.full((1, 3, 8, 8), value, np.float32),) for value in (0.0, 1.0)]
    answers = [model.infer(feed) for feed in feeds]
    query = model.bind(feeds[0], answers[0])
    assert query.transfers
    for feed, wanted in zip(feeds, answers, strict=True):
        query.write(feed)
        query.run()
        assert np.allclose(query.read()[0], wanted[0], atol=1e-6)


def test_a_cuda_session_copies_in_each_query(networks: Path) -> None:
    if "CUDAExecutionProvider" not in ORT.offered():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    model = ORT.load(networks / "network.onnx", ["CUDAExecutionProvider", CPU], 1, {})
    if model.providers[0] == CPU:
        pytest.skip("there is no card the CUDA provider can use")
    feeds = [(np.full((1, 3, 8, 8), value, np.float32),) for value in (0.0, 1.0)]
    query = model.bind(feeds[0], model.infer(feeds[0]))
    query.write(feeds[1])
    query.run()
    assert np.allclose(query.read()[0], model.infer(feeds[1])[0], atol=1e-4)
    assert query.transfers
    assert query.resident is not None
    query.resident.run()
