"""The scenario job: in one fresh process, base and the model one after the other, under one load.

Which of the two comes first alternates with the process.
"""

from __future__ import annotations

import gc
import time
import zlib
from array import array
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ..answers import Recheck, check_answer
from ..errors import ModelFailedError, one_line
from ..measure import Arm, Block, settling_of, warm_up
from .loops import Enough, Timeline, asker, closed_loop, offline, poisson_arrivals, server

if TYPE_CHECKING:
    from pathlib import Path

    from ..measure import Clock
    from ..runtimes.base import Answer, Feed
    from ..worker import Work
    from .loops import Sleep

# A model's closed-loop capacity is counted over so much, and over no less queries.
_CAPACITY_S = 0.5
_CAPACITY_QUERIES = 50
_SEED = zlib.crc32(b"scenarios")


class _Side:
    """One of the two models under load: its arm, the answers expected of it, its warm-up."""

    def __init__(self, arm: Arm, references: List[Answer]) -> None:
        self.arm = arm
        self.references = references
        self.steady = False
        self.call_ns = 0.0


def run_scenario(
    work: Work, clock: Clock = time.perf_counter_ns, sleep: Sleep = time.sleep
) -> Dict[str, Any]:
    """Do `work.job`'s scenario on base and on the model; gives what raw.json holds.

    `work.job["scenario"]` is one entry of the manifest's `protocol.scenarios`. Leaves scenario.npz,
    and LoadGen's logs in the folders loadgen/base and loadgen/model. Raises ModelFailedError.
    """
    job, spec = work.job, work.job["scenario"]
    if spec["driver"] == "loadgen":
        from .loadgen import import_loadgen

        import_loadgen()
    feeds = work.feeds(spec["batch"])
    sides = [_load(work, job[which], feeds) for which in ("base", "model")]
    order = (1, 0) if job["process"] % 2 else (0, 1)
    protocol = work.protocol
    settling = settling_of(protocol)
    work.phase("warming up")
    for index in order:
        side = sides[index]
        warmed = warm_up(side.arm, settling, clock)
        side.steady, side.call_ns = warmed.steady, warmed.call_ns

    recheck = Recheck((sides[0].arm, sides[1].arm), [side.references for side in sides])
    timelines: Dict[int, Timeline] = {}
    runs = []
    gc.collect()
    gc.freeze()
    gc.disable()
    for index in order:
        side = sides[index]
        work.phase(f"running {spec['label']}")
        qps = _offered(spec, side, clock)
        try:
            timeline, run = _one(work, side, index, qps, clock=clock, sleep=sleep)
            last = side.arm.last
            if spec["driver"] == "loadgen" and protocol["recheck"]:
                # LoadGen mixes its own batches, so there is none to compare the last answer with.
                last = 0
                side.arm.query.write(feeds[last])
                side.arm.query.run()
        except (ModelFailedError, MemoryError):
            raise
        except Exception as error:
            raise ModelFailedError(
                f"{work.runtime.title} failed under load: {one_line(str(error), 300)}"
            ) from error
        timelines[index] = timeline
        runs.append({"process": job["process"], "arm": index, "offered_qps": qps, **run})
        if protocol["recheck"]:
            recheck.after(Block(0, index, 0, array("q"), last))
    gc.enable()
    reasons = list(work.reasons)
    if recheck.problem is not None:
        reasons.append(f"{recheck.problem} (by {recheck.largest:.3g})")
    save_timelines(work.out / "scenario.npz", job["process"], timelines)
    return {
        "problem": None,
        "runs": sorted(runs, key=lambda run: int(run["arm"])),
        "invalid_reasons": reasons,
    }


def _load(work: Work, path: str, feeds: List[Feed]) -> _Side:
    batch = work.job["scenario"]["batch"]
    work.phase("loading")
    model = work.load(path)
    if model.fixed_batch not in (None, batch):
        raise ModelFailedError(
            f"its batch is fixed at {model.fixed_batch}, and the scenario asks for batch {batch}: "
            f"export it with a free batch dimension, or set the scenario's batch to "
            f"{model.fixed_batch}"
        )
    work.check_providers(model)
    answers = [model.infer(feed) for feed in feeds]
    check_answer(answers[0], batch, work.job["answers"], model.outputs[0].name)
    return _Side(Arm(model.bind(feeds[0], answers[0]), feeds), answers)


