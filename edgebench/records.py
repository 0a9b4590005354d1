"""The records a run leaves behind: immutable, versioned, JSON.

`run.json` is a `RunRecord`. Raw samples and raw outputs lie in files beside it and are named by
the records; every statistic can be derived from them again.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RUN_SCHEMA: Literal["edgebench.run/1"] = "edgebench.run/1"
BUILD_SCHEMA: Literal["edgebench.build/1"] = "edgebench.build/1"

# A note of a built variant that starts so is a warning, and stands among those of the run.
WARNING = "warning: "

# For records whose JSON has the key "schema", which pydantic keeps for itself.
ALIASED = ConfigDict(
    frozen=True,
    extra="forbid",
    ser_json_inf_nan="null",
    validate_by_name=True,
    serialize_by_alias=True,
)

Verdict = Literal["GO", "NO-GO", "INCONCLUSIVE"]
Status = Literal["measured", "failed", "skipped", "not_measured"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN or infinity in the JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Estimate(Record):
    """A value with its interval.

    `point`, `low` and `high` are in the metric's unit (null: not finite, e.g. the signal-to-noise
    ratio of identical outputs); `n` counts the independent units (examples, or block pairs);
    `method` names how the interval was made, its level included.
    """

    point: float | None
    low: float | None
    high: float | None
    n: int
    method: str


class Artifact(Record):
    """An exported file: `path` relative to the run folder, sizes in bytes."""

    format: str
    sha256: str
    bytes: int
    compressed_bytes: int
    path: str


class Measurement(Record):
    """How one artifact was measured on the target, and whether that is evidence.

    `fingerprint` is the sha256 of all that has to be alike for two latencies to be comparable:
    device, runtime, its options, threads, batch and inputs. `noise_floor`: what base differs by
    when it is timed against itself; `smallest_detectable_change`: the least change of latency that
    this measurement would have told from none. Both are shares of the latency.
    """

    grade: Literal["A", "B", "C"]
    valid: bool
    fingerprint: str | None = None
    noise_floor: float | None = None
    smallest_detectable_change: float | None = None
    invalid_reasons: tuple[str, ...] = ()
    evidence: dict[str, Any] = Field(default_factory=dict)
    samples_file: str | None = None
    outputs_file: str | None = None


class ScenarioResult(Record):
    """One variant under one scenario, i.e. one way for queries to arrive (docs/scenarios.md).

    `settings` are the scenario's, all defaults filled in. `metrics` are the variant's own: latency
    quantiles (`p99_ms`), of a server also of the service alone (`service_p99_ms`), rates a second.
    `ratios` are over base's, paired by process. `needed`: quantiles that are not given, and how
    many queries each would have taken. `target_met` is null where there is no target latency.
    `evidence` holds each process's own account, with LoadGen's verdict where it drove.
    """

    label: str
    scenario: Literal["single-stream", "multi-stream", "server", "offline"]
    driver: Literal["edgebench", "loadgen"]
    settings: dict[str, Any]
    valid: bool
    problem: str | None = None
    invalid_reasons: tuple[str, ...] = ()
    queries: int = 0
    processes: int = 0
    metrics: dict[str, Estimate] = Field(default_factory=dict)
    ratios: dict[str, Estimate] = Field(default_factory=dict)
    needed: dict[str, int] = Field(default_factory=dict)
    offered_qps: float | None = None
    target_latency_ms: float | None = None
    target_met: Literal["yes", "no", "undecided"] | None = None
    evidence: dict[str, Any] = Field(default_factory=dict)
    samples_file: str | None = None


class Figure(Record):
    """A drawing of numbers: `series` by name, each [(x, y), …], with the names of both axes.

    `kind`: "line" joins the points of a series, "scatter" does not, "bar" has one value a name.
    """

    title: str
    x: str
    y: str
    kind: Literal["line", "scatter", "bar"] = "line"
    series: dict[str, tuple[tuple[float, float], ...]]


class Reason(Record):
    """What one gate said, and why, in words."""

    gate: str
    metric: str
    verdict: Verdict
    text: str


class Variant(Record):
    """One variant of the model: what was done to it, what came out, and the verdict.

    `verdict` is null for base, for controls, for references, and wherever `status` is not
    "measured"; then `problem` says in one line why. `reference`: a network measured beside a
    variant, and what it is ("trained as long in float32"); null for all others.
    """

    name: str
    chain: tuple[dict[str, Any], ...] = ()
    control: bool = False
    reference: str | None = None
    status: Status
    problem: str | None = None
    artifact: Artifact | None = None
    metrics: dict[str, float | None] = Field(default_factory=dict)
    intervals: dict[str, Estimate] = Field(default_factory=dict)
    comparisons: dict[str, Estimate] = Field(default_factory=dict)
    measurement: Measurement | None = None
    scenarios: tuple[ScenarioResult, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    verdict: Verdict | None = None
    reasons: tuple[Reason, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether it is a variant to be judged: neither base, nor a control, nor a reference."""
        return self.name != "base" and not self.beside

    @property
    def beside(self) -> bool:
        """Whether it only gives others a scale: a control or a reference. Its time is not kept."""
        return self.control or self.reference is not None


