"""What the agent's timing loop adds to a call, beside a bare loop over the same session.

Three loops take turns in one process on one session: `session.run`, a bare loop over a bound
query, and the agent's own (which writes the next input and reads the clock around each sample).
Run it with the model of interest, or without for a LeNet-like one of a few tens of microseconds:

    python benchmarks/harness/timer_overhead.py [MODEL.onnx] [--rounds 60] [--calls 300]
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgebench.agent.measure import Arm, calls_per_sample, time_call, timer_resolution_ns, warm_up
from edgebench.agent.runtimes import RUNTIMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or lenet_like(Path(folder, "lenet.onnx"))
        per_call = compare(path, options.rounds, options.calls)
    for name, ns in per_call.items():
        print(f"{name:28} {ns / 1000:8.3f} µs a call")
    for bare in ("session.run", "bound query, bare loop"):
        added = (per_call["agent, whole loop"] - per_call[bare]) / 1000
        print(f"the agent's loop adds {added:+.3f} µs to {bare}")


def compare(path: Path, rounds: int, calls: int) -> dict[str, float]:
    """Median wall time of one call in each loop, in nanoseconds, the loops taking turns."""
    import onnxruntime

    model: Any = RUNTIMES["onnxruntime"].load(path, ["CPUExecutionProvider"], 1, {})
    session: onnxruntime.InferenceSession = model._session
    shape = [d if isinstance(d, int) else 1 for d in session.get_inputs()[0].shape][1:]
    rng = np.random.default_rng(0)
    examples = [rng.normal(size=shape).astype("float32") for _ in range(8)]
    arm = Arm(model.bind(examples[0], model.infer(examples[0][None])), examples)
    feed = {session.get_inputs()[0].name: examples[0][None]}
    inner = calls_per_sample(warm_up(arm, 0.3, 3.0).call_ns, timer_resolution_ns())
    reported: list[float] = []

    def plain() -> None:
        for _ in range(calls):
            session.run(None, feed)

    def bound() -> None:
        run = arm.query.run
        for _ in range(calls):
            run()

    def agent() -> None:
        samples: list[int] = []
        for _ in range(calls // inner):
            time_call(arm, inner, samples, time.perf_counter_ns)
        reported.append(median(samples) / inner)

    loops = {
        "session.run": (plain, calls),
        "bound query, bare loop": (bound, calls),
        "agent, whole loop": (agent, calls // inner * inner),
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}
    gc.freeze()
    gc.disable()
    for number in range(rounds):
        order = list(loops) if number % 2 else list(reversed(loops))
        for name in order:
            loop, made = loops[name]
            start = time.perf_counter_ns()
            loop()
            taken[name].append((time.perf_counter_ns() - start) / made)
    return {**{n: median(t) for n, t in taken.items()}, "agent, what it reports": median(reported)}


def lenet_like(path: Path) -> Path:
    """Two convolutions and two dense layers on [N, 1, 8, 8], with weights from a seed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"c1": (16, 1, 3, 3), "c2": (64, 16, 3, 3), "d1": (1024, 64), "d2": (64, 10)}
    weights = [
        numpy_helper.from_array(rng.normal(scale=0.1, size=s).astype("float32"), n)
        for n, s in shapes.items()
    ]
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "c1"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "c2"], ["c"], **pads),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "d1"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "d2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lenet-like",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), str(path))
    return path


if __name__ == "__main__":
    main()
