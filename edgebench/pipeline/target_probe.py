"""Candidates on the target, their latency and answers, while chains are still being built.

What is measured here guides a choice and is never a result: whatever is chosen is measured again
with the run's own protocol.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench import __version__, compare
from edgebench.errors import BuildError, NotMeasuredError, storage_error
from edgebench.hashing import file_digest
from edgebench.pipeline.results import (
    AgentResult,
    read_device,
    read_outputs,
    read_result,
    read_samples,
)
from edgebench.protocol import PROFILES, Protocol
from edgebench.store import write_atomically
from edgebench.target import Target
from edgebench.transports.base import Event, Transport

# What the target measures of a candidate, by the metrics' names.
MEASURED = (
    "latency_ratio",
    "latency_p50_ms",
    "throughput_per_s",
    "load_ms",
    "first_inference_ms",
    "peak_memory_mib",
)
# What a candidate shares with the run's own measurement.
_THE_RUNS = (
    "batch",
    "cpu",
    "timeout_s",
    "warmup_cap_s",
    "timer_steps",
    "outputs_batch",
    "lock_clocks",
)


@dataclass(frozen=True)
class Probed:
    """One candidate as the target saw it.

    `ratio`: its latency over base's; `answers`: [N, classes], to the inputs; `metrics`: what else
    the target measured of it, by the metrics' names.
    """

    ratio: float
    answers: NDArray[np.float32]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TargetProbe:
    """Runs files on the target: times each over base in interleaved pairs, and takes its answers.

    `protocol` is the run's, of which batch, processors and time limits are taken.
    """

    transport: Transport
    target: Target
    protocol: Protocol
    classes: int
    seed: int

    def measure(
        self, base: Path, candidates: Mapping[str, Path], inputs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], dict[str, Probed]]:
        """Base's answers to real examples `inputs`, [N, ...], and each candidate file by name.

        Raises BuildError where a candidate does not run on the target, NotMeasuredError where base
        does not, or the target is not reached.
        """
        with tempfile.TemporaryDirectory(prefix="edgebench-probe-") as scratch:
            folder = Path(scratch)
            try:
                manifest = self._write(folder, {"base": base, **candidates}, inputs)
            except OSError as error:
                raise storage_error(error, folder) from error
            results = folder / "results"
            self.transport.measure(folder / "bundle", results, _ignore)
            device = read_device(results / "device.json")
            shape = (len(inputs), self.classes)

            def read(name: str) -> tuple[AgentResult, NDArray[np.float32]]:
                result = read_result(results, name, manifest, device["fingerprint"])
                if result.status != "measured":
                    raise NotMeasuredError(result.problem or "the agent gave no reason")
                return result, read_outputs(results / name / "outputs.npy", shape)

            try:
                answers = read("base")[1]
            except NotMeasuredError as error:
                raise NotMeasuredError(
                    f"base does not run on the target: {error.line()}"
                ) from error
            found = {}
            for name in candidates:
                try:
                    found[name] = _probed(*read(name), results / name / "samples.npz")
                except NotMeasuredError as error:
                    raise BuildError(f"it does not run on the target: {error.line()}") from error
        return answers, found

    def reached(self) -> bool:
        """Whether the target answers at all."""
        try:
            self.transport.probe()
        except NotMeasuredError:
            return False
        return True

    def _write(
        self, folder: Path, files: Mapping[str, Path], examples: NDArray[np.float32]
    ) -> dict[str, Any]:
        bundle = folder / "bundle"
        (bundle / "models").mkdir(parents=True)
        inputs = bundle / "inputs.npy"
        np.save(inputs, np.ascontiguousarray(examples), allow_pickle=False)
        models = []
        for name, file in files.items():
            place = bundle / "models" / f"{name}{file.suffix}"
            shutil.copyfile(file, place)
            models.append(
                {
                    "name": name,
                    "file": f"models/{place.name}",
                    "sha256": file_digest(place),
                    "bytes": place.stat().st_size,
                    # Each candidate is timed with base beside it; of base, answers are enough.
                    "timed": name != "base",
                    "limits": {},
                }
            )
        manifest = {
            "schema": "edgebench.bundle/1",
            "run_id": folder.name,
            "edgebench_version": __version__,
            "seed": self.seed,
            "runtime": self.target.runtime.model_dump(mode="json"),
            "protocol": self._protocol().model_dump(mode="json"),
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
            "models": models,
        }
        write_atomically(bundle / "manifest.json", json.dumps(manifest, indent=1))
        return manifest

    def _protocol(self) -> Protocol:
        """`quick` without what only a verdict needs, and never more than the run's own protocol."""
        quick, own = PROFILES["quick"], self.protocol
        return quick.model_copy(
            update={
                "processes": min(quick.processes, own.processes),
                "max_processes": min(quick.processes, own.processes),
                **{
                    name: min(getattr(quick, name), getattr(own, name))
                    for name in ("pairs", "least_pairs", "block_s", "warmup_s", "single_s")
                },
                **{name: getattr(own, name) for name in _THE_RUNS},
                "same_input": False,
                "inspect": False,
            }
        )


def _probed(result: AgentResult, answers: NDArray[np.float32], samples_file: Path) -> Probed:
    samples = read_samples(samples_file)
    ratio = compare.latency_ratio(samples).point
    if ratio is None:
        raise NotMeasuredError("no pair of its blocks is usable")
    latencies, _ = compare.latency_metrics(samples)
    values = {
        **{name: latencies[name] for name in ("latency_p50_ms", "throughput_per_s")},
        **{
            name: float(np.median([getattr(one, name) for one in result.cold]))
            for name in ("load_ms", "first_inference_ms", "peak_memory_mib")
            if result.cold
        },
    }
    known = {name: value for name, value in values.items() if value is not None}
    return Probed(ratio, answers, known)


def _ignore(event: Event) -> None:
    del event
