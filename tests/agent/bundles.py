"""Small real bundles for the tests, of classifiers made node by node, and runs of their plans."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebench.agent.plan import run_plan
from edgebench.agent.results import NOT_STEADY

# The command of a worker whose runtime is faulty for some model names.
FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_worker.py"))]

PROTOCOL = {
    "name": "test",
    "processes": 2,
    "max_processes": 2,
    "half_width": None,
    "time_cap_s": None,
    "pairs": 2,
    "least_pairs": 2,
    "block_s": 0.005,
    "warmup_s": 0.01,
    "warmup_cap_s": 0.2,
    "warmup_median": 0.02,
    "warmup_iqr": 0.1,
    "timer_steps": 1000,
    "single_s": 0.005,
    "rotate": 4,
    "same_input": True,
    "recheck": True,
    "inspect": False,
    "confirm": False,
    "lock_clocks": False,
    "energy_s": 0.0,
    "idle_s": 10.0,
    "batch": 1,
    "scenarios": [],
    "outputs_batch": 64,
    "timeout_s": 60.0,
    "cpu": None,
}


def classifier(
    path: Path,
    *,
    seed: int = 0,
    batch: int | str = "N",
    rank3: bool = False,
    scale: float = 1.0,
    log: bool = False,
    hidden: int = 16,
    greedy: bool = False,
) -> Path:
    """An ONNX classifier for [N, 1, 4, 4]: flatten, two dense layers, four classes.

    `rank3` gives [N, 4, 4] instead, `log` the logarithm (NaN for negative values); `greedy` asks
    for 4 TiB on its way.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    first = numpy_helper.from_array(rng.normal(size=(16, hidden)).astype("float32"), "w1")
    second = numpy_helper.from_array(scale * rng.normal(size=(hidden, 4)).astype("float32"), "w2")
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["logits"]),
    ]
    initializers = [first, second]
    shape: list[Any] = [batch, 4]
    last = "logits"
    if log:
        nodes.append(helper.make_node("Log", ["logits"], ["log"]))
        last = "log"
    if greedy:
        wide = np.array([1, 1, 2**20, 2**20], dtype="int64")
        initializers.append(numpy_helper.from_array(wide, "wide"))
        nodes.append(helper.make_node("Unsqueeze", [last, "axes"], ["tall4"]))
        initializers.append(numpy_helper.from_array(np.array([2, 3], dtype="int64"), "axes"))
        nodes.append(helper.make_node("Expand", ["tall4", "wide"], ["vast"]))
        nodes.append(helper.make_node("ReduceMean", ["vast", "axes"], ["shrunk"], keepdims=0))
        last = "shrunk"
    if rank3:
        initializers.append(numpy_helper.from_array(np.array([0, 1, 4], dtype="int64"), "shape"))
        nodes.append(helper.make_node("Reshape", [last, "shape"], ["tall"]))
        last, shape = "tall", [batch, 1, 4]
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def make_bundle(
    folder: Path,
    models: dict[str, Path],
    *,
    untimed: tuple[str, ...] = (),
    examples: int = 100,
    run_id: str = "20260101T000000-abcdef",
    answers: str = "classes",
    limits: dict[str, Any] | None = None,
    **protocol: Any,
) -> Path:
    """A bundle folder of the named model files.

    `limits` are every timed model's but base's.
    """
    protocol = {"max_processes": protocol.get("processes", PROTOCOL["processes"]), **protocol}
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    np.save(folder / "inputs.npy", rng.normal(size=(examples, 1, 4, 4)).astype("float32"))
    entries = []
    for name, source in models.items():
        target = folder / "models" / f"{name}.onnx"
        target.parent.mkdir(exist_ok=True)
        content = source.read_bytes()
        target.write_bytes(content)
        entries.append(
            {
                "name": name,
                "file": f"models/{name}.onnx",
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "timed": name not in untimed,
                "limits": (limits or {}) if name != "base" else {},
            }
        )
    manifest = {
        "schema": "edgebench.bundle/1",
        "run_id": run_id,
        "edgebench_version": "0.1.0",
        "seed": 0,
        "runtime": {
            "name": "onnxruntime",
            "providers": ["CPUExecutionProvider"],
            "threads": 1,
            "session_config": {},
        },
        "protocol": {**PROTOCOL, **protocol},
        "answers": answers,
        "inputs": [
            {
                "name": None,
                "file": "inputs.npy",
                "sha256": hashlib.sha256((folder / "inputs.npy").read_bytes()).hexdigest(),
                "shape": [examples, 1, 4, 4],
                "dtype": "float32",
            }
        ],
        "models": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def run(bundle: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    """Run the bundle's plan into `out`; gives its events. `options` are those of `run_plan`."""
    events: list[dict[str, Any]] = []
    run_plan(bundle, out, events.append, **options)
    return events


def result(out: Path, name: str) -> dict[str, Any]:
    """What result.json says of the model called `name`."""
    value: dict[str, Any] = json.loads((out / name / "result.json").read_text())
    return value


# How the reasons begin that speak of the machine the tests run on, not of what they test.
_MACHINES = (
    "the device slowed itself down",
    "the device is slowed down",
    "its control group",
    "the system swapped",
    "the kernel killed",
    NOT_STEADY,
)


def faults(found: dict[str, Any]) -> list[str]:
    """Why a measurement is not valid, but for what a busy or throttled machine adds."""
    return [one for one in found["invalid_reasons"] if not one.startswith(_MACHINES)]


def edit_manifest(bundle: Path, **changes: Any) -> None:
    """Change top-level entries; a dotted key (with __) changes a nested one."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        place = manifest
        for parent in parents:
            place = place[int(parent)] if parent.isdigit() else place[parent]
        place[leaf] = value
    path.write_text(json.dumps(manifest))
