"""Read what an agent returned, as data from a machine one need not trust.

Nothing in it is executed, nothing is believed unchecked: shapes are read before arrays are, times
are positive, every block has its partner, and each result carries the key of the bundle that was
sent.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebench.agent.results import result_key
from edgebench.compare import Samples
from edgebench.errors import NotComparableError, NotMeasuredError, StorageError, one_line
from edgebench.records import Record
from edgebench.store import read_json

# More than any protocol yields; a hostile archive could unpack to anything.
LARGEST_SAMPLES = 1 << 30

M = TypeVar("M", bound=BaseModel)
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ColdStart(Record):
    """What one fresh process saw: milliseconds and MiB."""

    load_ms: Amount
    first_inference_ms: Amount
    peak_memory_mib: Amount
    before_load_mib: Amount


class AgentResult(BaseModel):
    """`result.json` of docs/bundle.md."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    key: str
    status: Literal["measured", "failed"]
    problem: str | None
    valid: bool
    invalid_reasons: tuple[str, ...]
    cold: tuple[ColdStart, ...]
    evidence: dict[str, Any]
    # Read by `scenario_results`, which says for each of them what is wrong.
    scenarios: Any = None

    @property
    def energy_mj(self) -> float | None:
        """The energy of a query in mJ, where the device has a sensor and it said a number."""
        found = self.evidence.get("energy")
        value = found.get("energy_mj") if isinstance(found, dict) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def inspection_notes(evidence: dict[str, Any]) -> list[str]:
    """What the agent noticed of a valid measurement, one line each, in untrusted evidence."""
    found = evidence.get("inspection")
    listed = found.get("notes") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        return []
    return [one_line(note, 300) for note in listed if isinstance(note, str)]


class Device(BaseModel):
    """`device.json` of docs/bundle.md, as far as edgebench relies on it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fingerprint: str
    identity: dict[str, Any]
    grade: Literal["A", "B", "C"]


def read_device(path: Path) -> dict[str, Any]:
    """What the device is; raises NotMeasuredError where the file does not say."""
    return _validated(path, Device).model_dump()


def read_result(folder: Path, name: str, manifest: dict[str, Any], fingerprint: str) -> AgentResult:
    """The result of one model.

    Raises
    ------
    NotMeasuredError
        The file is not there, or is no result.
    NotComparableError
        It is the result of another bundle, or comes from another device than the others.
    """
    path = folder / name / "result.json"
    if not path.is_file():
        raise NotMeasuredError("the agent returned no result")
    result = _validated(path, AgentResult)
    models = {model["name"]: model for model in manifest["models"]}
    if result.key != result_key(manifest, models[name], models["base"], fingerprint):
        raise NotComparableError(
            f"the result of '{name}' belongs to another bundle or device",
            where=str(path),
            hint="bring the results of the bundle this folder was prepared with",
        )
    return result


def read_outputs(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The answers [N, classes] of one model; raises NotMeasuredError."""
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            found, _, dtype = reader(stream)
        if found != shape or dtype != np.float32:
            raise NotMeasuredError(
                f"its outputs are {dtype} of shape {list(found)}, not float32 of {list(shape)}"
            )
        values: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise NotMeasuredError(
            f"its outputs cannot be read: {one_line(str(error), 120)}"
        ) from error
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise NotMeasuredError(f"{bad} of {shape[0]} outputs are not finite (NaN or infinity)")
    return values


def read_samples(path: Path) -> Samples:
    """The raw samples of one model; raises NotMeasuredError where they make no sense."""
    fields = tuple(Samples.__dataclass_fields__)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_SAMPLES:
                raise NotMeasuredError("its samples unpack to more than a gibibyte")
        with np.load(path, allow_pickle=False) as arrays:
            samples = Samples(**{name: arrays[name] for name in fields})
        problem = _problem(samples)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        problem = one_line(str(error), 120)
    if problem is not None:
        raise NotMeasuredError(f"its samples cannot be used: {problem}")
    return samples


def _problem(samples: Samples) -> str | None:
    """What is wrong with samples, if anything."""
    blocks, times, queries = samples.block_arm, samples.sample_ns, samples.single_ns
    if any(a.ndim != 1 for a in (blocks, times, queries)) or not len(blocks) or not len(queries):
        return "an array is empty or not a list"
    alike = (
        (samples.block_process, blocks),
        (samples.block_pair, blocks),
        (samples.block_phase, blocks),
        (samples.block_cause, blocks),
        (samples.sample_block, times),
        (samples.single_process, queries),
    )
    if any(len(first) != len(second) for first, second in alike):
        return "arrays of one kind differ in length"
    if not (np.isfinite(times).all() and (times > 0).all() and (queries > 0).all()):
        return "a time is not a positive number"
    if not {0} <= set(np.unique(samples.block_phase).tolist()) <= {0, 1}:
        return "a block is of no phase"
    pairs = np.stack([samples.block_process, samples.block_pair], axis=1)
    arms = [{tuple(p) for p in pairs[blocks == arm].tolist()} for arm in (0, 1)]
    blocks_with_samples = set(np.unique(samples.sample_block).tolist())
    if (
        arms[0] != arms[1]
        or len(arms[0]) * 2 != len(blocks)
        or blocks_with_samples != set(range(len(blocks)))
    ):
        return "a block has no samples or no partner"
    return None


def _validated(path: Path, model: type[M]) -> M:
    try:
        return model.model_validate(read_json(path))
    except StorageError as error:
        raise NotMeasuredError(error.what, where=error.where, hint=error.hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NotMeasuredError(
            f"is no record of an agent: {f'{place}: ' if place else ''}{first['msg']}",
            where=str(path),
        ) from None
