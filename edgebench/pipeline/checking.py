"""Look at a target before any run: what it is, what may spoil a measurement, what it can tell.

The smallest change it can tell is measured: a small built-in model is timed against itself through
the target's own transport, as the agent times every model.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgebench import __version__, compare, gate
from edgebench.agent.runtimes import RUNTIMES
from edgebench.errors import NotMeasuredError, storage_error
from edgebench.hashing import file_digest
from edgebench.pipeline.main import connect
from edgebench.pipeline.progress import Progress
from edgebench.pipeline.results import checked_device, read_device, read_result, read_samples
from edgebench.protocol import PROFILES, Protocol
from edgebench.records import ALIASED, Estimate, Record
from edgebench.store import read_json, write_atomically
from edgebench.target import Target
from edgebench.transports.base import Transport

CHECK_SCHEMA: Literal["edgebench.check/1"] = "edgebench.check/1"

_SEED = 0
_EXAMPLES = 32
_CHANNELS, _SIDE, _CLASSES = 48, 32, 10


class Timing(Record):
    """The built-in model against itself.

    `latency_p50_ms` is its query's, `to_itself` its latency ratio, from which `noise_floor` and
    `smallest_detectable_change` follow: shares of the latency, None where there is no interval.
    """

    protocol: str
    providers: tuple[str, ...]
    latency_p50_ms: float | None
    to_itself: Estimate
    noise_floor: float | None
    smallest_detectable_change: float | None
    steady: bool
    valid: bool
    invalid_reasons: tuple[str, ...]
    seconds: float


class Check(Record):
    """What `edgebench targets check` found.

    `problem` says why nothing was timed, where something should have been.
    """

    model_config = ALIASED

    schema_: Literal["edgebench.check/1"] = Field(default=CHECK_SCHEMA, alias="schema")
    created: str
    edgebench_version: str
    target: dict[str, Any]
    device: dict[str, Any]
    hazards: tuple[str, ...]
    timing: Timing | None = None
    problem: str | None = None


def check_target(
    target: Target,
    progress: Progress,
    *,
    timing: bool = True,
    protocol: Protocol | None = None,
) -> Check:
    """Reach the device, grade it, and time the built-in model on it under `protocol` (`quick`).

    Raises NotMeasuredError where it cannot be reached. A failure of the timing alone is told in
    `problem`; the rest of the check stands.
    """
    transport = connect(target)
    progress.begin("look at the device")
    try:
        device = checked_device(transport.probe(), where=f"target '{target.name}'")
    finally:
        progress.end()
    timed, problem = None, None
    if timing:
        try:
            device, timed = _time(target, transport, protocol or PROFILES["quick"], progress)
        except NotMeasuredError as error:
            problem = error.line()
    found = [*_mismatches(target, device), *map(str, device.get("hazards", []))]
    if timed is not None:
        found += [reason for reason in timed.invalid_reasons if reason not in found]
        if not timed.steady:
            found.append("the latency was still moving when the warm-up's time was over")
    return Check(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgebench_version=__version__,
        target=target.model_dump(mode="json"),
        device=device,
        hazards=tuple(found),
        timing=timed,
        problem=problem,
    )


def _mismatches(target: Target, device: dict[str, Any]) -> list[str]:
    """Where the device is not what the target's file says."""
    identity = device.get("identity", {})
    found = []
    if target.family == "jetson" and not identity.get("jetson"):
        found.append("it does not look like a Jetson: it has no L4T release file")
    asked, offered = target.runtime.providers, identity.get("providers", [])
    if asked != "auto":
        missing = [provider for provider in asked if provider not in offered]
        found += [f"the target asks for {one}, which the runtime does not offer" for one in missing]
    return found


