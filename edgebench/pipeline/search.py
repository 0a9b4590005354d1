"""Look for the best chain: try many on the target, then run the best as variants of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebench import compare
from edgebench.errors import BuildError, NotMeasuredError, RecipeError
from edgebench.exporters.onnx_file import compressed_size
from edgebench.metrics.base import METRICS, Context, Outputs
from edgebench.pipeline.build import Builder, Built
from edgebench.pipeline.main import Job
from edgebench.pipeline.plan import check_gates, plan_chain, plan_variants
from edgebench.pipeline.target_probe import Probed
from edgebench.pipeline.trials import Trials, Tried, excess_over, front, nearest_to_limits
from edgebench.recipe import Step
from edgebench.records import SearchRecord, TriedChain
from edgebench.search_space import Search

if TYPE_CHECKING:
    from edgebench.models.source import ModelSource

# What is known of a trial beside every metric of its answers.
FROM_TARGET = ("latency_ratio", "size_ratio", "compressed_size_ratio", "size_bytes")


@dataclass
class SearchJob(Job):
    """A run whose variants are found by trying chains.

    Trials are judged on the validation examples: latencies and answers come from the target, by a
    short measurement. The best are then measured and judged as in any run, on the test examples.
    """

    search: Search = field(init=False)

    def __post_init__(self) -> None:
        """Every chain that may be drawn is looked up now, as far as can be."""
        if self.recipe.search is None:
            raise RecipeError(
                "there is nothing to search: the recipe has no 'search'",
                where=self.recipe.where,
                hint="name chains with open values under search.chains (docs/search.md)",
            )
        self.search = self.recipe.search
        super().__post_init__()
        del self.planned  # known once the search is over
        for name, chain in self.search.corners():
            plan_chain(
                [Step.model_validate(step) for step in chain],
                f"{self.recipe.where}: search.chains.{name}",
            )
        known = {*FROM_TARGET, *(n for n, m in METRICS.items() if m.of in {"model", "pair"})}
        wanted = [*self.search.objectives, *(gate.metric for gate in self.recipe.gates)]
        for metric in wanted:
            METRICS.get(metric, where=f"{self.recipe.where}: search")
            if metric not in known:
                raise RecipeError(
                    f"'{metric}' is not known while searching",
                    where=f"{self.recipe.where}: search",
                    hint="use it as a gate of a later 'edgebench run'",
                )
        check_gates(self.recipe.gates, where=self.recipe.where)

    def _check_kind(self) -> None:
        """`__post_init__` saw that this is a recipe to search with."""

    def _build(self, builder: Builder, source: ModelSource) -> list[Built]:
        started = self._build_start(builder, source)
        base = started[0]
        if builder.probe is None:
            raise NotMeasuredError(
                f"the target '{self.target.name}' cannot be reached to search on",
                hint="search on one that can, and carry the chains it finds over as variants",
            )
        trials = Trials(
            self.folder.path / self.folder.TRIALS, self.search, self.recipe.gates, self.recipe.seed
        )
        while (done := len(trials.ended())) < self.search.trials:
            trial, name, chain = trials.begin()
            self.progress.say(f"trial {done + 1} of {self.search.trials}: {name}")
            tried = self._try(builder, base, trial.number, name, chain)
            trials.tell(trial, tried)
        found = self._chosen(trials.ended())
        self.recipe = self.recipe.with_variants(
            {**self._given(), **{_name(one): list(one.chain) for one in found}}
        )
        self.planned = plan_variants(self.recipe)
        self.searched = _record(trials.ended(), self.search, found)
        return [*started, *self._build_variants(builder)]

    def _try(
        self, builder: Builder, base: Built, number: int, name: str, chain: list[dict[str, Any]]
    ) -> Tried:
        def failed(problem: str | None) -> Tried:
            return Tried(number, name, tuple(chain), {}, {}, problem or "it could not be built")

        assert builder.probe is not None  # noqa: S101 - `_build` saw to it
        try:
            planned = plan_chain(
                [Step.model_validate(step) for step in chain], f"trial {number + 1}"
            )
        except RecipeError as error:
            return failed(error.line())
        built = builder.candidate(f"trial-{number + 1}", planned)
        if built.file is None or base.file is None:
            return failed(built.problem)
        inputs, labels = builder.validation()
        try:
            probed = builder.probe.measure(base.file, {"candidate": built.file}, inputs)
        except (BuildError, NotMeasuredError) as error:
            if isinstance(error, NotMeasuredError) and not number:
                # Nothing was ever measured: the target is at fault, not the chain.
                raise
            return failed(error.line())
        metrics = _metrics(builder, base, built, probed, labels)
        missing = [n for n in self._needed() if n not in metrics]
        if missing:
            return failed(f"'{missing[0]}' has no value")
        kept = {k: v for k, v in metrics.items() if np.isfinite(v)}
        return Tried(
            number, name, tuple(chain), kept, excess_over(self.recipe.gates, metrics), None
        )

    def _given(self) -> dict[str, list[dict[str, Any]]]:
        """The variants the recipe names itself; they are measured beside what was found."""
        return {
            name: [step.model_dump() for step in chain]
            for name, chain in self.recipe.variants.items()
        }

    def _needed(self) -> list[str]:
        return [*self.search.objectives, *(gate.metric for gate in self.recipe.gates)]

    def _chosen(self, tried: list[Tried]) -> list[Tried]:
        """The best of the front; where nothing meets the limits, what comes nearest."""
        found = front(tried, self.search.objectives)[: self.search.keep]
        if found:
            return found
        near = nearest_to_limits(tried)
        if near is None:
            raise BuildError(f"none of {len(tried)} trials could be measured: {tried[-1].problem}")
        self.warnings.append(
            f"no chain of {len(tried)} met the limits in the search; {_name(near)} came nearest"
        )
        return [near]


def _metrics(
    builder: Builder,
    base: Built,
    built: Built,
    probed: dict[str, Probed],
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> dict[str, float]:
    """What is known of a trial, by the names of the metrics."""
    assert base.file is not None  # noqa: S101 - a run without base ended before
    assert built.file is not None  # noqa: S101 - the caller saw to it
    outputs = {n: Outputs(one.answers, labels, builder.probabilities) for n, one in probed.items()}
    controls = tuple(
        Outputs(answers, labels, builder.probabilities) for answers in builder.control_answers()
    )
    # One resample is enough: a search goes by the points, not by their intervals.
    once = np.ones((1, len(labels)), dtype=np.float32)
    values, _ = compare.model_metrics(outputs["candidate"])
    compared = compare.pair_metrics(outputs["candidate"], Context(outputs["base"], controls, once))
    sizes = [file.stat().st_size for file in (built.file, base.file)]
    packed = [compressed_size(file) for file in (built.file, base.file)]
    found: dict[str, float | None] = {
        **values,
        **{name: estimate.point for name, estimate in compared.items()},
        "latency_ratio": probed["candidate"].ratio.point,
        "size_ratio": sizes[0] / sizes[1],
        "compressed_size_ratio": packed[0] / packed[1],
        "size_bytes": float(sizes[0]),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _name(tried: Tried) -> str:
    return f"trial-{tried.number + 1}"


def _record(tried: list[Tried], search: Search, chosen: list[Tried]) -> SearchRecord:
    on_front = {one.number for one in front(tried, search.objectives)}
    return SearchRecord(
        objectives=tuple(search.objectives),
        trials=tuple(
            TriedChain(
                number=one.number + 1,
                name=one.name,
                chain=one.chain,
                metrics=dict(one.metrics),
                within=one.within,
                on_front=one.number in on_front,
                variant=_name(one) if one in chosen else None,
                problem=one.problem,
            )
            for one in tried
        ),
    )