class TriedChain(Record):
    """One chain a search tried: `metrics` on the validation examples and the target, by name.

    `within`: it meets every limit; `on_front`: no other one that does beats it in every objective;
    `variant`: the run's variant it became, if it did; `problem`: why nothing was measured.
    """

    number: int
    name: str
    chain: tuple[dict[str, Any], ...]
    metrics: dict[str, float]
    within: bool
    on_front: bool
    variant: str | None = None
    problem: str | None = None


class SearchRecord(Record):
    """What a search tried, in order, and what it was to improve."""

    objectives: tuple[str, ...]
    trials: tuple[TriedChain, ...]


class Stage(Record):
    """How long one step took, and whether its result was already there."""

    name: str
    seconds: float
    reused: bool = False


class Landscape(Record):
    """Where the models lie as functions: a plane whose distances follow the activation distance.

    `points` maps a variant's name to (x, y); `beyond` the models that lie too far out to be drawn
    with the others, with their activation distance from base; `stress` is the share of the
    distances the plane cannot show (0: none).
    """

    points: dict[str, tuple[float, float]]
    beyond: dict[str, float] = Field(default_factory=dict)
    stress: float
    method: str


class BuildRecord(Record):
    """What was built and is to be measured: `build.json`, from which a run can be judged.

    `variants` have no verdict yet; base comes first.
    """

    schema_: Literal["edgebench.build/1"] = Field(default=BUILD_SCHEMA, alias="schema")
    run_id: str
    created: str
    edgebench_version: str
    versions: dict[str, str]
    recipe: dict[str, Any]
    target: dict[str, Any]
    data: dict[str, Any]
    variants: tuple[Variant, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...] = ()
    search: SearchRecord | None = None

    model_config = ALIASED


class RunRecord(Record):
    """One finished run: `run.json`."""

    schema_: Literal["edgebench.run/1"] = Field(default=RUN_SCHEMA, alias="schema")
    run_id: str
    created: str
    edgebench_version: str
    versions: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any]
    target: dict[str, Any]
    device: dict[str, Any]
    data: dict[str, Any] = Field(default_factory=dict)
    variants: tuple[Variant, ...]
    search: SearchRecord | None = None
    landscape: Landscape | None = None
    stages: tuple[Stage, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None
    verdict_text: str = ""
    exit_code: int

    model_config = ALIASED

    def variant(self, name: str) -> Variant | None:
        """The variant called `name`, if there is one."""
        return next((v for v in self.variants if v.name == name), None)

    @property
    def base(self) -> Variant:
        """The uncompressed model."""
        return next(v for v in self.variants if v.name == "base")
