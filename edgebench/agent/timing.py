"""The timed job: load one model alone, then base beside it, and time the two in turn."""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from .answers import Recheck, check_answer
from .device import counters
from .errors import ModelFailedError, one_line
from .measure import (
    THROTTLED,
    Arm,
    Block,
    WarmUp,
    calls_per_sample,
    log_ratio,
    pairs_that_fit,
    same_input_ratio,
    settling_of,
    time_block,
    time_pairs,
    timer_resolution_ns,
    warm_up,
)
from .memory import addresses_randomised, memory_mib, reset_peak_memory

if TYPE_CHECKING:
    from .runtimes.base import Answer, Feed, Model
    from .worker import Work

_SAME_INPUT_PAIRS = 4
# Growth that a heap's fragmentation does not explain.
_LEAK_MIB = 16.0
_LEAK_BYTES_PER_CALL = 256.0


def time_beside_base(work: Work) -> Dict[str, Any]:
    """Time the job's model beside its base; raises ModelFailedError.

    Leaves samples.npz, and outputs.npy where the job asks for it; gives what raw.json holds.
    """
    job, protocol = work.job, work.protocol
    feeds = work.feeds(protocol["batch"])
    model, cold, reset = _load_cold(work, feeds)

    work.phase("loading the base beside it")
    base = work.load(job["base"])
    work.check_batch(base)
    if job["process"] % 2:
        # Which session was loaded first shows in the clock: half of the processes load the
        # model again, after base.
        model = work.load(job["model"])
    work.check_providers(model)
    if base.providers != model.providers:
        work.reasons.append(
            f"the base ran on {', '.join(base.providers)}, "
            f"this model on {', '.join(model.providers)}"
        )
    arms, references = _bind((base, model), feeds, work)
    try:
        timed = _time(work, arms, references)
    except (ModelFailedError, MemoryError):
        raise
    except Exception as error:
        # A runtime's own errors; outside the timed phase it wraps them itself.
        raise ModelFailedError(
            f"{work.runtime.title} failed inside the timed phase: {one_line(str(error), 300)}"
        ) from error
    if job["outputs"]:
        work.write_outputs(model)
    return {
        "problem": None,
        "cold": cold,
        "evidence": {
            "providers": model.providers,
            "cpu": job["cpu"],
            "rotated": len(feeds),
            "batch": protocol["batch"],
            "peak_memory_reset": reset,
            **timed["evidence"],
        },
        "log_ratio": timed["log_ratio"],
        "invalid_reasons": work.reasons,
    }


def _load_cold(work: Work, feeds: List[Feed]) -> Tuple[Model, Dict[str, float], bool]:
    """The model, loaded alone in this process, with what that took."""
    reset = reset_peak_memory()
    before = memory_mib("VmRSS")
    work.phase("loading")
    start = time.perf_counter_ns()
    model = work.load(work.job["model"])
    loaded = time.perf_counter_ns()
    work.check_batch(model)
    work.phase("running its first inference")
    inferring = time.perf_counter_ns()
    first = model.infer(feeds[0])
    inferred = time.perf_counter_ns()
    check_answer(first, len(feeds[0][0]), work.job["answers"], model.outputs[0].name)
    cold = {
        "load_ms": (loaded - start) / 1e6,
        "first_inference_ms": (inferred - inferring) / 1e6,
        "peak_memory_mib": memory_mib("VmHWM"),
        "before_load_mib": before,
    }
    return model, cold, reset


def _bind(
    models: Tuple[Model, Model], feeds: List[Feed], work: Work
) -> Tuple[Tuple[Arm, Arm], List[List[Answer]]]:
    arms, references = [], []
    for model in models:
        answers = [model.infer(feed) for feed in feeds]
        check_answer(answers[0], len(feeds[0][0]), work.job["answers"], model.outputs[0].name)
        references.append(answers)
        arms.append(Arm(model.bind(feeds[0], answers[0]), feeds))
    return (arms[0], arms[1]), references


