"""One model of a plan: its fresh processes, when there are enough of them, and what they leave."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from .device import Watch, pick_cpus
from .energy import EnergyMeter, energy_per_query
from .errors import ModelFailedError
from .interval import half_width, level_of, median_interval
from .results import NOT_STEADY, RESTLESS_SHARE, SCHEMA, merge_samples
from .scenarios.jobs import call_seconds, measure_scenarios, scenario_seconds
from .supervise import run_worker
from .worker import ENERGY_BEGINS, ENERGY_ENDS

if TYPE_CHECKING:
    from .bundle import Bundle
    from .remaining import Remaining
    from .results import Results

    Emit = Callable[[Dict[str, Any]], None]

# MLPerf's TEST04: the same input again may not be answered faster than by a tenth.
_REMEMBERED = 0.9


class Plan:
    """What all models of a bundle share.

    `runtime` holds the resolved `providers` beside the manifest's options; `locked` tells whether
    the device's clocks are, so that a change of theirs is an event; `accelerated`, whether anything
    but the processor was asked for, so that its cards matter.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: Dict[str, Any],
        cpus: List[int],
        command: List[str],
        listener_fd: Optional[int],
        locked: bool,
        accelerated: bool,
    ) -> None:
        self.bundle = bundle
        self.runtime = runtime
        self.cpus = cpus
        self.command = command
        self.listener_fd = listener_fd
        self.locked = locked
        self.accelerated = accelerated


