"""One fresh process: does one job on one model, told by a JSON file, and leaves raw.json.

Jobs are `time` (beside the base, see `timing`), `outputs`, `inspect`, `energy` and `scenario`. In
which phase it is goes through a pipe, a line each, so that a crash can be placed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from .answers import all_answers, check_answer, check_feed
from .errors import ModelFailedError, is_storage_fault, one_line
from .evidence import provider_problems
from .results import write_json
from .runtimes import RUNTIMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .runtimes.base import Feed, Model

# Not one that a library ends with.
EXIT_STORAGE = 75
INSPECTED = 64
_PR_SET_PDEATHSIG = 1


def main(job_file: str, phase_fd: int) -> int:
    """Do one job; 0 where raw.json says how it went."""
    job: Dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    _end_with_parent(job["parent"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpu"])
    out = Path(job["out"])
    try:
        try:
            raw = _do(Work(job, out, phase_fd))
        except ModelFailedError as error:
            raw = {"problem": one_line(str(error))}
        except MemoryError:
            raw = {"problem": "the device ran out of memory"}
        write_json(out / "raw.json", raw)
    except OSError as error:
        if is_storage_fault(error):
            return EXIT_STORAGE
        raise
    return 0


def describe(runtime_name: str) -> Dict[str, Any]:
    """What the runtime says of itself: version, providers; or which package is `missing`."""
    runtime = RUNTIMES[runtime_name]
    try:
        import numpy as np
    except ImportError as error:
        return {"missing": "numpy", "why": str(error)}
    try:
        version, offered = runtime.version(), runtime.offered()
    except ImportError as error:
        return {"missing": runtime.package, "why": str(error)}
    return {
        "name": runtime.name,
        "version": version,
        "providers": offered,
        "numpy": str(np.__version__),
    }


class Work:
    """What every job needs: the job itself, the inputs, the runtime, and where to say what."""

    def __init__(self, job: Dict[str, Any], out: Path, phase_fd: int) -> None:
        import numpy as np

        self.job = job
        self.out = out
        self._phase_fd = phase_fd
        self.protocol: Dict[str, Any] = job["protocol"]
        self.runtime = RUNTIMES[job["runtime"]["name"]]
        self.runtime.version()
        # Mapped, not read: the inputs must not count as the model's memory.
        self.inputs: Feed = tuple(
            np.load(path, mmap_mode="r", allow_pickle=False) for path in job["inputs"]
        )
        self.reasons: List[str] = []

    def phase(self, name: str) -> None:
        """Tell the parent what is being done now."""
        os.write(self._phase_fd, f"{name}\n".encode())

    def load(self, path: str) -> Model:
        """A fresh session of a model file; raises ModelFailedError."""
        runtime = self.job["runtime"]
        model = self.runtime.load(
            Path(path), runtime["providers"], runtime["threads"], runtime["session_config"]
        )
        check_feed(model, self.inputs)
        return model

    def feeds(self, batch: int) -> List[Feed]:
        """`rotate` feeds of `batch` examples, drawn under the seed."""
        import numpy as np

        generator = np.random.default_rng(self.job["seed"])
        total = len(self.inputs[0])
        wanted = self.protocol["rotate"] * batch
        if wanted <= total or batch == 1:
            chosen = generator.choice(total, size=min(wanted, total), replace=False)
        else:
            chosen = generator.choice(total, size=wanted, replace=True)
        rows = chosen.reshape(-1, batch)
        return [tuple(np.array(array[row]) for array in self.inputs) for row in rows]

    def check_batch(self, model: Model) -> None:
        """Raise ModelFailedError where the model's fixed batch is not the one that is timed."""
        batch = self.protocol["batch"]
        if model.fixed_batch not in (None, batch):
            raise ModelFailedError(
                f"its batch is fixed at {model.fixed_batch}, and latency is measured at batch "
                f"{batch}: export it with a free batch dimension, or set protocol.batch to "
                f"{model.fixed_batch}"
            )

    def check_providers(self, model: Model) -> None:
        """Note where the session left out a provider it was asked for."""
        self.reasons += provider_problems(self.job["runtime"], model.providers, self.runtime)

    def write_outputs(self, model: Model) -> None:
        """Compute the answers to all inputs and save them; raises ModelFailedError."""
        self.phase("computing the outputs")
        outputs = all_answers(
            model,
            self.inputs,
            batch=self.protocol["outputs_batch"],
            kind=self.job["answers"],
        )
        save_array(self.out / "outputs.npy", outputs)


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write a .npy file without pickled objects."""
    import numpy as np

    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _do(work: Work) -> Dict[str, Any]:
    kind = work.job["kind"]
    if kind == "time":
        from .timing import time_beside_base

        return time_beside_base(work)
    if kind == "inspect":
        return _inspect(work)
    if kind == "energy":
        return _draw_energy(work)
    if kind == "scenario":
        from .scenarios.worker import run_scenario

        return run_scenario(work)
    work.phase("loading")
    model = work.load(work.job["model"])
    work.check_providers(model)
    work.write_outputs(model)
    return {
        "problem": None,
        "cold": None,
        "evidence": {"providers": model.providers},
        "invalid_reasons": work.reasons,
    }


def _inspect(work: Work) -> Dict[str, Any]:
    """What ran where, and whether the optimised session answers as the plain one does."""
    import numpy as np

    from .evidence import inspection_notes, inspection_record, placement_problems

    runtime = work.job["runtime"]
    work.phase("loading for inspection")
    batch = work.load(work.job["model"]).fixed_batch or min(INSPECTED, len(work.inputs[0]))
    feed = tuple(np.resize(array[:batch], (batch, *array.shape[1:])) for array in work.inputs)
    work.phase("inspecting")
    found = work.runtime.inspect(
        Path(work.job["model"]),
        runtime["providers"],
        runtime["threads"],
        runtime["session_config"],
        feed,
    )
    if found is None:
        return {"problem": None, "inspection": None, "invalid_reasons": []}
    return {
        "problem": None,
        "inspection": {
            **(inspection_record(found) or {}),
            "notes": inspection_notes(runtime, found, work.runtime),
        },
        "invalid_reasons": placement_problems(runtime, found, work.runtime),
    }


def _draw_energy(work: Work) -> Dict[str, Any]:
    """Run for the window in which the parent reads the sensors; says how many queries that were."""
    from .measure import Arm, settling_of, warm_up

    work.phase("loading")
    model = work.load(work.job["model"])
    work.check_batch(model)
    work.check_providers(model)
    feeds = work.feeds(work.protocol["batch"])
    answer = model.infer(feeds[0])
    check_answer(answer, work.protocol["batch"], work.job["answers"], model.outputs[0].name)
    arm = Arm(model.bind(feeds[0], answer), feeds)
    work.phase("warming up")
    warm_up(arm, settling_of(work.protocol))
    work.phase(ENERGY_BEGINS)
    queries = 0
    start = time.perf_counter_ns()
    end = start + int(work.protocol["energy_s"] * 1e9)
    now = start
    while now < end:
        arm.next_input()
        arm.query.run()
        queries += 1
        now = time.perf_counter_ns()
    work.phase(ENERGY_ENDS)
    return {
        "problem": None,
        "queries": queries,
        "seconds": (now - start) / 1e9,
        "invalid_reasons": work.reasons,
    }


ENERGY_BEGINS = "drawing energy"
ENERGY_ENDS = "ending"


def _end_with_parent(parent: int) -> None:
    """Die when the agent dies, also where it is killed and cannot clean up."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
