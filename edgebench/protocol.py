"""The measuring protocol: how long, how often and in which order the agent times a model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from edgebench.errors import RecipeError, UnknownNameError
from edgebench.validation import validated


class Protocol(BaseModel):
    """What the agent does for each timed model. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    processes: int = Field(
        6,
        ge=1,
        le=100,
        description="fresh processes a model, the unit of every interval: 6 give 95 %",
    )
    pairs: int = Field(
        2, ge=1, le=1000, description="pairs of base and variant blocks in each process"
    )
    block_s: float = Field(0.08, gt=0, le=60, description="length of a block")
    warmup_s: float = Field(0.1, ge=0, le=60, description="least warm-up of each arm")
    warmup_cap_s: float = Field(2.0, gt=0, le=600, description="most warm-up of each arm")
    rotate: int = Field(8, ge=1, le=4096, description="real inputs that take turns")
    outputs_batch: int = Field(64, ge=1, le=65536, description="batch for the untimed outputs")
    timeout_s: float = Field(120.0, gt=0, le=86400, description="limit for one process")
    cpu: list[int] | None = Field(None, description="processors to pin to; none: the agent's pick")


PROFILES: dict[str, Protocol] = {
    "quick": Protocol(name="quick"),
    "standard": Protocol(
        name="standard", processes=6, pairs=5, block_s=0.4, warmup_s=1.0, warmup_cap_s=10.0
    ),
    "rigorous": Protocol(
        name="rigorous",
        processes=10,
        pairs=12,
        block_s=1.0,
        warmup_s=1.0,
        warmup_cap_s=20.0,
        timeout_s=600.0,
    ),
}


def resolve_protocol(value: str | dict[str, Any], *, where: str) -> Protocol:
    """The protocol for a profile's name, or for a mapping of settings.

    A mapping starts from `quick`, or from the profile it names under `profile`.
    """
    if isinstance(value, str):
        if value not in PROFILES:
            raise UnknownNameError("protocol", value, PROFILES, where=where)
        return PROFILES[value]
    settings = dict(value)
    profile = settings.pop("profile", "quick")
    if profile not in PROFILES:
        raise UnknownNameError("protocol", str(profile), PROFILES, where=where)
    merged = {**PROFILES[profile].model_dump(), "name": f"{profile}, changed", **settings}
    return validated(Protocol, merged, RecipeError, where=where, noun="protocol")