class OneModel:
    """All processes of one model."""

    def __init__(self, plan: Plan, model: Dict[str, Any], results: Results) -> None:
        self._plan = plan
        self._model = model
        self._results = results
        self._protocol: Dict[str, Any] = plan.bundle.manifest["protocol"]
        self._raws: List[Dict[str, Any]] = []
        self._evidence: Dict[str, Any] = {}
        self._reasons: List[str] = []

    def measure(self, key: str, emit: Emit, clock: Remaining) -> Dict[str, Any]:
        """Measure it, write its results, and give result.json."""
        name = self._model["name"]
        work = self._results.begin(name)
        start = time.monotonic()
        problem: Optional[str] = None
        scenarios: List[Dict[str, Any]] = []
        watch = self._watch()
        try:
            self._all_processes(work, emit, clock)
        except ModelFailedError as error:
            problem = self._lost(str(error))
            clock.skip(self._model, len(self._raws))
        self._evidence["watch"], happened = watch.stop()
        if problem is None and self._model["timed"]:
            scenarios = self._beyond_time(work, emit, clock)
        if problem is None:
            os.replace(work / "0" / "outputs.npy", work / "outputs.npy")
            if self._model["timed"]:
                files = [work / str(p) / "samples.npz" for p in range(len(self._raws))]
                merge_samples(files, work / "samples.npz")
        reasons = [r for raw in self._raws for r in raw["invalid_reasons"]]
        reasons = list(dict.fromkeys([*reasons, *self._reasons, *happened]))
        evidence = _merged([raw["evidence"] for raw in self._raws])
        if evidence.get("steady") is False:
            reasons.append(NOT_STEADY)
        result = {
            "schema": SCHEMA,
            "name": name,
            "key": key,
            "status": "measured" if problem is None else "failed",
            "problem": problem,
            "valid": problem is None and not reasons,
            "invalid_reasons": reasons,
            "cold": [raw["cold"] for raw in self._raws if raw["cold"]],
            "evidence": {
                **evidence,
                **self._evidence,
            },
            **({"scenarios": scenarios} if scenarios else {}),
            "seconds": round(time.monotonic() - start, 3),
        }
        self._results.finish(name, work, result)
        return result

    def _watch(self) -> Watch:
        watch = Watch(Path("/"), self._plan.cpus, cards=self._plan.accelerated)
        watch.start()
        return watch

    def _lost(self, problem: str) -> Optional[str]:
        """What a process that failed costs: everything, unless there are enough others.

        What they measured is kept then, and is not valid.
        """
        first = [raw for raw in self._raws if raw["phase"] == 0]
        if not self._model["timed"] or len(first) < self._protocol["processes"]:
            return problem
        self._reasons.append(f"process {len(self._raws) + 1} {problem}")
        return None

    def _all_processes(self, work: Path, emit: Emit, clock: Remaining) -> None:
        if not self._model["timed"]:
            self._process(work, "outputs", 0, emit, clock)
            return
        self._evidence["confirms"] = self._protocol["confirm"]
        self._evidence["stopped"] = self._phase(work, 0, emit, clock)
        logs = self._log_ratios(0)
        if not self._protocol["confirm"] or not self._misses(logs):
            return
        # What is about to fail gets a second look, in processes of its own.
        self._evidence["confirmation"] = {"stopped": self._phase(work, 1, emit, clock)}
        self._evidence["confirmation"]["missed_again"] = self._misses(self._log_ratios(1))

    def _phase(self, work: Path, phase: int, emit: Emit, clock: Remaining) -> str:
        """Fresh processes until there are enough; says why they are."""
        protocol = self._protocol
        started = time.monotonic()
        for count in range(protocol["max_processes"]):
            logs = self._log_ratios(phase)
            wanted, cap = protocol.get("half_width"), protocol.get("time_cap_s")
            if count >= protocol["processes"]:
                if wanted is not None and half_width(logs) <= wanted:
                    return "precise enough"
                elapsed = time.monotonic() - started
                if cap is not None and elapsed * (count + 1) / count > cap:
                    return "the time cap"
            self._process(work, "time", phase, emit, clock)
        wanted = protocol.get("half_width")
        if wanted is not None and half_width(self._log_ratios(phase)) <= wanted:
            return "precise enough"
        return "the most processes" if wanted is not None else "all processes"

    def _process(self, work: Path, kind: str, phase: int, emit: Emit, clock: Remaining) -> None:
        name, index = self._model["name"], len(self._raws)
        of = self._protocol["processes"] if kind == "time" else 1
        emit(
            {
                "event": "process",
                "name": name,
                "process": index,
                "of": max(of, index + 1),
                "seconds_left": clock.seconds_left(),
            }
        )
        started = time.monotonic()
        raw = self._worker(work / str(index), kind, index, phase)
        self._raws.append({**raw, "phase": phase})
        clock.took(self._model, time.monotonic() - started, index)

    def _log_ratios(self, phase: int) -> List[float]:
        return [
            raw["log_ratio"]
            for raw in self._raws
            if raw["phase"] == phase and raw.get("log_ratio") is not None
        ]

    def _misses(self, logs: List[float]) -> bool:
        """Whether the whole interval of the latency ratio lies beyond the model's limit."""
        limit = self._model.get("limits", {}).get("latency_ratio", {})
        found = median_interval(logs, level_of(self._protocol))
        if found is None:
            return False
        least, most = limit.get("min"), limit.get("max")
        return (most is not None and math.exp(found.low) > most) or (
            least is not None and math.exp(found.high) < least
        )

    def _beyond_time(self, work: Path, emit: Emit, clock: Remaining) -> List[Dict[str, Any]]:
        """What is looked at in sessions of its own, so that a crash there costs nothing.

        Gives the scenarios. What happens to the device meanwhile is theirs and the energy's.
        """
        same = [
            raw["evidence"]["same_input_ratio"]
            for raw in self._raws
            if raw["evidence"]["same_input_ratio"] is not None
        ]
        interval = median_interval(same)
        if interval is not None and interval.high < _REMEMBERED:
            self._reasons.append(
                f"the same input again is answered in {interval.high:.0%} of the time of a new "
                "one: answers are remembered"
            )
        if self._protocol["inspect"]:
            self._evidence["inspection"] = self._aside(work, "inspect", self._inspection)
        if self._protocol["energy_s"] > 0:
            watch = self._watch()
            energy = self._aside(work, "energy", self._energy)
            self._evidence["energy"] = _spoilt(energy, watch.stop()[1])
        if not self._protocol["scenarios"]:
            return []
        watch = self._watch()
        scenarios = self._scenarios(work, emit, clock)
        self._evidence["watch_scenarios"], happened = watch.stop()
        for entry in scenarios:
            entry["invalid_reasons"] = list(dict.fromkeys([*entry["invalid_reasons"], *happened]))
        return scenarios

    def _aside(
        self, work: Path, kind: str, do: Callable[[Path, str], Optional[Dict[str, Any]]]
    ) -> Optional[Dict[str, Any]]:
        try:
            return do(work / kind, kind)
        except ModelFailedError as error:
            return {"problem": str(error)}

    def _inspection(self, out: Path, kind: str) -> Optional[Dict[str, Any]]:
        raw = self._worker(out, kind, 0, 0)
        self._reasons += raw["invalid_reasons"]
        found: Optional[Dict[str, Any]] = raw["inspection"]
        return found

    def _energy(self, out: Path, kind: str) -> Optional[Dict[str, Any]]:
        """The energy of a query over a window, that of the idle device subtracted."""
        meter = EnergyMeter(Path("/"), cards=self._plan.accelerated)
        if not meter.sensors:
            return None
        meter.start()
        time.sleep(self._protocol["idle_s"])
        idle = meter.stop()
        run = None

        def on_phase(phase: str) -> None:
            nonlocal run
            if phase == ENERGY_BEGINS:
                meter.start()
            elif phase == ENERGY_ENDS:
                run = meter.stop()

        raw = self._worker(out, kind, 0, 0, on_phase)
        if run is None or idle is None:
            return None
        return {
            "run": run,
            "idle": idle,
            "queries": raw["queries"],
            "energy_mj": energy_per_query(run, idle, raw["queries"]),
        }

    def _scenarios(self, work: Path, emit: Emit, clock: Remaining) -> List[Dict[str, Any]]:
        """Each scenario of the protocol; one that fails leaves the others."""
        processes, plan = self._protocol["processes"], self._plan

        def one(out: Path, changes: Dict[str, Any]) -> Dict[str, Any]:
            spec, process = changes["scenario"], changes["process"]
            emit(
                {
                    "event": "process",
                    "name": self._model["name"],
                    "process": process,
                    "of": processes,
                    "seconds_left": clock.seconds_left(),
                }
            )
            if spec["threads"] is not None:
                changes["runtime"] = {**plan.runtime, "threads": spec["threads"]}
                if self._protocol.get("cpu") is None:
                    changes["cpu"] = pick_cpus(Path("/"), spec["threads"])
            raw = self._worker(out, "scenario", process, 0, changes=changes)
            clock.took_scenario(spec)
            return raw

        return measure_scenarios(work, self._protocol["scenarios"], processes, one)

    def _worker(
        self,
        out: Path,
        kind: str,
        process: int,
        phase: int,
        on_phase: Optional[Callable[[str], None]] = None,
        *,
        changes: Optional[Dict[str, Any]] = None,
    ) -> Dict[str, Any]:
        plan, bundle = self._plan, self._plan.bundle
        out.mkdir()
        first = self._raws[0]["evidence"] if self._raws else {}
        job = {
            "kind": kind,
            "model": str(bundle.path(self._model["file"])),
            "base": str(bundle.path(bundle.base["file"])),
            "inputs": [str(bundle.path(entry["file"])) for entry in bundle.manifest["inputs"]],
            "answers": bundle.manifest["answers"],
            "runtime": plan.runtime,
            "protocol": self._protocol,
            "seed": bundle.manifest["seed"],
            "outputs": process == 0,
            "process": process,
            "phase": phase,
            # What the first process found, for all of them.
            "inner": first.get("inner"),
            "pairs": first.get("pairs"),
            "locked": plan.locked,
            "cpu": plan.cpus,
            "out": str(out.resolve()),
            **(changes or {}),
        }
        limit = self._protocol["timeout_s"]
        if kind == "energy":
            limit += self._protocol["energy_s"]
        elif kind == "scenario":
            call_s = call_seconds(self._raws, job, plan.runtime["threads"])
            limit += scenario_seconds(job["scenario"], call_s)
        return run_worker(plan.command, job, limit, plan.listener_fd, on_phase)


