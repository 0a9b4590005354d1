"""A worker whose runtime is faulty for some model names.

A crash, a hang, a fall-back or a wrong answer while being timed cannot be had from a healthy
ONNX Runtime at will: this stands in for a sick one, registered before the worker's own main runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edgebench.agent.__main__ import main
from edgebench.agent.errors import ModelFailedError
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Query
from edgebench.agent.runtimes.onnxruntime import OnnxRuntime


class Faulty(OnnxRuntime):
    def offered(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def load(self, path: Path, providers: list[str], *rest: Any) -> Any:
        fault = path.stem
        if fault == "segfault":
            ctypes.string_at(0)
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exits":
            print("libsomething.so.9: cannot open shared object file", file=sys.stderr)
            os._exit(3)
        if fault == "hang":
            time.sleep(1000)
        if fault == "out-of-memory":
            raise MemoryError
        model = super().load(path, providers, *rest)
        if fault == "segfault-first":
            model.infer = lambda batch: ctypes.string_at(0)
        if fault == "wrong-when-timed":
            bind = model.bind

            def wrong(*arguments: Any) -> Query:
                query = bind(*arguments)
                return Query(query.write, query.run, lambda: query.read() + 0.01)

            model.bind = wrong
        if fault == "fails-later":
            raise ModelFailedError("line one\nline two")
        return model


RUNTIMES["onnxruntime"] = Faulty()
sys.exit(main(sys.argv[1:]))
