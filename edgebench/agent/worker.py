"""One fresh process: loads one model, times it beside the base, computes its outputs.

It is told what to do by a JSON file and leaves raw.json, samples.npz and outputs.npy in a folder.
In which phase it is goes through a pipe, a line each, so that a crash can be placed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelFailedError, is_storage_fault, one_line
from .evidence import provider_problems
from .measure import (
    Arm,
    Block,
    calls_per_sample,
    time_block,
    time_pairs,
    timer_resolution_ns,
    warm_up,
)
from .results import write_json
from .runtimes import RUNTIMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .runtimes.base import Model

EXIT_STORAGE = 5
_PR_SET_PDEATHSIG = 1
_MIB = 1024.0


def main(job_file: str, phase_fd: int) -> int:
    """Do one job; 0 where raw.json says how it went."""
    job: dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    _end_with_parent(job["parent"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpu"])
    out = Path(job["out"])
    try:
        try:
            raw = _Worker(job, out, phase_fd).measure()
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


def describe(runtime_name: str) -> dict[str, Any]:
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


class _Worker:
    def __init__(self, job: dict[str, Any], out: Path, phase_fd: int) -> None:
        import numpy as np

        self._job = job
        self._out = out
        self._phase_fd = phase_fd
        self._protocol: dict[str, Any] = job["protocol"]
        self._runtime = RUNTIMES[job["runtime"]["name"]]
        self._runtime.version()
        # Mapped, not read: the inputs must not count as the model's memory.
        self._inputs = np.load(job["inputs"], mmap_mode="r", allow_pickle=False)
        generator = np.random.default_rng(job["seed"])
        count = min(self._protocol["rotate"], len(self._inputs))
        chosen = generator.choice(len(self._inputs), size=count, replace=False)
        self._examples = [np.array(self._inputs[i]) for i in chosen]
        self._reasons: list[str] = []

    def measure(self) -> dict[str, Any]:
        job = self._job
        raw: dict[str, Any] = {"problem": None, "cold": None, "evidence": {}}
        if job["timed"]:
            model = self._time(raw)
        else:
            self._phase("loading")
            model = self._load(job["model"])
            raw["evidence"]["providers"] = model.providers
            self._reasons += provider_problems(job["runtime"], model.providers, self._runtime)
        if job["outputs"]:
            self._phase("computing the outputs")
            outputs = self._outputs(model)
            _save(self._out / "outputs.npy", outputs)
        raw["invalid_reasons"] = self._reasons
        return raw

    def _phase(self, name: str) -> None:
        os.write(self._phase_fd, f"{name}\n".encode())

    def _load(self, path: str) -> Model:
        runtime = self._job["runtime"]
        return self._runtime.load(
            Path(path), runtime["providers"], runtime["threads"], runtime["session_config"]
        )

    def _time(self, raw: dict[str, Any]) -> Model:
        job, protocol = self._job, self._protocol
        reset = _reset_peak_memory()
        before = _memory_mib("VmRSS")
        self._phase("loading")
        start = time.perf_counter_ns()
        model = self._load(job["model"])
        loaded = time.perf_counter_ns()
        if model.fixed_batch not in (None, 1):
            raise ModelFailedError(
                f"its batch is fixed at {model.fixed_batch}, and latency is measured at batch 1: "
                "export it with a free batch dimension"
            )
        self._phase("running its first inference")
        inferring = time.perf_counter_ns()
        first = model.infer(self._examples[0][None])
        inferred = time.perf_counter_ns()
        _check_shape(first, 1, model.output_name)
        raw["cold"] = {
            "load_ms": (loaded - start) / 1e6,
            "first_inference_ms": (inferred - inferring) / 1e6,
            "peak_memory_mib": _memory_mib("VmHWM"),
            "before_load_mib": before,
        }

        self._phase("loading the base beside it")
        base = self._load(job["base"])
        if job["process"] % 2:
            # Which session was loaded first shows in the clock: half of the processes load the
            # model again, after base.
            model = self._load(job["model"])
        self._reasons += provider_problems(job["runtime"], model.providers, self._runtime)
        if base.providers != model.providers:
            self._reasons.append(
                f"the base ran on {', '.join(base.providers)}, "
                f"this model on {', '.join(model.providers)}"
            )
        arms, references = [], []
        for loaded_model in (base, model):
            answers = [loaded_model.infer(example[None]) for example in self._examples]
            references.append(answers)
            arms.append(Arm(loaded_model.bind(self._examples[0], answers[0]), self._examples))
        pair_of_arms = (arms[0], arms[1])

        self._phase("warming up")
        in_turn = pair_of_arms[::-1] if job["process"] % 2 else pair_of_arms
        warm_ups = [warm_up(arm, protocol["warmup_s"], protocol["warmup_cap_s"]) for arm in in_turn]
        resolution = timer_resolution_ns()
        # One number for both arms: a sample of more calls meets a warmer cache.
        inner = job["inner"] or max(calls_per_sample(w.call_ns, resolution) for w in warm_ups)

        recheck = _Recheck(pair_of_arms, references)
        self._phase("timing")
        gc.collect()
        gc.freeze()
        gc.disable()
        blocks = time_pairs(
            pair_of_arms,
            inner=inner,
            pairs=protocol["pairs"],
            block_s=protocol["block_s"],
            process=job["process"],
            after=recheck.after,
        )
        # A mean over `inner` calls has no tail: the quantiles need queries timed one by one.
        single_ns = time_block(pair_of_arms[1], 1, protocol["block_s"])[1]
        gc.enable()
        if recheck.differs:
            self._reasons.append(
                "the outputs inside the timed phase differ from those outside it "
                f"(by {recheck.largest:.3g})"
            )
        raw["evidence"] = {
            "providers": model.providers,
            "steady": all(w.steady for w in warm_ups),
            "warmup_s": round(max(w.seconds for w in warm_ups), 6),
            "rechecked": recheck.count,
            "recheck_max_abs_difference": recheck.largest,
            "cpu": job["cpu"],
            "timer_resolution_ns": resolution,
            "inner": inner,
            "rotated": len(self._examples),
            "peak_memory_reset": reset,
        }
        self._save_samples(blocks, inner, single_ns)
        return model

    def _save_samples(self, blocks: list[Block], inner: int, single_ns: list[int]) -> None:
        import numpy as np

        counts = [len(b.sample_ns) for b in blocks]
        raw_ns = np.array([ns for b in blocks for ns in b.sample_ns], dtype=np.float64)
        temporary = self._out / "samples.npz"
        with temporary.open("wb") as file:
            np.savez(
                file,
                block_process=np.full(len(blocks), self._job["process"], dtype=np.int32),
                block_pair=np.array([b.pair for b in blocks], dtype=np.int32),
                block_arm=np.array([b.arm for b in blocks], dtype=np.int32),
                block_start_ns=np.array([b.start_ns for b in blocks], dtype=np.int64),
                sample_block=np.repeat(np.arange(len(blocks), dtype=np.int32), counts),
                sample_ns=raw_ns / inner,
                inner=np.array([inner, inner], dtype=np.int64),
                single_process=np.full(len(single_ns), self._job["process"], dtype=np.int32),
                single_ns=np.array(single_ns, dtype=np.int64),
            )

    def _outputs(self, model: Model) -> NDArray[np.float32]:
        """The outputs of all inputs, float32 [N, classes]."""
        import numpy as np

        total = len(self._inputs)
        size = model.fixed_batch or self._protocol["outputs_batch"]
        parts = []
        for start in range(0, total, size):
            batch = np.array(self._inputs[start : start + size])
            asked = len(batch)
            if model.fixed_batch and asked < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - asked, axis=0)])
            answer = model.infer(batch)
            _check_shape(answer, len(batch), model.output_name)
            parts.append(answer[:asked])
        outputs = np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
        finite = np.isfinite(outputs).all(axis=1)
        if not finite.all():
            raise ModelFailedError(f"{int((~finite).sum())} of {total} outputs are not finite")
        return outputs


class _Recheck:
    """Compares the last output of each block with the one computed outside the timed phase."""

    # A GPU adds in another order from run to run; on a processor the difference is 0.
    _tolerance = 1e-4

    def __init__(self, arms: tuple[Arm, Arm], references: list[list[NDArray[np.float32]]]) -> None:
        self._arms = arms
        self._references = references
        self.count = 0
        self.largest = 0.0
        self.differs = False

    def after(self, block: Block) -> None:
        import numpy as np

        expected = self._references[block.arm][block.last]
        answer = self._arms[block.arm].query.read()
        self.count += 1
        if not np.isfinite(expected).all():
            # How many are not is told when all outputs are computed.
            return
        if not np.isfinite(answer).all():
            raise ModelFailedError("an output inside the timed phase is not finite")
        difference = float(np.abs(answer - expected).max())
        self.largest = max(self.largest, difference)
        scale = max(1.0, float(np.abs(expected).max()))
        self.differs = self.differs or not difference <= self._tolerance * scale


def _check_shape(output: NDArray[np.float32], batch: int, name: str) -> None:
    if output.ndim != 2 or len(output) != batch or output.shape[1] < 1:
        raise ModelFailedError(
            f"output '{name}' has shape {list(output.shape)}; a classifier gives [N, classes]"
        )


def _save(path: Path, array: NDArray[np.float32]) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _end_with_parent(parent: int) -> None:
    """Die when the agent dies, also where it is killed and cannot clean up."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _reset_peak_memory() -> bool:
    """Make VmHWM start from now (Linux 4.0 and later); says whether that worked."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _memory_mib(field: str) -> float:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) / _MIB
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
