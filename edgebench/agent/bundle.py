"""Reads a bundle: a folder, or the zip of one. Everything in it is checked before anything runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import AgentError, is_storage_fault, one_line
from .scenarios.check import scenario_problem

SCHEMA = "edgebench.bundle/1"

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_MAX_MANIFEST_BYTES = 16 << 20
_NPY_HEADER_BYTES = 1 << 16
_CHUNK = 1 << 20

# What an input may be made of, and the bytes of each.
_DTYPES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bool": 1,
    **{f"{sign}int{8 * size}": size for size in (1, 2, 4, 8) for sign in ("", "u")},
}
_ANSWERS = ("classes", "any", "all")
_NUMBER = (int, float)
_PROTOCOL = {
    "processes": (int, 1),
    "max_processes": (int, 1),
    "pairs": (int, 1),
    "least_pairs": (int, 1),
    "block_s": (_NUMBER, 0),
    "warmup_s": (_NUMBER, 0),
    "warmup_cap_s": (_NUMBER, 0),
    "warmup_median": (_NUMBER, 0),
    "warmup_iqr": (_NUMBER, 0),
    "timer_steps": (int, 1),
    "single_s": (_NUMBER, 0),
    "rotate": (int, 1),
    "same_input": (bool, 0),
    "recheck": (bool, 0),
    "inspect": (bool, 0),
    "confirm": (bool, 0),
    "lock_clocks": (bool, 0),
    "energy_s": (_NUMBER, 0),
    "idle_s": (_NUMBER, 0),
    "batch": (int, 1),
    "outputs_batch": (int, 1),
    "timeout_s": (_NUMBER, 0),
}
_OPTIONAL_NUMBERS = ("half_width", "time_cap_s")


class Bundle:
    """A checked bundle: `folder` holds its files, `manifest` what they are."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.models: list[dict[str, Any]] = manifest["models"]
        self.base: dict[str, Any] = next(m for m in self.models if m["name"] == "base")

    def path(self, file: str) -> Path:
        """Where one of the bundle's files lies."""
        return self.folder / file


def open_bundle(source: Path, scratch: Path) -> Bundle:
    """Check the bundle at `source`, unpacking a zip into `scratch`; raises AgentError."""
    if source.is_dir():
        folder = source.resolve()
        manifest = _manifest(_read_manifest(folder / "manifest.json"))
    elif source.is_file():
        folder = scratch.resolve()
        manifest = _unpack(source, folder)
    else:
        raise _refuse(f"there is no bundle at {source}")
    for entry in [*manifest["inputs"], *manifest["models"]]:
        _check_file(folder, entry)
    for entry in manifest["inputs"]:
        _check_array(folder / entry["file"], entry)
    return Bundle(folder, manifest)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _refuse(problem: str) -> AgentError:
    return AgentError("bundle", problem)


def _read_manifest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise _refuse(f"the bundle's manifest cannot be read: {error}") from error


