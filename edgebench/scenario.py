"""One scenario of the protocol: how queries arrive, how many, and on how many threads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgebench.agent.scenarios.loops import MOST_QUERIES
from edgebench.errors import RecipeError
from edgebench.validation import validated

Kind = Literal["single-stream", "multi-stream", "server", "offline"]

# Seconds of queries by profile. MLPerf asks for 600 s of a submission.
DURATIONS = {"quick": 2.0, "standard": 10.0, "rigorous": 60.0}
# Six processes then have the 662 queries that a 99th percentile needs.
MIN_QUERIES = 120
MIN_BATCHES = 4
# As long as `duration_s` may be at most.
_DAY_S = 86400.0

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ONLY_FOR: dict[str, Kind] = {"qps": "server", "load": "server", "samples": "multi-stream"}


class Scenario(BaseModel):
    """How one scenario asks its queries; docs/scenarios.md explains each.

    `duration_s` and `min_queries` hold for each model in each process; queries of the scenario
    offline are batches. `load` is a share of the model's own closed-loop capacity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scenario: Kind = Field(description="how queries arrive")
    label: str | None = Field(None, description="what reports call it; none: made of its settings")
    driver: Literal["edgebench", "loadgen"] = Field(
        "edgebench", description="who asks: edgebench, or MLPerf's own load generator"
    )
    batch: int | None = Field(None, ge=1, le=65536, description="examples in one inference")
    threads: int | None = Field(None, ge=1, le=1024, description="none: the target's")
    duration_s: float | None = Field(
        None, gt=0, le=_DAY_S, description="least time; none: 2, 10 or 60 s, as the profile is"
    )
    min_queries: int | None = Field(None, ge=1, le=10**6, description="least number of queries")
    samples: int | None = Field(
        None, ge=1, le=65536, description="examples in a multi-stream query"
    )
    qps: float | None = Field(None, gt=0, le=1e7, description="arrivals a second at a server")
    load: float | None = Field(
        None, gt=0, le=100, description="arrivals as a share of what the model could serve"
    )
    target_latency_ms: float | None = Field(
        None, gt=0, le=1e7, description="what the 99th percentile should stay below"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        for key, kind in _ONLY_FOR.items():
            if getattr(self, key) is not None and self.scenario != kind:
                raise ValueError(f"'{key}' is for the scenario {kind}, not for {self.scenario}")
        if self.scenario == "server":
            if (self.qps is None) == (self.load is None):
                raise ValueError(
                    "a server needs its arrivals: give either 'qps' (a second) or 'load' (a share "
                    "of the model's capacity)"
                )
            if self.driver == "loadgen" and self.target_latency_ms is None:
                raise ValueError("LoadGen judges a server by 'target_latency_ms': give one")
            self._can_arrive()
        if self.scenario == "offline" and self.target_latency_ms is not None:
            raise ValueError("offline has no latency, so no 'target_latency_ms'")
        if self.label is not None and not _LABEL.fullmatch(self.label):
            raise ValueError(
                f"'{self.label}' cannot be a label: use up to 64 letters, digits, '.', '_' and '-'"
            )
        if self.samples is not None and self.batch is not None and self.samples % self.batch:
            raise ValueError(f"{self.samples} samples do not divide into batches of {self.batch}")
        return self

    def _can_arrive(self) -> None:
        """Raise ValueError where too many queries would arrive, or too slowly."""
        if self.qps is None:
            return
        if self.duration_s is not None and self.qps * self.duration_s > self.most_queries:
            raise ValueError(
                f"{self.qps:,.10g} queries a second for {self.duration_s:g} s are more than the "
                f"{self.most_queries:,} that a process keeps: lower 'qps' or 'duration_s', or "
                "raise 'min_queries' to keep them all"
            )
        if self.min_queries is not None and self.min_queries > self.qps * _DAY_S:
            raise ValueError(
                f"at {self.qps:g} a second, {self.min_queries:,} queries take more than a day: "
                "raise 'qps' or lower 'min_queries'"
            )

    @property
    def most_queries(self) -> int:
        """How many queries of one model a process keeps at most."""
        return max(MOST_QUERIES, self.min_queries or 1)

    @property
    def queries_of(self) -> int:
        """How many examples one query holds."""
        if self.driver == "loadgen" and self.scenario in ("single-stream", "server"):
            # One of LoadGen's samples; a larger batch is filled up with copies of it.
            return 1
        return self.samples or self.batch or 1


def resolve_scenarios(listed: Any, *, profile: str, batch: int, where: str) -> tuple[Scenario, ...]:
    """The scenarios of a protocol with every default filled in; raises RecipeError.

    `profile` is the protocol's, `batch` its batch size. Labels differ from one another.
    """
    if isinstance(listed, Mapping) or not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RecipeError(
            "'protocol.scenarios' is not a list",
            where=where,
            hint="write '- {scenario: single-stream}' lines",
        )
    resolved: list[Scenario] = []
    for index, values in enumerate(listed):
        given = values.model_dump() if isinstance(values, Scenario) else values
        place = f"{where}, protocol.scenarios[{index}]"
        one = validated(Scenario, given, RecipeError, where=place, noun="scenario")
        one = _filled(one, profile, batch)
        # Once more: what was filled in has to fit, too.
        one = validated(Scenario, one.model_dump(), RecipeError, where=place, noun="scenario")
        if any(one.label == other.label for other in resolved):
            raise RecipeError(
                f"two scenarios are called '{one.label}'",
                where=place,
                hint="tell them apart with 'label: …'",
            )
        resolved.append(one)
    return tuple(resolved)


def _filled(one: Scenario, profile: str, batch: int) -> Scenario:
    least = MIN_BATCHES if one.scenario == "offline" else MIN_QUERIES
    own_batch = one.batch or (batch if one.scenario != "multi-stream" else 1)
    return one.model_copy(
        update={
            "label": one.label or _label(one),
            "batch": own_batch,
            "samples": 8 if one.scenario == "multi-stream" and not one.samples else one.samples,
            "duration_s": one.duration_s or DURATIONS.get(profile, DURATIONS["quick"]),
            "min_queries": one.min_queries or least,
        }
    )


def _label(one: Scenario) -> str:
    """The settings that were given, e.g. `server-qps200-b4-t2-loadgen`."""
    parts: list[str] = [one.scenario]
    if one.scenario == "multi-stream":
        parts.append(str(one.samples or 8))
    if one.qps is not None:
        parts.append(f"qps{one.qps:g}")
    if one.load is not None:
        parts.append(f"load{one.load:g}")
    if one.batch is not None:
        parts.append(f"b{one.batch}")
    if one.threads is not None:
        parts.append(f"t{one.threads}")
    if one.driver != "edgebench":
        parts.append(one.driver)
    return re.sub("[^A-Za-z0-9._-]", "", "-".join(parts))