def _spoilt(energy: Optional[Dict[str, Any]], happened: List[str]) -> Optional[Dict[str, Any]]:
    """The energy, no measurement where something happened to the device in its windows."""
    if energy is None or not happened:
        return energy
    return {**energy, "problem": "; ".join(happened), "energy_mj": None}


def _merged(parts: List[Dict[str, Any]]) -> Dict[str, Any]:
    """One for all processes: the worst of each, and the first where they cannot differ."""
    if not parts:
        return {}
    merged = dict(parts[0])
    if "steady" in merged:
        for key in ("peak_memory_reset", "hash_randomised", "addresses_randomised"):
            merged[key] = all(p[key] for p in parts)
        restless = sum(not p["steady"] for p in parts)
        merged["unsteady_processes"] = restless
        merged["steady"] = restless <= RESTLESS_SHARE * len(parts)
        merged["rechecked"] = sum(p["rechecked"] for p in parts)
        for key in (
            "warmup_s",
            "recheck_max_abs_difference",
            "timer_resolution_ns",
            "growth_mib",
        ):
            merged[key] = max(p[key] for p in parts)
        for key in ("same_input_ratio", "device_resident_ms"):
            known = sorted(p[key] for p in parts if p[key] is not None)
            merged[key] = known[len(known) // 2] if known else None
    return merged
