"""A worker of the real agent, but with a runtime altered in a known way.

    python -m benchmarks.harness.altered_worker NAME=DELAY … [--bare FOLDER] -- worker JOB FD

The model file called NAME.onnx is slowed down as `delays` says; `stall:S:EVERY_S` makes it stall
for S seconds in the first call of every EVERY_S seconds. With --bare, a bare loop over the
same bound query follows each of the agent's blocks, and both are left in FOLDER. All else is the
agent's own: this calls its `main`.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.delays import Run, delayed
from edgebench.agent import measure
from edgebench.agent.__main__ import main as agent_main
from edgebench.agent.runtimes import RUNTIMES
from edgebench.agent.runtimes.base import Query
from edgebench.agent.runtimes.onnxruntime import OnnxRuntime
from edgebench.agent.scenarios.stall import stalling

_ROOT = str(Path(__file__).resolve().parents[2])


def command(delays: dict[str, str], bare: Path | None = None) -> list[str]:
    """How `run_plan` starts this worker."""
    boot = f"import sys; sys.path[0] = {_ROOT!r}; from {__name__} import main; sys.exit(main())"
    asked = [f"{name}={spec}" for name, spec in delays.items()]
    aside = ["--bare", str(bare)] if bare is not None else []
    return [sys.executable, "-c", boot, *asked, *aside, "--"]


class Altered(OnnxRuntime):
    """ONNX Runtime in which the models named in `delays` are slow."""

    def __init__(self, delays: dict[str, str]) -> None:
        self.delays = delays

    def load(self, path: Path, *rest: Any) -> Any:
        """Load a model; its bound query is delayed where its name says so."""
        model: Any = super().load(path, *rest)
        spec = self.delays.get(path.stem)
        if spec is None:
            return model
        bind = model.bind

        def slow_bind(*arguments: Any) -> Query:
            query = bind(*arguments)
            kind, *numbers = spec.split(":")
            if kind == "stall":
                stall_s, every_s = (float(number) for number in numbers)
                return stalling(
                    query, time.perf_counter_ns, time.sleep, stall_s=stall_s, every_s=every_s
                )
            return Query(query.write, delayed(query.run, spec), query.read)

        model.bind = slow_bind
        return model


class BareLoops:
    """A loop with nothing in it but the query, after each of the agent's own blocks.

    Both take the clock around the same number of calls; the agent also writes inputs, keeps its
    samples and looks at the clock whether the block is over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._time_block = measure.time_block
        # Of each pair of blocks, in ns a call: the agent's median, the bare one's, and what the
        # agent spent outside of its timed spans.
        self._rows: list[tuple[float, float, float]] = []

    def time_block(
        self, arm: measure.Arm, inner: int, block_s: float, clock: Any = time.perf_counter_ns
    ) -> Any:
        """The agent's block, then the bare one, or the other way round every second time."""
        bare_first = len(self._rows) % 2 == 1
        bare = _bare_ns(arm.query.run, inner, block_s) if bare_first else 0.0
        found = self._time_block(arm, inner, block_s, clock)
        wall, calls = clock() - found[0], inner * len(found[1])
        if not bare_first:
            bare = _bare_ns(arm.query.run, inner, block_s)
        self._rows.append((median(found[1]) / inner, bare, (wall - sum(found[1])) / calls))
        return found

    def save(self) -> None:
        """One file a process."""
        import numpy as np

        np.save(self._folder / f"{os.getpid()}.npy", np.array(self._rows))


def _bare_ns(run: Run, inner: int, block_s: float) -> float:
    """The median over one block of a call in a loop of nothing else, in ns."""
    clock, samples = time.perf_counter_ns, array("q")
    after = clock()
    end = after + int(block_s * 1e9)
    while after < end:
        before = clock()
        for _ in repeat(None, inner):
            run()
        after = clock()
        samples.append(after - before)
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
    RUNTIMES["onnxruntime"] = Altered(dict(entry.split("=", 1) for entry in own))
    code = agent_main(agents)
    if bare is not None and agents[0] == "worker":
        bare.save()
    return code


if __name__ == "__main__":
    sys.exit(main())