def _unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Only what the manifest names is unpacked, and only as many bytes as it says."""
    try:
        with zipfile.ZipFile(source) as archive:
            with archive.open("manifest.json") as file:
                manifest = _manifest(file.read(_MAX_MANIFEST_BYTES + 1))
            for entry in [*manifest["inputs"], *manifest["models"]]:
                limit = entry.get("bytes", 0) or _array_bytes(entry)
                info = archive.getinfo(entry["file"])
                _check_size(info, limit)
                target = folder / entry["file"]
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, _CHUNK)
    except KeyError as error:
        raise _refuse(f"{source}: {error.args[0]}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _refuse(f"{source} is not a whole zip file: {error}") from error
    except OSError as error:
        code = "storage" if is_storage_fault(error) else "bundle"
        raise AgentError(code, f"{source} cannot be unpacked: {error}") from error
    except Exception as error:
        # A damaged stream ends in whatever its decompressor raises (zlib.error, lzma.LZMAError).
        if isinstance(error, AgentError):
            raise
        raise _refuse(f"{source} is not a whole zip file: {one_line(repr(error))}") from error
    return manifest


def _check_size(info: zipfile.ZipInfo, limit: int) -> None:
    if info.file_size > limit:
        raise _refuse(f"{info.filename}: {info.file_size} bytes, the manifest says {limit}")


def _array_bytes(entry: dict[str, Any]) -> int:
    return int(math.prod(entry["shape"])) * _DTYPES[entry["dtype"]] + _NPY_HEADER_BYTES


def _manifest(content: bytes) -> dict[str, Any]:
    if len(content) > _MAX_MANIFEST_BYTES:
        raise _refuse("manifest.json is larger than 16 MiB")
    try:
        manifest = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refuse(f"manifest.json is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise _refuse("manifest.json is not a JSON object")
    if manifest.get("schema") != SCHEMA:
        raise _refuse(
            f"manifest.json has schema {manifest.get('schema')!r}; this agent reads {SCHEMA!r}: "
            "make the bundle and the agent with the same edgebench"
        )
    run_id = _take(manifest, "run_id", str, "")
    if not RUN_ID.fullmatch(run_id):
        raise _refuse(f"run_id: {run_id!r} is not made of letters, digits, '.', '_' and '-'")
    _take(manifest, "seed", int, "")
    if manifest["seed"] < 0:
        raise _refuse(f"seed: {manifest['seed']} is negative")
    _check_runtime(_take(manifest, "runtime", dict, ""))
    _check_protocol(_take(manifest, "protocol", dict, ""))
    _check_inputs(_take(manifest, "inputs", list, ""))
    if _take(manifest, "answers", str, "") not in _ANSWERS:
        raise _refuse(f"answers: {manifest['answers']!r} is none of {', '.join(_ANSWERS)}")
    _check_models(_take(manifest, "models", list, ""))
    return manifest


def _check_inputs(inputs: list[Any]) -> None:
    if not inputs:
        raise _refuse("inputs: there are none")
    lengths = set()
    for index, entry in enumerate(inputs):
        where = f"inputs[{index}]"
        if not isinstance(entry, dict):
            raise _refuse(f"{where} is not a JSON object")
        _check_entry(entry, where)
        shape = _take(entry, "shape", list, f"{where}.")
        if not shape or not all(_is(v, int) and v >= 1 for v in shape):
            raise _refuse(f"{where}.shape: {shape} is not [N, ...] with sizes of at least 1")
        if entry.get("dtype") not in _DTYPES:
            raise _refuse(
                f"{where}.dtype: {entry.get('dtype')!r}; it has to be one of {', '.join(_DTYPES)}"
            )
        lengths.add(shape[0])
    if len(lengths) > 1:
        raise _refuse(f"inputs: they hold different numbers of examples: {sorted(lengths)}")


def _check_runtime(runtime: dict[str, Any]) -> None:
    _take(runtime, "name", str, "runtime.")
    providers = runtime.get("providers", "auto")
    if providers != "auto" and not (
        isinstance(providers, list) and providers and all(_is(p, str) for p in providers)
    ):
        raise _refuse(f"runtime.providers: {providers!r} is neither 'auto' nor a list of names")
    if _take(runtime, "threads", int, "runtime.") < 1:
        raise _refuse(f"runtime.threads: {runtime['threads']}; it has to be at least 1")
    options = runtime.setdefault("session_config", {})
    if not isinstance(options, dict) or not all(_is(v, str) for v in options.values()):
        raise _refuse("runtime.session_config is not a mapping of text to text")


def _check_protocol(protocol: dict[str, Any]) -> None:
    for key, (kind, least) in _PROTOCOL.items():
        value = _take(protocol, key, kind, "protocol.")
        if not math.isfinite(value) or value < least:
            raise _refuse(f"protocol.{key}: {value}; it has to be at least {least}")
    for key in _OPTIONAL_NUMBERS:
        value = protocol.get(key)
        if value is not None and not (_is(value, _NUMBER) and 0 < value < math.inf):
            raise _refuse(f"protocol.{key}: {value!r} is neither null nor a positive number")
    wrong = scenario_problem(protocol.setdefault("scenarios", []))
    if wrong is not None:
        raise _refuse(f"protocol.scenarios{wrong}")
    cpu = protocol.get("cpu")
    if cpu is not None and not (
        isinstance(cpu, list) and cpu and all(_is(c, int) and c >= 0 for c in cpu)
    ):
        raise _refuse(f"protocol.cpu: {cpu!r} is neither null nor a list of processor numbers")


def _check_models(models: list[Any]) -> None:
    names = set()
    for index, model in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(model, dict):
            raise _refuse(f"{where} is not a JSON object")
        name = _take(model, "name", str, f"{where}.")
        if not NAME.fullmatch(name) or name == "device.json":
            raise _refuse(f"{where}.name: {name!r} does not fit [a-z0-9][a-z0-9._-]*")
        if name in names:
            raise _refuse(f"{where}.name: '{name}' is there twice")
        names.add(name)
        _check_entry(model, where)
        _take(model, "bytes", int, f"{where}.")
        _take(model, "timed", bool, f"{where}.")
        _check_limits(model.get("limits", {}), f"{where}.limits")
    if "base" not in names:
        raise _refuse("models: there is no 'base' to compare with")


def _check_limits(limits: Any, where: str) -> None:
    ratio = limits.get("latency_ratio", {}) if isinstance(limits, dict) else None
    if not isinstance(ratio, dict) or not all(
        value is None or _is(value, _NUMBER) for value in ratio.values()
    ):
        raise _refuse(f"{where}: {one_line(repr(limits), 60)} is not a mapping of limits")


def _check_entry(entry: dict[str, Any], where: str) -> None:
    file = _take(entry, "file", str, f"{where}.")
    path = PurePosixPath(file)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in file
        or ":" in file
        or "\0" in file
    ):
        raise _refuse(f"{where}.file: {file!r} is not a path inside the bundle")
    if not re.fullmatch(r"[0-9a-f]{64}", _take(entry, "sha256", str, f"{where}.")):
        raise _refuse(f"{where}.sha256: {entry['sha256']!r} is not a sha256")


def _check_file(folder: Path, entry: dict[str, Any]) -> None:
    file = entry["file"]
    path = folder / file
    if not path.is_file():
        raise _refuse(f"{file} is missing from the bundle")
    if folder not in path.resolve().parents:
        raise _refuse(f"{file} leads out of the bundle")
    size = path.stat().st_size
    if "bytes" in entry and entry["bytes"] != size:
        raise _refuse(f"{file} has {size} bytes, the manifest says {entry['bytes']}")
    if sha256_of(path) != entry["sha256"]:
        raise _refuse(f"{file} is damaged: its sha256 differs from the manifest's")


def _check_array(path: Path, entry: dict[str, Any]) -> None:
    import numpy as np

    try:
        inputs = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _refuse(f"{entry['file']} is not a numpy array: {error}") from error
    if not isinstance(inputs, np.ndarray) or not inputs.flags.c_contiguous:
        raise _refuse(f"{entry['file']} is not one array in C order")
    if list(inputs.shape) != entry["shape"] or inputs.dtype != np.dtype(entry["dtype"]):
        raise _refuse(
            f"{entry['file']} is {inputs.dtype} {list(inputs.shape)}, "
            f"the manifest says {entry['dtype']} {entry['shape']}"
        )


def _take(mapping: dict[str, Any], key: str, kind: Any, where: str) -> Any:
    if key not in mapping:
        raise _refuse(f"manifest.json: {where}{key} is missing")
    value = mapping[key]
    if not _is(value, kind):
        raise _refuse(f"manifest.json: {where}{key} is {one_line(repr(value), 60)}")
    return value


def _is(value: Any, kind: Any) -> bool:
    # In Python a bool is an int; in JSON it is not.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
