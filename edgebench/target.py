"""The target: one YAML file a device; runtime, precisions, transport, limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from edgebench.agent.runtimes import RUNTIMES
from edgebench.errors import UnknownNameError, UsageError
from edgebench.recipe import apply_setting
from edgebench.shipped import shipped_folder
from edgebench.validation import validated
from edgebench.yamlfile import read_yaml

Int8Format = Literal["u8s8-reduced", "u8s8", "s8s8", "s8s8-symmetric"]


class TargetError(UsageError):
    """The target file cannot be read or makes no sense."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Runtime(_Part):
    """What runs the model on the device, with its options.

    `providers` are ONNX Runtime's execution providers, OpenVINO's devices, or torch's, in order of
    preference; "auto" takes the device's accelerators first. `session_config` is the runtime's own.
    """

    name: str = "onnxruntime"
    providers: Literal["auto"] | list[str] = "auto"
    threads: int = Field(1, ge=1, le=1024)
    session_config: dict[str, str] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in RUNTIMES:
            raise ValueError(f"there is no runtime '{name}'; there is {', '.join(RUNTIMES)}")
        return name


class Target(_Part):
    """A device, how it is reached, and what it can run.

    `env` is added to the agent's environment there (LD_LIBRARY_PATH, say).
    `family` is what the device must turn out to be; where it does not, the report says so. `int8`
    names the quantization format; "auto" takes it from the device's processor. `opset` is the ONNX
    operator set its runtime understands.
    """

    name: str
    description: str = ""
    family: Literal["any", "jetson"] = "any"
    transport: str = "local"
    host: str | None = None
    python: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    connect_timeout_s: float = Field(10.0, gt=0, le=600)
    runtime: Runtime = Runtime()
    precisions: list[Literal["fp32", "fp16", "bf16", "int8"]] = ["fp32", "fp16", "int8"]
    int8: Literal["auto", Int8Format] = "auto"
    opset: int = Field(18, ge=18, le=23)


def host_variable(name: str) -> str:
    """The environment variable that may name the host of the target `name`."""
    return f"EDGEBENCH_{name.upper().replace('-', '_')}_HOST"


def target_files() -> dict[str, Path]:
    """The known targets by name: those shipped, and those in ./targets, which win."""
    found: dict[str, Path] = {}
    for folder in (shipped_folder("targets"), Path("targets")):
        if folder.is_dir():
            found.update({p.stem: p for p in sorted(folder.glob("*.yaml"))})
    return found


def load_target(name: str, *, host: str | None = None, settings: list[str] | None = None) -> Target:
    """The target of a name or at a path; the host comes from the option, the environment, the file.

    `settings` are `dotted.key=value` texts without the leading `target.`.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        known = target_files()
        if name not in known:
            raise UnknownNameError("target", name, known)
        path = known[name]
    values: Any = read_yaml(path, TargetError, "target")
    if isinstance(values, dict):
        values = {"name": path.stem, **values}
        for setting in settings or []:
            apply_setting(values, setting)
    target = validated(Target, values, TargetError, where=str(path), noun="target")
    if target.transport == "ssh":
        chosen = host or os.environ.get(host_variable(target.name)) or target.host
        return target.model_copy(update={"host": chosen or None})
    if host:
        raise UsageError(
            f"the target '{target.name}' is reached by '{target.transport}', not over ssh",
            where="--host",
            hint="leave --host out, or name a target with transport: ssh",
        )
    return target
