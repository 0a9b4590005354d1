"""A worker of the real agent, but with a runtime altered in a known way.

    python -m benchmarks.harness.altered_worker NAME=DELAY … [--bare FOLDER] -- worker JOB FD

The model file called NAME.onnx is slowed down as `delays` says; `stall:S:EVERY_S` makes it stall
for S seconds in the first call of every EVERY_S seconds. With --bare, bare loops over the same
session take turns with each of the agent's blocks, nothing is slowed down, and what all of them saw
is left in FOLDER. All else is the agent's own: this calls its `main`.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.delays import delayed
from edgebench.agent import measure
from edgebench.agent.__main__ import main as agent_main
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Query
from edgebench.agent.runtimes.onnxruntime import OnnxRuntime
from edgebench.agent.scenarios.stall import stalling

# Makes so many calls and gives the nanoseconds they took.
Burst = Callable[[int], int]

_ROOT = str(Path(__file__).resolve().parents[2])


def command(delays: dict[str, str], bare: Path | None = None) -> list[str]:
    """How `run_plan` starts this worker."""
    boot = f"import sys; sys.path[0] = {_ROOT!r}; from {__name__} import main; sys.exit(main())"
    asked = [f"{name}={spec}" for name, spec in delays.items()]
    aside = ["--bare", str(bare)] if bare is not None else []
    return [sys.executable, "-c", boot, *asked, *aside, "--"]


class Altered(OnnxRuntime):
    """ONNX Runtime in which the models named in `delays` are slow; `bare` knows the sessions."""

    def __init__(self, delays: dict[str, str], bare: BareLoops | None) -> None:
        self.delays = delays
        self.bare = bare

    def load(self, path: Path, *rest: Any) -> Any:
        """Load a model; its bound query is delayed where its name says so."""
        model: Any = super().load(path, *rest)
        spec = self.delays.get(path.stem)
        bind = model.bind

        def slow_bind(feed: Any, answer: Any) -> Query:
            if self.bare is not None:
                return self.bare.bind(model, feed, answer, bind)
            query: Query = bind(feed, answer)
            if spec is None:
                return query
            kind, *numbers = spec.split(":")
            if kind == "stall":
                stall_s, every_s = (float(number) for number in numbers)
                return stalling(
                    query, time.perf_counter_ns, time.sleep, stall_s=stall_s, every_s=every_s
                )
            slower = delayed(query.call, spec, query.bound)
            return Query(query.write, slower, query.read, bound=query.bound)

        model.bind = slow_bind
        return model


class BareLoops:
    """Two loops with nothing in them but the runtime's call, beside each of the agent's own blocks.

    One calls the session's `run_with_iobinding` on the buffers the agent has bound, the other its
    `run` with a dictionary. All put the clock around the same number of calls; the agent also goes
    through its own layers, writes inputs, keeps its samples and looks whether the block is over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._time_block = measure.time_block
        self._of: dict[Query, tuple[Burst, Burst]] = {}
        # Of each turn, in ns a call: the medians of the agent's block and of the two bare ones, and
        # what the agent spent outside of its timed spans; how many calls a sample spans.
        self._rows: list[tuple[float, float, float, float, int]] = []

    def bind(self, model: Any, feed: Any, answer: Any, bind: Callable[..., Query]) -> Query:
        """The agent's own query; notes the session and the binding it made."""
        session, made = model._session, []
        new = session.io_binding

        def io_binding() -> Any:
            made.append(new())
            return made[-1]

        session.io_binding = io_binding
        try:
            query = bind(feed, answer)
        finally:
            del session.io_binding
        (binding,) = made
        names = [spec.name for spec in model.outputs]
        named = dict(zip((spec.name for spec in model.inputs), feed, strict=True))
        self._of[query] = bound_burst(session, binding), run_burst(session, names, named)
        return query

    def time_block(
        self, arm: measure.Arm, inner: int, block_s: float, clock: Any = time.perf_counter_ns
    ) -> Any:
        """The agent's block and the two bare ones, each of them first in its turn."""
        bound, plain = self._of[arm.query]
        medians: dict[str, float] = {}
        between = 0.0
        found = None
        order = ("agent", "bound", "plain") * 2
        first = len(self._rows) % 3
        for each in order[first : first + 3]:
            if each == "agent":
                found = self._time_block(arm, inner, block_s, clock)
                between = (clock() - found[0] - sum(found[1])) / (inner * len(found[1]))
                medians[each] = median(found[1]) / inner
            else:
                medians[each] = _block_ns(bound if each == "bound" else plain, inner, block_s)
        self._rows.append((medians["agent"], medians["bound"], medians["plain"], between, inner))
        return found

    def save(self) -> None:
        """One file a process."""
        import numpy as np

        np.save(self._folder / f"{os.getpid()}.npy", np.array(self._rows))


def bound_burst(session: Any, binding: Any) -> Burst:
    """So many calls of `session.run_with_iobinding` by the clock, in ns."""
    clock, run = time.perf_counter_ns, session.run_with_iobinding

    def burst(calls: int) -> int:
        start = clock()
        for _ in repeat(None, calls):
            run(binding)
        return clock() - start

    return burst


def run_burst(session: Any, names: list[str], feed: dict[str, Any]) -> Burst:
    """So many calls of `session.run` by the clock, in ns."""
    clock, run = time.perf_counter_ns, session.run

    def burst(calls: int) -> int:
        start = clock()
        for _ in repeat(None, calls):
            run(names, feed)
        return clock() - start

    return burst


def _block_ns(burst: Burst, inner: int, block_s: float) -> float:
    """The median of a call over one block of bursts, in ns."""
    samples = array("q")
    end = time.perf_counter_ns() + int(block_s * 1e9)
    while not samples or time.perf_counter_ns() < end:
        samples.append(burst(inner))
    return median(samples) / inner


def main() -> int:
    """Alter, then be the agent."""
    split = sys.argv.index("--")
    own, agents = sys.argv[1:split], sys.argv[split + 1 :]
    bare = None
    if "--bare" in own:
        at = own.index("--bare")
        bare = BareLoops(Path(own[at + 1]))
        own = own[:at]
        measure.time_block = bare.time_block
    RUNTIMES["onnxruntime"] = Altered(dict(entry.split("=", 1) for entry in own), bare)
    code = agent_main(agents)
    if bare is not None and agents[0] == "worker":
        bare.save()
    return code


if __name__ == "__main__":
    sys.exit(main())
