"""A worker whose runtime is faulty for some model names.

A crash, a hang, a fall-back or a wrong answer while being timed cannot be had from a healthy
ONNX Runtime at will: this stands in for a sick one, registered before the worker's own main runs.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# A clock that goes back once by what CLOCK holds; the agent binds it when it is imported.
CLOCK: list[int] = []
_real_clock, _reads = time.perf_counter_ns, itertools.count()


def _clock() -> int:
    late = bool(CLOCK) and next(_reads) >= 400
    return _real_clock() - (CLOCK[0] if late else 0)


time.perf_counter_ns = _clock

from edgebench.agent import timing  # noqa: E402 - the clock comes first
from edgebench.agent.__main__ import main  # noqa: E402
from edgebench.agent.errors import ModelFailedError  # noqa: E402
from edgebench.agent.runtimes import RUNTIMES  # noqa: E402
from edgebench.agent.runtimes.base import Query  # noqa: E402
from edgebench.agent.runtimes.onnxruntime import OnnxRuntime  # noqa: E402

KEPT: list[bytearray] = []


def leak() -> None:
    KEPT.append(bytearray(os.urandom(1) * 2_000_000))


def fail() -> None:
    raise RuntimeError("the device\nfell off the bus")


SPOILED: dict[str, Callable[[], object]] = {
    "leaks": leak,
    "fails-when-timed": fail,
    "dies-when-timed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def spoiled(bind: Callable[..., Query], spoil: Callable[[], object]) -> Callable[..., Query]:
    """A query that does something more on each run, from the second on."""

    def rebound(*arguments: Any) -> Query:
        query = bind(*arguments)
        calls = itertools.count()

        def run(bound: object) -> None:
            query.run()
            if next(calls):
                spoil()

        return Query(query.write, run, query.read)

    return rebound


def remembering(bind: Callable[..., Query]) -> Callable[..., Query]:
    """A query that is slow only where its input is new."""

    def rebound(*arguments: Any) -> Query:
        query = bind(*arguments)
        new = [True]
        last: list[bytes] = [b""]

        def write(feed: Any) -> None:
            query.write(feed)
            new[0], last[0] = feed[0].tobytes() != last[0], feed[0].tobytes()

        def run(bound: object) -> None:
            end = time.perf_counter_ns() + (2_000_000 if new[0] else 0)
            new[0] = False
            query.run()
            while time.perf_counter_ns() < end:
                pass

        return Query(write, run, query.read)

    return rebound


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
        if fault == "leaves":
            os._exit(0)
        if fault == "dies-in-process-8" and Path.cwd().name == "7":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(1000)
        if fault == "out-of-memory":
            raise MemoryError
        model = super().load(path, providers, *rest)
        if fault == "another-shape":
            # The sixth call is the last one that gives four classes.
            infer = model.infer
            shapes = itertools.chain(itertools.repeat(4, 6), itertools.repeat(3))

            def reshaped(feed: Any) -> Any:
                return tuple(a[:, : next(shapes)] for a in infer(feed))

            model.infer = reshaped
        if fault == "segfault-first":
            model.infer = lambda batch: ctypes.string_at(0)
        if fault == "wrong-when-timed":
            bind = model.bind

            def wrong(*arguments: Any) -> Query:
                query = bind(*arguments)
                return Query(
                    query.write,
                    lambda bound: query.run(),
                    lambda: tuple(a + 0.01 for a in query.read()),
                )

            model.bind = wrong
        if fault == "another-shape-when-timed":
            bind = model.bind

            def cut(*arguments: Any) -> Query:
                query = bind(*arguments)
                return Query(
                    query.write,
                    lambda bound: query.run(),
                    lambda: tuple(a[:, :3] for a in query.read()),
                )

            model.bind = cut
        if fault in SPOILED:
            model.bind = spoiled(model.bind, SPOILED[fault])
        if fault == "throttles":
            events = itertools.count()
            timing.counters = lambda root, cpus: (next(events), ())
        if fault == "clock-goes-back":
            CLOCK.append(1_000_000)
        if fault == "remembers":
            model.bind = remembering(model.bind)
        if fault == "fails-later":
            raise ModelFailedError("line one\nline two")
        return model


RUNTIMES["onnxruntime"] = Faulty()
sys.exit(main(sys.argv[1:]))
