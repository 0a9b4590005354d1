"""The measuring protocol: how long, how often and in which order the agent times a model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgebench.errors import RecipeError, UnknownNameError
from edgebench.scenario import Scenario, resolve_scenarios
from edgebench.validation import validated


class Protocol(BaseModel):
    """What the agent does for each timed model. Times in seconds.

    The defaults are those of `quick`; docs/measurement.md says where each comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    processes: int = Field(
        6,
        ge=1,
        le=1000,
        description="least fresh processes a model, the unit of every interval: 6 give 95 %",
    )
    max_processes: int = Field(6, ge=1, le=1000, description="most fresh processes a model")
    half_width: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="enough processes once the latency ratio's interval is ± this share of it",
    )
    time_cap_s: float | None = Field(
        None, gt=0, le=86400, description="no more processes of a model after this time"
    )
    pairs: int = Field(
        12, ge=1, le=10000, description="pairs of base and variant blocks in each process"
    )
    least_pairs: int = Field(
        8, ge=1, le=10000, description="at least so many where a sample takes longer than a block"
    )
    block_s: float = Field(0.01, gt=0, le=60, description="length of a block, one sample at least")
    warmup_s: float = Field(0.1, ge=0, le=600, description="least warm-up of each arm")
    warmup_cap_s: float = Field(2.0, gt=0, le=3600, description="most warm-up of each arm")
    warmup_median: float = Field(
        0.02, gt=0, le=1, description="steady: two windows' medians agree to this share"
    )
    warmup_iqr: float = Field(
        0.10, gt=0, le=10, description="steady: a window's interquartile range over its median"
    )
    timer_steps: int = Field(
        4000, ge=1, le=10**6, description="a sample lasts so many steps of the clock"
    )
    single_s: float = Field(
        0.08, gt=0, le=600, description="time of queries timed one by one in each process"
    )
    rotate: int = Field(8, ge=1, le=4096, description="real inputs that take turns")
    same_input: bool = Field(True, description="look for remembered answers (MLPerf's TEST04)")
    recheck: bool = Field(True, description="check answers inside the timed phase (TEST01)")
    inspect: bool = Field(
        True, description="which operators ran where, how many in integers, do they saturate"
    )
    confirm: bool = Field(
        False, description="measure again in fresh processes before a latency gate says NO-GO"
    )
    lock_clocks: bool = Field(
        False, description="lock the device's clocks meanwhile (needs root), and restore them"
    )
    energy_s: float = Field(
        0.0, ge=0, le=3600, description="window for energy, where the device has a sensor; 0: none"
    )
    idle_s: float = Field(10.0, gt=0, le=3600, description="idle window that energy is told from")
    batch: int = Field(1, ge=1, le=65536, description="examples in a timed query")
    scenarios: tuple[Scenario, ...] = Field(
        (), description="how queries arrive, each measured by itself; see docs/scenarios.md"
    )
    outputs_batch: int = Field(64, ge=1, le=65536, description="batch for the untimed outputs")
    timeout_s: float = Field(120.0, gt=0, le=86400, description="limit for one process")
    cpu: list[int] | None = Field(None, description="processors to pin to; none: the agent's pick")

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        if self.max_processes < self.processes:
            raise ValueError(
                f"max_processes ({self.max_processes}) is below processes ({self.processes})"
            )
        if 0 < self.energy_s < 10:
            raise ValueError("energy_s is below 10: sensors are too slow for a shorter window")
        own_s = 2 * self.warmup_cap_s + 2 * self.pairs * self.block_s + self.single_s
        if own_s >= self.timeout_s:
            raise ValueError(
                f"timeout_s ({self.timeout_s:g}) is not above the {own_s:g} s that warm-up, pairs "
                "and single queries of one process may take"
            )
        return self


PROFILES: dict[str, Protocol] = {
    "quick": Protocol(name="quick"),
    "standard": Protocol(
        name="standard",
        processes=7,
        max_processes=24,
        half_width=0.005,
        time_cap_s=14.0,
        pairs=30,
        least_pairs=10,
        warmup_s=0.15,
        warmup_cap_s=3.0,
        single_s=0.1,
        confirm=True,
        energy_s=10.0,
    ),
    "rigorous": Protocol(
        name="rigorous",
        processes=12,
        max_processes=100,
        half_width=0.002,
        time_cap_s=240.0,
        pairs=60,
        least_pairs=16,
        warmup_s=0.5,
        warmup_cap_s=10.0,
        single_s=0.5,
        confirm=True,
        energy_s=30.0,
        idle_s=30.0,
        timeout_s=600.0,
    ),
}


def resolve_protocol(value: str | dict[str, Any], *, where: str) -> Protocol:
    """The protocol for a profile's name, or for a mapping of settings.

    A mapping starts from `quick`, or from the profile it names under `profile`. Where it raises
    `processes` alone, `max_processes` follows.
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
    asked = settings.get("processes")
    if isinstance(asked, int) and "max_processes" not in settings:
        fixed = merged["half_width"] is None
        merged["max_processes"] = asked if fixed else max(asked, merged["max_processes"])
    listed = merged.pop("scenarios")
    protocol = validated(Protocol, merged, RecipeError, where=where, noun="protocol")
    scenarios = resolve_scenarios(listed, profile=profile, batch=protocol.batch, where=where)
    return protocol.model_copy(update={"scenarios": scenarios})
