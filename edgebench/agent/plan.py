"""Runs a bundle's plan: describes the device, then measures one model after the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from .bundle import open_bundle
from .clocks import locked_clocks
from .device import allowed_cpus, device_record, pick_cpus
from .errors import AgentError
from .evidence import resolve_providers
from .one_model import OneModel, Plan
from .remaining import Remaining
from .results import Results, result_key, write_json
from .runtimes import RUNTIMES
from .supervise import agent_command, describe_runtime

if TYPE_CHECKING:
    Emit = Callable[[Dict[str, Any]], None]


def probe(
    runtime: str, root: Path = Path("/"), command: Optional[List[str]] = None
) -> Dict[str, Any]:
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
    pace: Optional[Callable[[], None]] = None,
    listener_fd: Optional[int] = None,
    command: Optional[List[str]] = None,
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
    pace: Optional[Callable[[], None]],
    listener_fd: Optional[int],
    command: List[str],
) -> None:
    unpacked = results.scratch / "bundle"
    unpacked.mkdir()
    bundle = open_bundle(source, unpacked)
    asked = bundle.manifest["runtime"]
    device = probe(asked["name"], command=command)
    runtime = RUNTIMES[asked["name"]]
    listed = asked.get("providers", "auto")
    providers = resolve_providers(listed, device["identity"]["providers"], runtime, sys.executable)
    plan = Plan(
        bundle,
        runtime={**asked, "providers": providers, "auto": listed == "auto"},
        cpus=_cpus(bundle.manifest),
        command=command,
        listener_fd=listener_fd,
        locked=False,
        accelerated=any(p != runtime.processor for p in providers),
    )
    with locked_clocks(Path("/"), bundle.manifest["protocol"]["lock_clocks"]):
        if bundle.manifest["protocol"]["lock_clocks"]:
            # The grade is that of the device as it is measured.
            device = probe(asked["name"], command=command)
        plan.locked = device["state"]["frequency_locked"]
        write_json(results.folder / "device.json", device)
        _measure_all(plan, results, device["fingerprint"], emit, pace)
    emit({"event": "end"})


def _measure_all(
    plan: Plan,
    results: Results,
    fingerprint: str,
    emit: Emit,
    pace: Optional[Callable[[], None]],
) -> None:
    bundle = plan.bundle
    emit({"event": "start", "models": [m["name"] for m in bundle.models]})
    clock = Remaining(bundle.manifest["protocol"], bundle.models)
    for index, model in enumerate(bundle.models):
        name = model["name"]
        emit({"event": "model", "name": name, "index": index, "of": len(bundle.models)})
        key = result_key(bundle.manifest, model, bundle.base, fingerprint)
        result = results.finished(model, key)
        reused = result is not None
        if result is None:
            result = OneModel(plan, model, results).measure(key, emit, clock)
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


def _cpus(manifest: Dict[str, Any]) -> List[int]:
    asked: Optional[List[int]] = manifest["protocol"].get("cpu")
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
