"""Runs a bundle's plan: describes the device, then measures one model after the other."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from .bundle import Bundle, open_bundle
from .device import allowed_cpus, device_record, pick_cpus, throttle_events
from .errors import AgentError, ModelFailedError
from .evidence import resolve_providers
from .results import SCHEMA, Results, merge_samples, result_key, write_json
from .runtimes import RUNTIMES
from .supervise import agent_command, describe_runtime, run_worker

if TYPE_CHECKING:
    Emit = Callable[[dict[str, Any]], None]

# Starting Python with numpy and a runtime, before one has been timed.
_START_GUESS_S = 0.4


def probe(runtime: str, root: Path = Path("/"), command: list[str] | None = None) -> dict[str, Any]:
    """The content of device.json; raises AgentError where the runtime is missing."""
    if runtime not in RUNTIMES:
        raise AgentError(
            "runtime", f"there is no runtime '{runtime}'; there is {', '.join(sorted(RUNTIMES))}"
        )
    return device_record(root, describe_runtime(command or agent_command(), runtime))


def run_plan(
    source: Path,
    out: Path,
    emit: Emit,
    *,
    pace: Callable[[], None] | None = None,
    listener_fd: int | None = None,
    command: list[str] | None = None,
) -> None:
    """Measure all models of the bundle at `source` into the folder `out`.

    `pace` is called after each finished model, while nothing is timed. `listener_fd` is watched
    for the loss of who listens. `command` starts a worker. Raises AgentError.
    """
    try:
        results = Results(out)
        try:
            _run(
                source,
                results,
                emit,
                pace=pace,
                listener_fd=listener_fd,
                command=command or agent_command(),
            )
        finally:
            results.close()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AgentError("storage", f"the results cannot be written: {error}") from error


def _run(
    source: Path,
    results: Results,
    emit: Emit,
    *,
    pace: Callable[[], None] | None,
    listener_fd: int | None,
    command: list[str],
) -> None:
    unpacked = results.scratch / "bundle"
    unpacked.mkdir()
    bundle = open_bundle(source, unpacked)
    asked = bundle.manifest["runtime"]
    device = probe(asked["name"], command=command)
    runtime = RUNTIMES[asked["name"]]
    offered = device["identity"]["providers"]
    listed = asked.get("providers", "auto")
    providers = resolve_providers(listed, offered, runtime, sys.executable)
    cpus = _cpus(bundle.manifest)
    write_json(results.folder / "device.json", device)
    plan = {**asked, "providers": providers, "auto": listed == "auto"}

    emit({"event": "start", "models": [m["name"] for m in bundle.models]})
    clock = _Remaining(bundle)
    for index, model in enumerate(bundle.models):
        name = model["name"]
        emit({"event": "model", "name": name, "index": index, "of": len(bundle.models)})
        key = result_key(bundle.manifest, model, bundle.base, device["fingerprint"])
        result = results.finished(model, key)
        reused = result is not None
        if result is None:
            one = _OneModel(
                bundle,
                model,
                results,
                plan=plan,
                cpus=cpus,
                command=command,
                listener_fd=listener_fd,
            )
            result = one.measure(key, emit, clock)
        else:
            clock.skip(model)
        emit(
            {
                "event": "done",
                "name": name,
                "status": result["status"],
                "problem": result["problem"],
                "seconds": result["seconds"],
                "reused": reused,
            }
        )
        if pace is not None:
            pace()
    emit({"event": "end"})


class _OneModel:
    """All processes of one model, and what they leave together."""

    def __init__(
        self,
        bundle: Bundle,
        model: dict[str, Any],
        results: Results,
        *,
        plan: dict[str, Any],
        cpus: list[int],
        command: list[str],
        listener_fd: int | None,
    ) -> None:
        self._bundle = bundle
        self._model = model
        self._plan = plan
        self._cpus = cpus
        self._results = results
        self._command = command
        self._listener_fd = listener_fd

    def measure(self, key: str, emit: Emit, clock: _Remaining) -> dict[str, Any]:
        """Measure it, write its results, and give result.json."""
        name, protocol = self._model["name"], self._bundle.manifest["protocol"]
        work = self._results.begin(name)
        start = time.monotonic()
        throttled = throttle_events(Path("/"))
        processes = clock.processes(self._model)
        raws: list[dict[str, Any]] = []
        problem = None
        try:
            for process in range(processes):
                emit(
                    {
                        "event": "process",
                        "name": name,
                        "process": process,
                        "of": processes,
                        "seconds_left": clock.seconds_left(),
                    }
                )
                inner = raws[0]["evidence"].get("inner") if raws else None
                started = time.monotonic()
                job = self._job(work, process, inner)
                raws.append(
                    run_worker(self._command, job, protocol["timeout_s"], self._listener_fd)
                )
                clock.took(self._model, time.monotonic() - started)
        except ModelFailedError as error:
            problem = str(error)
            clock.abandon(processes - len(raws), self._model)
        if problem is None:
            os.replace(work / "0" / "outputs.npy", work / "outputs.npy")
            if self._model["timed"]:
                files = [work / str(p) / "samples.npz" for p in range(processes)]
                merge_samples(files, work / "samples.npz")
        reasons = list(dict.fromkeys(r for raw in raws for r in raw["invalid_reasons"]))
        evidence = _merged_evidence([raw["evidence"] for raw in raws])
        slowed = throttle_events(Path("/")) - throttled
        evidence["throttle_events"] = slowed
        if slowed > 0:
            reasons.append(f"the device slowed itself down {slowed} times meanwhile")
        result = {
            "schema": SCHEMA,
            "name": name,
            "key": key,
            "status": "measured" if problem is None else "failed",
            "problem": problem,
            "valid": problem is None and not reasons,
            "invalid_reasons": reasons,
            "cold": [raw["cold"] for raw in raws if raw["cold"]],
            "evidence": evidence,
            "seconds": round(time.monotonic() - start, 3),
        }
        self._results.finish(name, work, result)
        return result

    def _job(self, work: Path, process: int, inner: int | None) -> dict[str, Any]:
        manifest = self._bundle.manifest
        out = work / str(process)
        out.mkdir()
        return {
            "model": str(self._bundle.path(self._model["file"])),
            "base": str(self._bundle.path(self._bundle.base["file"])),
            "inputs": str(self._bundle.path(manifest["inputs"]["file"])),
            "runtime": self._plan,
            "protocol": manifest["protocol"],
            "seed": manifest["seed"],
            "timed": self._model["timed"],
            "outputs": process == 0,
            "process": process,
            "inner": inner,
            "cpu": self._cpus,
            "out": str(out.resolve()),
        }


class _Remaining:
    """How long the rest will take, from the protocol at first, then from what was seen."""

    def __init__(self, bundle: Bundle) -> None:
        self._protocol: dict[str, Any] = bundle.manifest["protocol"]
        self._left = {True: 0, False: 0}
        for model in bundle.models:
            self._left[model["timed"]] += self.processes(model)
        blocks_s = 2 * self._protocol["pairs"] * self._protocol["block_s"]
        timed_s = _START_GUESS_S + 2 * self._protocol["warmup_s"] + blocks_s
        self._each_s: dict[bool, float] = {True: timed_s, False: _START_GUESS_S}

    def processes(self, model: dict[str, Any]) -> int:
        """How many processes a model gets."""
        return int(self._protocol["processes"]) if model["timed"] else 1

    def took(self, model: dict[str, Any], seconds: float) -> None:
        """One process is over."""
        self._left[model["timed"]] -= 1
        self._each_s[model["timed"]] = seconds

    def skip(self, model: dict[str, Any]) -> None:
        """A model's result was already there."""
        self._left[model["timed"]] -= self.processes(model)

    def abandon(self, processes: int, model: dict[str, Any]) -> None:
        """A model failed; its other processes are not started."""
        self._left[model["timed"]] -= processes

    def seconds_left(self) -> float:
        """An estimate in seconds."""
        seconds = sum(left * self._each_s[timed] for timed, left in self._left.items())
        return round(seconds, 1)


def _merged_evidence(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One for all processes: the worst of each, and the first where they cannot differ."""
    if not parts:
        return {}
    merged = dict(parts[0])
    if "steady" in merged:
        merged["steady"] = all(p["steady"] for p in parts)
        merged["peak_memory_reset"] = all(p["peak_memory_reset"] for p in parts)
        merged["rechecked"] = sum(p["rechecked"] for p in parts)
        for key in ("warmup_s", "recheck_max_abs_difference", "timer_resolution_ns"):
            merged[key] = max(p[key] for p in parts)
    return merged


def _cpus(manifest: dict[str, Any]) -> list[int]:
    asked: list[int] | None = manifest["protocol"].get("cpu")
    if asked is None:
        return pick_cpus(Path("/"), manifest["runtime"]["threads"])
    missing = sorted(set(asked) - set(allowed_cpus()))
    if missing:
        raise AgentError(
            "bundle",
            f"protocol.cpu names processor {', '.join(str(c) for c in missing)}; "
            f"this device offers {', '.join(str(c) for c in allowed_cpus())}",
        )
    return asked
