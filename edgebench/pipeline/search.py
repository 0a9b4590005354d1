"""Look for the best chain: try many on the target, then run the best as variants of a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgebench.data import Arrays, Dataset
from edgebench.errors import BuildError, NotMeasuredError, RecipeError, UsageError
from edgebench.metrics.base import METRICS
from edgebench.pipeline.build import Builder
from edgebench.pipeline.built import Built
from edgebench.pipeline.main import Job
from edgebench.pipeline.plan import PlannedStep, plan_chain, plan_variants
from edgebench.pipeline.target_probe import MEASURED
from edgebench.pipeline.trial_metrics import FROM_FILE, Judge
from edgebench.pipeline.trials import (
    Draw,
    Earlier,
    Trials,
    Tried,
    excess_over,
    front,
    nearest_to_limits,
    read_earlier,
)
from edgebench.recipe import Step
from edgebench.records import BuildRecord, SearchRecord, TriedChain
from edgebench.report import format as fmt
from edgebench.report.glossary import words
from edgebench.search_space import Search
from edgebench.transports.base import Transport

if TYPE_CHECKING:
    from edgebench.models.source import ModelSource

PRESERVATION = "functional_preservation"
# Of the metrics of answers, those that a search has no second network for.
UNKNOWN = {"accuracy_over_reference_pp"}
OWN_NAME = re.compile(r"trial-\d+")


@dataclass
class SearchJob(Job):
    """A run whose variants are found by trying chains.

    Trials are judged on the validation examples: latencies and answers come from the target, by a
    short measurement. The best are then measured and judged as in any run, on the test examples.
    The same command goes on with a search that was killed. After one that ended it tries the same
    chains again, which are built already, and measures them anew.
    """

    search: Search = field(init=False)
    earlier: Earlier = field(init=False, default_factory=Earlier)

    def __post_init__(self) -> None:
        """Everything that may be drawn is looked up now, before any work."""
        if self.recipe.search is None:
            raise RecipeError(
                "there is nothing to search: the recipe has no 'search'",
                where=self.recipe.where,
                hint="name chains with open values under search.chains (docs/search.md), or use "
                "'edgebench run'",
            )
        self.search = self.recipe.search
        super().__post_init__()
        del self.planned  # known once the search is over
        self._check_names()
        self._check_chains()
        self._check_metrics()

    def _check_kind(self) -> None:
        """`__post_init__` saw that this is a recipe to search with."""

    def _check_names(self) -> None:
        taken = next((name for name in self.recipe.variants if OWN_NAME.fullmatch(name)), None)
        if taken is not None:
            raise RecipeError(
                f"'{taken}' is what the search calls what it finds; give the variant another name",
                where=self.recipe.where,
            )

    def _check_chains(self) -> None:
        """Every value is in a chain that is possible, as far as can be told without a model."""
        for name, chains in self.search.examples(self.recipe.seed):
            problem: UsageError | None = None
            for chain in chains:
                try:
                    _planned(chain, f"{self.recipe.where}: search.chains.{name}")
                except UsageError as error:
                    problem = problem or error
                else:
                    break
            else:
                assert problem is not None  # noqa: S101 - every value has its chains
                raise problem

    def _check_metrics(self) -> None:
        """The objectives and the limits can be known of a trial."""
        where = f"{self.recipe.where}: search"
        answers = {n for n, m in METRICS.items() if m.of in {"model", "pair"}} - UNKNOWN
        known = {*MEASURED, *FROM_FILE, *answers}
        for metric in self._needed():
            METRICS.get(metric, where=where)
            if metric not in known:
                raise RecipeError(
                    f"'{metric}' is not known while searching",
                    where=where,
                    hint="use it as a gate of 'edgebench run', on the chains that were found",
                )
        controls = self.recipe.controls
        if not controls.independent and not controls.files:
            self._check_controls(there=False)

    def _check_controls(self, *, there: bool) -> None:
        if not there and PRESERVATION in self._needed():
            raise RecipeError(
                f"'{PRESERVATION}' needs an independent control, and there is none",
                where=f"{self.recipe.where}: controls",
                hint="set controls.independent to 1 or more, or name networks that were trained "
                "alike under controls.files",
            )

    def _needed(self) -> list[str]:
        """Objectives and limits, the metrics that a trial has to have."""
        return [*self.search.objectives, *(gate.metric for gate in self.recipe.gates)]

    def _plan_key(self, source: ModelSource, dataset: Dataset | Arrays) -> str:
        # How many are tried and kept does not change a trial: a search can be made longer.
        alike = copy(self)
        search = self.search.model_copy(update={"trials": 1, "keep": 1})
        alike.recipe = self.recipe.model_copy(update={"search": search})
        return super(SearchJob, alike)._plan_key(source, dataset)

    def prepare(
        self, device: dict[str, Any] | None, transport: Transport | None = None
    ) -> BuildRecord:
        """Search, build what was found, and write the bundle. The folder must be held."""
        if device is None or transport is None:
            raise NotMeasuredError(
                f"the target '{self.target.name}' cannot be reached to search on",
                hint="search on one that can, and carry the chains it finds over as variants",
            )
        # A new run removes the file of the last one.
        self.earlier = read_earlier(self.folder.path / self.folder.TRIALS)
        return super().prepare(device, transport)

    def _build(self, builder: Builder, source: ModelSource) -> list[Built]:
        controls = self.recipe.controls
        self._check_controls(there=bool(controls.files) or source.trainable)
        started = self._build_start(builder, source)
        if PRESERVATION in self._needed() and not builder.control_answers():
            problem = next(one.problem for one in started if one.control)
            raise BuildError(f"there is no control to tell {PRESERVATION} by: {problem}")
        judge = Judge(builder, started[0])
        assert builder.device is not None  # noqa: S101 - `prepare` saw to it
        trials = Trials(
            self.folder.path / self.folder.TRIALS,
            self.search,
            self.recipe.gates,
            self.recipe.seed,
            plan=self._plan_key(source, builder.dataset),
            device=builder.device["fingerprint"],
            earlier=self.earlier,
        )
        self._try_all(builder, judge, trials)
        found = self._chosen(trials)
        self.planned = plan_variants(
            self.recipe.with_variants(
                {
                    **{
                        name: [step.model_dump() for step in chain]
                        for name, chain in self.recipe.variants.items()
                    },
                    **{_name(one.number): list(one.chain) for one in found},
                }
            )
        )
        self.searched = _record(trials.ended(), self.search, found)
        if self.recipe.data_limits.validation is None:
            self.warnings.append(
                f"the search judged its chains on {judge.examples} training examples, since none "
                "are held out; data_limits.validation holds some out"
            )
        return [*started, *self._build_variants(builder)]

    def _try_all(self, builder: Builder, judge: Judge, trials: Trials) -> None:
        """Try chains until there are enough, or no other is left."""
        wanted = self.search.trials
        done = len(trials.ended())
        if done:
            self.progress.say(f"{min(done, wanted)} of {wanted} trials are done already")
        while (done := len(trials.ended())) < wanted:
            draw = trials.begin()
            if draw is None:
                self.warnings.append(
                    f"the search ended after {done} of {wanted} trials: it found no other chain"
                )
                self.progress.say(self.warnings[-1])
                return
            self.progress.say(f"trial {done + 1} of {wanted}: {self._shown(draw)}")
            tried = self._try(builder, judge, draw)
            trials.tell(draw, tried)
            self.progress.say(f"  {self._outcome(tried)}")

    def _try(self, builder: Builder, judge: Judge, draw: Draw) -> Tried:
        name = _name(draw.number)

        def failed(problem: str) -> Tried:
            return Tried(draw.number, draw.name, tuple(draw.chain), {}, {}, problem)

        try:
            planned = _planned(draw.chain, name)
        except UsageError as error:
            return failed(error.line())
        built = builder.candidate(name, planned)
        if built.file is None:
            return failed(built.problem or "it could not be built")
        try:
            with self._stage(f"{name}: measure on {self.target.name}"):
                metrics = judge.metrics(built.file)
        except BuildError as error:
            return failed(error.line())
        missing = next((n for n in self._needed() if n not in metrics), None)
        if missing is not None:
            return failed(f"its {words(missing).label.lower()} is not known")
        excess = excess_over(self.recipe.gates, metrics)
        return Tried(draw.number, draw.name, tuple(draw.chain), metrics, excess)

    def _chosen(self, trials: Trials) -> list[Tried]:
        """The best of the front; where nothing meets the limits, what comes nearest."""
        tried = trials.ended()
        found = front(tried, self.search.objectives)[: self.search.keep]
        if found:
            return found
        near = nearest_to_limits(tried)
        if near is None:
            # What was wrong may be mended by then: the same command tries them again.
            trials.forget()
            raise BuildError(
                f"none of {len(tried)} chains could be built and measured; the last: "
                f"{tried[-1].problem}"
            )
        self.warnings.append(
            f"no chain of {len(tried)} met the limits in the search; {_name(near.number)} came "
            "nearest"
        )
        return [near]

    def _shown(self, draw: Draw) -> str:
        drawn = ", ".join(
            f"{fmt.clean(option)} {'none' if value is None else fmt.plain(value)}"
            for option, value in self.search.drawn_words(draw.name, draw.drawn)
        )
        return fmt.clean(draw.name) + (f" ({drawn})" if drawn else "")

    def _outcome(self, tried: Tried) -> str:
        if tried.problem is not None:
            return f"failed: {fmt.clean(tried.problem)}"
        shown = [_value(name, tried.metrics) for name in self.search.objectives]
        missed = [gate for gate, excess in tried.excess.items() if excess > 0]
        shown += [
            _value(gate.metric, tried.metrics)
            for gate in self.recipe.gates
            if gate.describe() in missed and gate.metric not in self.search.objectives
        ]
        limits = f"misses {', '.join(missed)}" if missed else "within the limits"
        return f"{', '.join(shown)}: {limits}"


def _planned(chain: Sequence[Mapping[str, Any]], place: str) -> tuple[PlannedStep, ...]:
    return plan_chain([Step.model_validate(dict(step)) for step in chain], place)


def _name(number: int) -> str:
    return f"trial-{number + 1}"


def _value(metric: str, metrics: Mapping[str, float]) -> str:
    return f"{words(metric).label.lower()} {fmt.point(metric, metrics[metric])}"


def _record(tried: Sequence[Tried], search: Search, chosen: Sequence[Tried]) -> SearchRecord:
    on_front = {one.number for one in front(tried, search.objectives)}
    became = {one.number for one in chosen}
    return SearchRecord(
        objectives=tuple(search.objectives),
        trials=tuple(
            TriedChain(
                number=one.number + 1,
                name=one.name,
                chain=one.chain,
                # JSON knows no infinity.
                metrics={n: v for n, v in one.metrics.items() if fmt.finite(v) is not None},
                within=one.within,
                on_front=one.number in on_front,
                variant=_name(one.number) if one.number in became else None,
                problem=one.problem,
            )
            for one in tried
        ),
    )
