"""Candidates on the target: what is timed, what is asked, and what is said of those that fail."""

from __future__ import annotations

import tempfile
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebench.errors import BuildError, NotMeasuredError
from edgebench.pipeline.main import connect
from edgebench.pipeline.target_probe import MEASURED, TargetProbe
from edgebench.protocol import PROFILES, resolve_protocol
from edgebench.target import load_target

SHORT = {"processes": 1, "pairs": 6, "block_s": 0.01, "warmup_s": 0.01, "warmup_cap_s": 0.05}
INPUTS = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)


def dense(path, hidden, *, scale=1.0):
    """A classifier of 16 values into 4 classes, through two layers of `hidden` units."""
    rng = np.random.default_rng(1)
    sizes = [16, hidden, hidden, 4]
    nodes, weights, last = [], [], "x"
    for index, shape in enumerate(pairwise(sizes)):
        values = (scale * rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"]))
        last = f"h{index}"
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
        for name, size in (("x", 16), (last, 4))
    ]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path
    )
    return path


def probe(**changes):
    target = load_target("cpu")
    protocol = resolve_protocol({**SHORT, **changes}, where="test")
    return TargetProbe(connect(target), target, protocol, classes=4, seed=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {hidden: dense(folder / f"{hidden}.onnx", hidden) for hidden in (8, 256, 2048)}


def test_the_slow_one_is_slower_and_answers_are_the_files_own(files, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    candidates = {"small": files[8], "large": files[2048]}
    base, found = probe().measure(files[256], candidates, INPUTS)
    assert list(found) == ["small", "large"]
    assert found["small"].ratio < 1 < found["large"].ratio
    import onnxruntime

    for file, answers in ((files[256], base), (files[8], found["small"].answers)):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x": INPUTS})
        assert answers == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert set(found["small"].metrics) == set(MEASURED) - {"latency_ratio"}
    small, large = (found[name].metrics for name in ("small", "large"))
    assert small["latency_p50_ms"] < large["latency_p50_ms"]
    assert small["throughput_per_s"] > large["throughput_per_s"]
    assert small["peak_memory_mib"] < large["peak_memory_mib"]
    # The lock that keeps measurements of a machine apart stays.
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_base_alone_is_not_timed(files):
    answers, found = probe().measure(files[8], {}, INPUTS)
    assert answers.shape == (24, 4)
    assert found == {}


def test_a_candidate_that_does_not_run(files, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BuildError, match="it does not run on the target"):
        probe().measure(files[8], {"broken": broken}, INPUTS)


def test_a_candidate_that_answers_no_numbers(files, tmp_path):
    endless = dense(tmp_path / "nan.onnx", 64, scale=1e20)
    with pytest.raises(BuildError, match="not finite"):
        probe().measure(files[8], {"endless": endless}, INPUTS)


def test_a_base_that_does_not_run_is_no_chains_fault(files, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(NotMeasuredError, match="base does not run on the target"):
        probe().measure(broken, {"small": files[8]}, INPUTS)


def test_the_short_protocol_is_never_longer_than_the_runs():
    long, quick = PROFILES["rigorous"], PROFILES["quick"]
    target = load_target("cpu")
    used = TargetProbe(connect(target), target, long, 4, 0)._protocol()
    assert (used.processes, used.pairs, used.block_s) == (6, quick.pairs, quick.block_s)
    assert used.half_width is None
    assert not used.confirm
    assert used.energy_s == 0
    assert used.timeout_s == long.timeout_s
    short = probe(batch=4, outputs_batch=8, cpu=[0])._protocol()
    assert (short.processes, short.max_processes, short.pairs) == (1, 1, 6)
    assert (short.batch, short.outputs_batch, short.cpu) == (4, 8, [0])


def test_whether_the_target_answers(files, monkeypatch):
    one = probe()
    assert one.reached()
    gone = load_target("cpu", settings=["python=/nowhere/python"])
    assert not TargetProbe(connect(gone), gone, one.protocol, 4, 0).reached()
