"""Read what an agent returned, as data from a machine one need not trust.

Nothing in it is executed, nothing is believed unchecked: shapes are read before arrays are, times
are positive, every block has its partner, and each result carries the key of the bundle that was
sent.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

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


class _Inspection(BaseModel):
    """What ran where, as far as edgebench relies on it."""

    model_config = ConfigDict(strict=True, extra="allow")

    nodes: dict[str, dict[str, int]] = Field(default_factory=dict)
    integer_operators: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class _Energy(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    energy_mj: Annotated[float, Field(allow_inf_nan=False)] | None = None


# What edgebench reads of the evidence; the rest is only shown, whatever it is.
_EVIDENCE: dict[str, TypeAdapter[Any]] = {
    "providers": TypeAdapter(list[str]),
    "cpu": TypeAdapter(list[int]),
    "steady": TypeAdapter(bool),
    "confirms": TypeAdapter(bool),
    "confirmation": TypeAdapter(dict[str, Any]),
    "inspection": TypeAdapter(_Inspection),
    "energy": TypeAdapter(_Energy),
}


def _fits(kind: TypeAdapter[Any], value: Any) -> bool:
    try:
        kind.validate_python(value, strict=True)
    except (ValidationError, OverflowError):
        return False
    return True


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

    @field_validator("evidence")
    @classmethod
    def _leave_out_what_has_another_type(cls, evidence: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in evidence.items()
            if name not in _EVIDENCE or _fits(_EVIDENCE[name], value)
        }

    @property
    def energy_mj(self) -> float | None:
        """The energy of a query in mJ, where the device has a sensor and it said a number."""
        found: float | None = self.evidence.get("energy", {}).get("energy_mj")
        return found


def inspection_notes(evidence: dict[str, Any]) -> list[str]:
    """What the agent noticed of a valid measurement, one line each."""
    return [one_line(note, 300) for note in evidence.get("inspection", {}).get("notes", [])]


class Identity(BaseModel):
    """Who a device is, as far as edgebench relies on it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    machine: str
    cpu_flags: list[str]
    providers: list[str]


class Device(BaseModel):
    """`device.json` of docs/bundle.md, as far as edgebench relies on it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    fingerprint: str
    identity: Identity
    state: dict[str, Any] = Field(default_factory=dict)
    grade: Literal["A", "B", "C"]
    grade_reasons: list[str] = Field(default_factory=list)
    hazards: list[str] = Field(default_factory=list)


def read_device(path: Path) -> dict[str, Any]:
    """What the device is; raises NotMeasuredError where the file does not say."""
    return _validated(path, Device).model_dump()


def checked_device(device: dict[str, Any], *, where: str) -> dict[str, Any]:
    """What a device said of itself when it was asked; raises NotMeasuredError."""
    try:
        return Device.model_validate(device).model_dump()
    except ValidationError as error:
        raise _no_record(error, where) from None


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
    arrays = (times, *samples.integers())
    if any(a.ndim != 1 or not len(a) for a in arrays):
        return "an array is empty or not a list"
    alike = (
        (samples.block_process, blocks),
        (samples.block_pair, blocks),
        (samples.block_phase, blocks),
        (samples.block_cause, blocks),
        (samples.sample_block, times),
        (samples.single_process, queries),
    )
    kinds = "".join(a.dtype.kind for a in arrays)
    if any(len(first) != len(second) for first, second in alike) or set(kinds) != {"f", "i"}:
        return "arrays that belong together differ in length or type"
    if not (np.isfinite(times).all() and (times > 0).all() and (queries > 0).all()):
        return "a time is not a positive number"
    if not {0} <= set(np.unique(samples.block_phase).tolist()) <= {0, 1}:
        return "a block is of no phase"
    pairs = np.stack([samples.block_process, samples.block_phase, samples.block_pair], axis=1)
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
        raise _no_record(error, str(path)) from None


def _no_record(error: ValidationError, where: str) -> NotMeasuredError:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return NotMeasuredError(
        f"is no record of an agent: {f'{place}: ' if place else ''}{one_line(first['msg'], 120)}",
        where=where,
    )
