"""The results folder: atomic files, the key of each result, and the merged samples."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

from .errors import AgentError

SCHEMA = "edgebench.result/1"
# Why a measurement says nothing of the latency, while its answers stand.
NOT_STEADY = "the latency was still moving when the warm-up's time was over"
# More of the processes than this have to say so: one may well warm up in a bad moment.
RESTLESS_SHARE = 0.25
FILES = ("samples.npz", "outputs.npy", "result.json")
# Where the protocol asks for scenarios.
EXTRA = ("scenarios.npz", "loadgen.zip")

_SCRATCH = ".work"
_LOCK_WAIT_S = 5.0


class Results:
    """A results folder that this process alone writes to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w", encoding="ascii")
        # An agent whose connection was lost needs a moment to notice.
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise AgentError(
                        "storage", f"another agent is writing to {folder}: wait until it has ended"
                    ) from None
                time.sleep(0.1)
        self.scratch = folder / _SCRATCH
        self.close_scratch()
        self.scratch.mkdir()

    def close_scratch(self) -> None:
        """Remove the working files, also those of an agent that was killed."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def close(self) -> None:
        """Let others write."""
        self.close_scratch()
        self._lock.close()

    def finished(self, model: dict[str, Any], key: str) -> dict[str, Any] | None:
        """The result of a model that was measured under this key, or None."""
        folder = self.folder / model["name"]
        try:
            result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            return None
        files = FILES if model["timed"] else FILES[1:]
        if result.get("scenarios"):
            files = (*EXTRA[:1], *files)
        whole = all((folder / file).is_file() for file in files)
        fits = result.get("key") == key and result.get("status") == "measured"
        return result if whole and fits else None

    def begin(self, name: str) -> Path:
        """Forget what is there of a model, and give a folder to work in."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for file in reversed((*EXTRA, *FILES)):
            with contextlib.suppress(FileNotFoundError):
                (folder / file).unlink()
        work = self.scratch / name
        work.mkdir()
        return work

    def finish(self, name: str, work: Path, result: dict[str, Any]) -> None:
        """Move a model's files into place; result.json comes last."""
        folder = self.folder / name
        if result["status"] == "measured":
            for file in (*EXTRA, *FILES[:-1]):
                if (work / file).is_file():
                    os.replace(work / file, folder / file)
        write_json(folder / "result.json", result)
        shutil.rmtree(work, ignore_errors=True)


def result_key(
    manifest: dict[str, Any], model: dict[str, Any], base: dict[str, Any], fingerprint: str
) -> str:
    """The sha256 of all that a result depends on.

    The run is part of it: a latency is never served from another run.
    """
    parts = {
        "schema": SCHEMA,
        "run_id": manifest["run_id"],
        "edgebench_version": manifest.get("edgebench_version"),
        "seed": manifest["seed"],
        "model": model["sha256"],
        "timed": model["timed"],
        "base": base["sha256"],
        "inputs": [entry["sha256"] for entry in manifest["inputs"]],
        "answers": manifest["answers"],
        "limits": model.get("limits", {}),
        "protocol": manifest["protocol"],
        "runtime": manifest["runtime"],
        "device": fingerprint,
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def merge_samples(files: list[Path], merged: Path) -> None:
    """Join the samples of several processes; block numbers go on from one to the next."""
    import numpy as np

    parts = []
    for file in files:
        with np.load(file, allow_pickle=False) as archive:
            parts.append({name: archive[name] for name in archive.files})
    offset = 0
    for part in parts:
        part["sample_block"] = part["sample_block"] + np.int32(offset)
        offset += len(part["block_arm"])
    arrays: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "inner"
    }
    with merged.open("wb") as out:
        np.savez(out, inner=parts[0]["inner"], **arrays)


def pack_results(folder: Path, target: Path) -> None:
    """Write results.zip, whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder)
            if path.is_file() and not relative.parts[0].startswith("."):
                archive.write(path, str(relative))
    os.replace(temporary, target)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
