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
from edgebench.pipeline.results import read_device, read_outputs, read_result, read_samples
from edgebench.protocol import PROFILES, Protocol
from edgebench.records import Estimate
from edgebench.store import write_atomically
from edgebench.target import Target
from edgebench.transports.base import Event, Transport


@dataclass(frozen=True)
class Probed:
    """One candidate: its latency over base's, and its answers [N, classes] to the inputs."""

    ratio: Estimate
    answers: NDArray[np.float32]


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
    ) -> dict[str, Probed]:
        """Base and each candidate file by name, on real examples `inputs`, [N, ...].

        Raises BuildError where a candidate does not run on the target, NotMeasuredError where the
        target is not reached.
        """
        with tempfile.TemporaryDirectory(prefix="edgebench-probe-") as name:
            folder = Path(name)
            try:
                manifest = self._write(folder, {"base": base, **candidates}, inputs)
            except OSError as error:
                raise storage_error(error, folder) from error
            results = folder / "results"
            self.transport.measure(folder / "bundle", results, _ignore)
            device = read_device(results / "device.json")
            return {
                name: self._read(results, name, manifest, device, len(inputs))
                for name in ("base", *candidates)
            }

    def _read(
        self, results: Path, name: str, manifest: dict[str, Any], device: dict[str, Any], n: int
    ) -> Probed:
        result = read_result(results, name, manifest, device["fingerprint"])
        if result.status != "measured":
            raise BuildError(f"a candidate does not run on the target: {result.problem}")
        ratio = compare.latency_ratio(read_samples(results / name / "samples.npz"))
        if ratio.point is None:
            raise NotMeasuredError(f"the target measured nothing of a candidate: {ratio.method}")
        return Probed(ratio, read_outputs(results / name / "outputs.npy", (n, self.classes)))

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
                    "timed": True,
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
        """`quick` without what only a verdict needs, on the run's batch and processors."""
        return PROFILES["quick"].model_copy(
            update={
                "batch": self.protocol.batch,
                "cpu": self.protocol.cpu,
                "timeout_s": self.protocol.timeout_s,
                "warmup_cap_s": self.protocol.warmup_cap_s,
                "lock_clocks": self.protocol.lock_clocks,
                "same_input": False,
                "inspect": False,
            }
        )


def _ignore(event: Event) -> None:
    del event