def _one(
    work: Work, side: _Side, arm: int, qps: Optional[float], *, clock: Clock, sleep: Sleep
) -> Tuple[Timeline, Dict[str, Any]]:
    """One model under the scenario: its times, and what else there is to say."""
    spec, process = work.job["scenario"], work.job["process"]
    # LoadGen keeps a record of every example of these.
    grouped = {"multi-stream": spec["samples"] or 1, "offline": spec["batch"]}
    noted = grouped.get(spec["scenario"], 1) if spec["driver"] == "loadgen" else 1
    enough = Enough(spec["duration_s"], spec["min_queries"], noted)
    seed = (work.job["seed"], _SEED, zlib.crc32(spec["label"].encode()), process)
    said = None
    planned = None
    if spec["driver"] == "loadgen":
        folder = work.out / "loadgen" / ("base", "model")[arm]
        timeline, said = _by_loadgen(spec, side, qps, enough, seed=seed, folder=folder, clock=clock)
    elif spec["scenario"] == "server":
        assert qps is not None  # noqa: S101 - `_offered` gives one for every server
        due = poisson_arrivals(qps, enough, seed)
        planned = len(due)
        timeline = server(asker(side.arm), due, clock, sleep, give_up_ns=due[-1])
    elif spec["scenario"] == "offline":
        timeline = offline(asker(side.arm), enough, clock)
    else:
        calls = max(1, (spec["samples"] or 1) // spec["batch"])
        timeline = closed_loop(asker(side.arm, calls), enough, clock)
    return timeline, {
        "planned": planned,
        "ended_at": enough.ended_at(timeline, qps),
        "steady": side.steady,
        "call_ns": side.call_ns,
        "loadgen": said,
    }


def _by_loadgen(
    spec: Dict[str, Any],
    side: _Side,
    qps: Optional[float],
    enough: Enough,
    *,
    seed: Tuple[int, ...],
    folder: Path,
    clock: Clock,
) -> Tuple[Timeline, Dict[str, Any]]:
    import numpy as np

    from .loadgen import Load, drive

    folder.mkdir(parents=True)
    load = Load(
        spec["scenario"],
        enough=enough,
        call_ns=side.call_ns,
        batch=spec["batch"],
        samples=spec["samples"] or 1,
        qps=qps or 0.0,
        target_latency_ms=spec["target_latency_ms"],
    )
    first, second, third = np.random.default_rng(list(seed)).integers(2**63, size=3).tolist()
    return drive(
        side.arm.query,
        side.arm.feeds,
        load,
        seeds=(first, second, third),
        out=folder,
        clock=clock,
    )


def _offered(spec: Dict[str, Any], side: _Side, clock: Clock) -> Optional[float]:
    """The queries a second that arrive.

    A share of the capacity is that of this process: an estimate that all processes shared would
    be an error that no interval over processes sees.
    """
    if spec["scenario"] != "server":
        return None
    if spec["qps"] is not None:
        return float(spec["qps"])
    # Not one over the median: what interrupts the server takes from what it can serve.
    enough = Enough(min(_CAPACITY_S, spec["duration_s"]), _CAPACITY_QUERIES)
    timeline = closed_loop(asker(side.arm), enough, clock)
    elapsed = timeline.end_ns[-1] - timeline.start_ns[0]
    return float(spec["load"]) * 1e9 * len(timeline) / elapsed


def save_timelines(path: Path, process: int, timelines: Dict[int, Timeline]) -> None:
    """Write the queries of one process, of base (0) and of the model (1), as one .npz."""
    import numpy as np

    arms = sorted(timelines)
    counts = [len(timelines[arm]) for arm in arms]

    def joined(field: str) -> Any:
        parts = [np.frombuffer(getattr(timelines[arm], field), dtype=np.int64) for arm in arms]
        return np.concatenate(parts)

    with path.open("wb") as file:
        np.savez(
            file,
            process=np.full(sum(counts), process, dtype=np.int32),
            arm=np.repeat(np.array(arms, dtype=np.int32), counts),
            scheduled_ns=joined("scheduled_ns"),
            start_ns=joined("start_ns"),
            end_ns=joined("end_ns"),
        )