def _time(
    target: Target, transport: Transport, protocol: Protocol, progress: Progress
) -> tuple[dict[str, Any], Timing]:
    """The device as it was when it was timed, and the timing; raises NotMeasuredError."""
    start = time.perf_counter()

    def on_event(event: dict[str, Any]) -> None:
        nonlocal start
        if event.get("event") == "start":
            # Not while another run was waited for.
            start = time.perf_counter()
        elif event.get("event") == "waiting":
            progress.say("another run is measuring on this machine; waiting for it")
        elif event.get("event") == "process":
            progress.advance(float(event.get("process", 0)), "against itself")

    with tempfile.TemporaryDirectory(prefix="edgebench-check-") as scratch:
        bundle, results = Path(scratch, "bundle"), Path(scratch, "results")
        write_check_bundle(bundle, target, protocol)
        progress.begin(f"time a model against itself on {target.name}", protocol.processes)
        try:
            transport.measure(bundle, results, on_event)
        finally:
            progress.end()
        device = read_device(results / "device.json")
        manifest = read_json(bundle / "manifest.json")
        assert isinstance(manifest, dict)  # noqa: S101 - written above
        result = read_result(results, "base", manifest, device["fingerprint"])
        if result.status != "measured":
            raise NotMeasuredError(
                f"the built-in model {result.problem}", where=f"target '{target.name}'"
            )
        samples = read_samples(results / "base" / "samples.npz")
    latencies, _ = compare.latency_metrics(samples)
    ratio = compare.latency_ratio(samples, protocol=protocol.model_dump())
    floor = gate.floor_of(ratio)
    return device, Timing(
        protocol=protocol.name,
        providers=tuple(str(p) for p in result.evidence.get("providers", [])),
        latency_p50_ms=latencies["latency_p50_ms"],
        to_itself=ratio,
        noise_floor=gate.finite_floor(floor),
        smallest_detectable_change=gate.smallest_detectable_change(ratio, floor),
        steady=result.evidence.get("steady") is not False,
        valid=result.valid,
        invalid_reasons=result.invalid_reasons,
        seconds=round(time.perf_counter() - start, 3),
    )


def write_check_bundle(folder: Path, target: Target, protocol: Protocol) -> None:
    """A bundle with the built-in model alone, whose A/A arm is the check; raises StorageError."""
    rng = np.random.default_rng(_SEED)
    suffix = RUNTIMES[target.runtime.name].suffix
    inputs, model = folder / "inputs.npy", folder / "models" / f"base{suffix}"
    examples = rng.normal(size=(_EXAMPLES, 3, _SIDE, _SIDE)).astype(np.float32)
    try:
        model.parent.mkdir(parents=True)
        np.save(inputs, examples)
        if suffix == ".onnx":
            model.write_bytes(_onnx(rng))
        else:
            _write_program(model, rng, examples)
    except OSError as error:
        raise storage_error(error, folder) from error
    manifest = {
        "schema": "edgebench.bundle/1",
        # Never taken up again: a latency is measured each time.
        "run_id": f"check-{uuid.uuid4().hex[:12]}",
        "edgebench_version": __version__,
        "seed": _SEED,
        "runtime": target.runtime.model_dump(mode="json"),
        "protocol": {
            **protocol.model_dump(mode="json"),
            "inspect": False,
            "confirm": False,
            "energy_s": 0.0,
        },
        "answers": "classes",
        "inputs": [
            {
                "name": None,
                "file": inputs.name,
                "sha256": file_digest(inputs),
                "shape": list(examples.shape),
                "dtype": "float32",
            }
        ],
        "models": [
            {
                "name": "base",
                "file": f"models/{model.name}",
                "sha256": file_digest(model),
                "bytes": model.stat().st_size,
                "timed": True,
                "limits": {},
            }
        ],
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))


def _write_program(path: Path, rng: np.random.Generator, examples: NDArray[np.float32]) -> None:
    """The same network as a program of torch."""
    import torch
    from torch import nn

    from edgebench.exporters.pt2_from_torch import export_pt2

    half = _SIDE // 2
    network = nn.Sequential(
        nn.Conv2d(3, _CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS, 2 * _CHANNELS, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * _CHANNELS * half * half, _CLASSES),
    )
    with torch.no_grad():
        for values in network.parameters():
            drawn = rng.normal(0, 0.05, size=tuple(values.shape)).astype(np.float32)
            values.copy_(torch.from_numpy(drawn))
    export_pt2(network, examples, path)


def _onnx(rng: np.random.Generator) -> bytes:
    """Two convolutions and a matrix product: 12 million multiplications for [N, 3, 32, 32]."""
    from onnx import TensorProto, helper, numpy_helper

    half = _SIDE // 2
    shapes = {
        "first": (_CHANNELS, 3, 3, 3),
        "second": (2 * _CHANNELS, _CHANNELS, 3, 3),
        "dense": (2 * _CHANNELS * half * half, _CLASSES),
    }
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.05, size=shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=pads),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=pads, strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "dense"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "check",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", _CLASSES])],
        weights,
    )
    # As old as the agent's oldest runtime may be: Python 3.8 has ONNX Runtime 1.19 at most.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content