def _time(work: Work, arms: Tuple[Arm, Arm], references: List[List[Answer]]) -> Dict[str, Any]:
    job, protocol = work.job, work.protocol
    settling = settling_of(protocol)
    work.phase("warming up")
    in_turn = arms[::-1] if job["process"] % 2 else arms
    warm_ups = [warm_up(arm, settling) for arm in in_turn]
    resolution = timer_resolution_ns()
    # One number for both arms: a sample of more calls meets a warmer cache.
    inner = job["inner"] or max(
        calls_per_sample(w.call_ns, resolution, protocol["timer_steps"]) for w in warm_ups
    )
    sample_s = inner * max(w.call_ns for w in warm_ups) / 1e9
    pairs = job["pairs"] or pairs_that_fit(
        protocol["pairs"], protocol["least_pairs"], protocol["block_s"], sample_s
    )
    recheck = Recheck(arms, references)
    growth = _Growth(halfway=pairs)

    def after(block: Block) -> None:
        if protocol["recheck"]:
            recheck.after(block)
        growth.after(block, inner)

    work.phase("timing")
    gc.collect()
    gc.freeze()
    gc.disable()
    blocks = time_pairs(
        arms,
        inner=inner,
        pairs=pairs,
        block_s=protocol["block_s"],
        process=job["process"],
        after=after,
        counters=lambda: counters(Path("/"), job["cpu"]),
        locked=job["locked"],
    )
    # A mean over `inner` calls has no tail: the quantiles need queries timed one by one.
    single_ns = time_block(arms[1], 1, protocol["single_s"])[1]
    same = None
    if protocol["same_input"] and len(arms[1].feeds) > 1:
        same = same_input_ratio(arms[1], 1, protocol["block_s"], _SAME_INPUT_PAIRS)
    device = _device_time(arms[1], inner, protocol["block_s"])
    gc.enable()
    if recheck.problem is not None:
        work.reasons.append(f"{recheck.problem} (by {recheck.largest:.3g})")
    leak = growth.bytes_per_call()
    if leak is not None:
        work.reasons.append(
            f"its process grew by {growth.mib:.0f} MiB over {growth.calls} calls while it was "
            f"timed ({leak:.0f} bytes a call): it leaks memory"
        )
    throttled = sum(block.cause == THROTTLED for block in blocks)
    if throttled:
        work.reasons.append(
            f"the device slowed itself down in {throttled} of {len(blocks)} blocks of a process"
        )
    _save_samples(work, blocks, inner, single_ns)
    return {
        "log_ratio": log_ratio(blocks),
        "evidence": {
            **_warm_up_evidence(warm_ups),
            "rechecked": recheck.count,
            "recheck_max_abs_difference": recheck.largest,
            "timer_resolution_ns": resolution,
            "inner": inner,
            "pairs": pairs,
            "same_input_ratio": same,
            "transfers": arms[1].query.transfers,
            "device_resident_ms": device,
            "growth_mib": round(growth.mib, 3),
            "hash_randomised": bool(sys.flags.hash_randomization),
            "addresses_randomised": addresses_randomised(),
        },
    }


def _warm_up_evidence(warm_ups: List[WarmUp]) -> Dict[str, Any]:
    return {
        "steady": all(w.steady for w in warm_ups),
        "warmup_s": round(max(w.seconds for w in warm_ups), 6),
    }


def _device_time(arm: Arm, inner: int, block_s: float) -> Optional[float]:
    """The median time of a query whose data already lies on the device, in ms.

    None where host and device are one, so that there is nothing to copy.
    """
    if arm.query.resident is None:
        return None
    from statistics import median

    host = arm.query
    arm.query = arm.query.resident
    try:
        samples = time_block(arm, inner, block_s)[1]
    finally:
        arm.query = host
    return median(samples) / inner / 1e6


class _Growth:
    """How much the process grew in the second half of the timed phase.

    The first half may still fill caches and arenas.
    """

    def __init__(self, halfway: int) -> None:
        self._halfway = halfway
        self._seen = 0
        self._start_mib = 0.0
        self._kept_bytes = 0
        self.mib = 0.0
        self.calls = 0

    def after(self, block: Block, inner: int) -> None:
        """One of the 2 × `halfway` blocks is over."""
        self._seen += 1
        if self._seen == self._halfway:
            self._start_mib = memory_mib("VmRSS")
        elif self._seen > self._halfway:
            self.calls += len(block.sample_ns) * inner
            self._kept_bytes += block.sample_ns.itemsize * len(block.sample_ns)
            if self._seen == 2 * self._halfway:
                own = self._kept_bytes / 2**20
                self.mib = max(0.0, memory_mib("VmRSS") - self._start_mib - own)

    def bytes_per_call(self) -> Optional[float]:
        """The growth over the calls, or None where it is no leak."""
        each = self.mib * 2**20 / max(self.calls, 1)
        return each if self.mib > _LEAK_MIB and each > _LEAK_BYTES_PER_CALL else None


def _save_samples(work: Work, blocks: List[Block], inner: int, single_ns: Any) -> None:
    import numpy as np

    process = work.job["process"]
    counts = [len(b.sample_ns) for b in blocks]
    raw_ns = np.concatenate([np.frombuffer(b.sample_ns, dtype=np.int64) for b in blocks])
    with (work.out / "samples.npz").open("wb") as file:
        np.savez(
            file,
            block_process=np.full(len(blocks), process, dtype=np.int32),
            block_phase=np.full(len(blocks), work.job["phase"], dtype=np.int32),
            block_pair=np.array([b.pair for b in blocks], dtype=np.int32),
            block_arm=np.array([b.arm for b in blocks], dtype=np.int32),
            block_cause=np.array([b.cause for b in blocks], dtype=np.int32),
            block_start_ns=np.array([b.start_ns for b in blocks], dtype=np.int64),
            sample_block=np.repeat(np.arange(len(blocks), dtype=np.int32), counts),
            sample_ns=raw_ns.astype(np.float64) / inner,
            inner=np.array([inner, inner], dtype=np.int64),
            single_process=np.full(len(single_ns), process, dtype=np.int32),
            single_ns=np.frombuffer(single_ns, dtype=np.int64),
        )
