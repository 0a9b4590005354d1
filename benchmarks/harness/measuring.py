"""One measurement by the real agent: a bundle on disk, fresh worker processes, raw samples back."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.models import Subject, examples
from edgebench import __version__, stats
from edgebench.agent.bundle import sha256_of
from edgebench.agent.plan import run_plan
from edgebench.compare import confirmation, latency_metrics, latency_ratio
from edgebench.pipeline.comparison_judging import COLD
from edgebench.pipeline.results import read_samples
from edgebench.protocol import Protocol
from edgebench.records import Estimate

EXAMPLES = 16


@dataclass(frozen=True)
class Measured:
    """What the agent found of one model beside base: the latency ratio, and how it came about.

    `again`: the ratio in the processes of the second look, where there was one, and `confirms`
    whether the protocol asks for it; `logs`: the log ratio of each process of the first look;
    `cold`: what loading took, a value a process; `base_us`: the median query of base, `p50_ms` the
    latency that a run reports; `processes`: of both looks; `stopped`: why the first one had no more
    (None where one failed); `others_share`: how much of the
    processors' time others used meanwhile; `seconds`: of both looks, `second_look_s` being those
    from its first process to the end; `runnable`: how many tasks ran or waited to, the median over
    the processes' starts (this one is the first).
    """

    ratio: Estimate
    again: Estimate | None
    confirms: bool
    logs: tuple[float, ...]
    cold: dict[str, tuple[float, ...]]
    base_us: float
    p50_ms: float | None
    processes: int
    valid: bool
    steady: bool
    reasons: tuple[str, ...]
    stopped: str | None
    others_share: float | None
    seconds: float = 0.0
    second_look_s: float = 0.0
    runnable: float = 0.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            "ratio": self.ratio.model_dump(mode="json"),
            "again": None if self.again is None else self.again.model_dump(mode="json"),
        }


class NoMeasurementError(Exception):
    """The agent gave no result; the text says why."""


def write_bundle(
    folder: Path,
    subject: Subject,
    names: Sequence[str],
    protocol: Protocol,
    *,
    seed: int,
    cpu: int,
    timed: Sequence[str] | None = None,
    looked_at_twice: Sequence[str] = (),
    scenarios: Sequence[dict[str, Any]] = (),
) -> Path:
    """A bundle with the same file under each of `names` (one of them `base`).

    Those `looked_at_twice` get the limit that makes the agent measure again what lies above 1,
    where the protocol confirms.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    array = examples(subject, EXAMPLES)
    np.save(folder / "inputs.npy", array)
    entries = []
    for name in names:
        path = folder / "models" / f"{name}.onnx"
        subject.write(path)
        entries.append(
            {
                "name": name,
                "file": f"models/{name}.onnx",
                "sha256": sha256_of(path),
                "bytes": path.stat().st_size,
                "timed": name in (timed or names),
                "limits": {"latency_ratio": {"min": None, "max": 1.0}}
                if name in looked_at_twice
                else {},
            }
        )
    settings = {**protocol.model_dump(mode="json"), "cpu": [cpu]}
    if scenarios:
        settings["scenarios"] = list(scenarios)
    manifest = {
        "schema": "edgebench.bundle/1",
        "run_id": f"harness-{seed}",
        "edgebench_version": __version__,
        "seed": seed,
        "runtime": {
            "name": "onnxruntime",
            "providers": ["CPUExecutionProvider"],
            "threads": 1,
            "session_config": {},
        },
        "protocol": settings,
        "inputs": [
            {
                "name": "x",
                "file": "inputs.npy",
                "sha256": sha256_of(folder / "inputs.npy"),
                "shape": list(array.shape),
                "dtype": "float32",
            }
        ],
        "answers": "any",
        "models": entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def measure(
    bundle: Path, out: Path, command: Sequence[str] | None = None
) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Run the bundle's plan into the folder `out`; gives what was found by model, and the device.

    `command` starts a worker other than the agent's own.
    """
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    began: dict[str, list[float]] = {}
    runnable: dict[str, list[int]] = {}
    ended: dict[str, float] = {}

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "process":
            began.setdefault(event["name"], []).append(time.monotonic())
            runnable.setdefault(event["name"], []).append(runnable_tasks())
        elif event["event"] == "done":
            ended[event["name"]] = time.monotonic()

    run_plan(bundle, out, on_event, command=list(command) if command else None)
    wall = time.monotonic() - start
    device = json.loads((out / "device.json").read_text(encoding="utf-8"))
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    timed = [m["name"] for m in manifest["models"] if m["timed"]]
    results = {n: json.loads((out / n / "result.json").read_text(encoding="utf-8")) for n in timed}
    # Probing the device and unpacking belong to the cost too.
    shared = (wall - sum(r["seconds"] for r in results.values())) / len(results)
    protocol = manifest["protocol"]
    found = {}
    for name, result in results.items():
        one = _found(out / name, result, protocol)
        second = [ended[name] - start for start in began[name][len(one.logs) :]]
        found[name] = replace(
            one,
            seconds=round(result["seconds"] + shared, 3),
            second_look_s=round(max(second, default=0.0), 3),
            runnable=float(np.median(runnable[name])),
        )
    return found, device


def runnable_tasks() -> int:
    """How many tasks of the whole machine run or wait for a processor; this one is among them."""
    return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0])


def _found(folder: Path, result: dict[str, Any], protocol: dict[str, Any]) -> Measured:
    if result["status"] != "measured":
        raise NoMeasurementError(f"{result['name']}: {result['problem']}")
    samples = read_samples(folder / "samples.npz")
    ratio = latency_ratio(samples, protocol=protocol)
    if ratio.point is None or ratio.low is None or ratio.high is None:
        raise NoMeasurementError(f"{result['name']}: no interval ({ratio.method})")
    evidence = result["evidence"]
    base_ns, variant_ns, process = samples.paired_medians()
    logs = stats.by_process(np.log(variant_ns / base_ns), process)
    return Measured(
        ratio=ratio,
        again=confirmation(samples, protocol=protocol),
        confirms=protocol["confirm"],
        logs=tuple(logs.tolist()),
        cold={name: tuple(one[name] for one in result["cold"]) for name in COLD},
        base_us=float(np.median(samples.of_arm(0))) / 1e3,
        p50_ms=latency_metrics(samples)[0]["latency_p50_ms"],
        processes=len(result["cold"]),
        valid=result["valid"],
        steady=evidence["steady"],
        reasons=tuple(result["invalid_reasons"]),
        stopped=evidence.get("stopped"),
        others_share=evidence["watch"]["others_share"],
    )
