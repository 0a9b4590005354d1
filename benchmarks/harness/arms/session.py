"""The session that a rule of another tool times: ONNX Runtime, one thread, one input."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.delays import delayed


def query(delay: str | None = None) -> Callable[[], object]:
    """`session.run` on the model, inputs and delay that the environment names.

    The others call `run` with a dictionary, as their packages do; the agent binds its buffers.
    """
    import numpy as np
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        os.environ["HARNESS_MODEL"], options, providers=["CPUExecutionProvider"]
    )
    inputs = np.load(os.environ["HARNESS_INPUTS"], allow_pickle=False)
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(inputs[:1])}
    names = [output.name for output in session.get_outputs()]

    def run(_bound: object = None) -> object:
        return session.run(names, feed)

    start = time.monotonic()
    prepared = delayed(run, delay or os.environ["HARNESS_DELAY"])
    # What it takes to make a model slower is no part of the rule's cost.
    with Path(os.environ["HARNESS_PREPARING"]).open("a", encoding="utf-8") as file:
        file.write(f"{time.monotonic() - start}\n")
    return prepared
