"""The trials of a search, kept by Optuna in a file that a killed search goes on from.

Each trial's draw is seeded by its number, so a search that was interrupted draws what an
uninterrupted one would have.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgebench.hashing import named_seed
from edgebench.metrics.base import METRICS
from edgebench.recipe import Gate
from edgebench.search_space import Choice, Interval, Open, Scalar, Search

if TYPE_CHECKING:
    import optuna

STUDY = "search"
# So many are drawn at random before the sampler has seen enough to guess.
RANDOM = 8


@dataclass(frozen=True)
class Tried:
    """One trial that has ended.

    `metrics`: what was measured of it; empty where `problem` says why nothing was. `excess`: by
    how much it misses each limit, as a share of the limit; 0 or less where it is met.
    """

    number: int
    name: str
    chain: tuple[dict[str, Any], ...]
    metrics: Mapping[str, float]
    excess: Mapping[str, float]
    problem: str | None = None

    @property
    def within(self) -> bool:
        """Whether it was measured and meets every limit."""
        return self.problem is None and all(value <= 0 for value in self.excess.values())


class Trials:
    """The study of one search."""

    def __init__(self, file: Path, search: Search, limits: Sequence[Gate], seed: int) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search = search
        self.limits = limits
        self.seed = seed
        with warnings.catch_warnings():
            # Its file storage has been "experimental" for years; it is what is kept here.
            warnings.simplefilter("ignore")
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
            self._study = optuna.create_study(
                storage=storage,
                study_name=STUDY,
                directions=[direction(name) for name in search.objectives],
                load_if_exists=True,
            )
        self._take_back_unfinished()

    def ended(self) -> list[Tried]:
        """All trials that were told, in their order."""
        return [_tried(trial) for trial in self._study.trials if "record" in trial.user_attrs]

    def begin(self) -> tuple[optuna.Trial, str, list[dict[str, Any]]]:
        """The next trial, with the chain to try and its name."""
        import optuna

        number = len(self._study.trials)
        seed = named_seed(self.seed, f"search/{number}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=RANDOM, multivariate=True, group=True
            )
            trial = self._study.ask()

        def suggest(name: str, space: Open) -> Scalar:
            return _suggest(trial, name, space)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name, chain = self.search.draw(suggest)
        return trial, name, chain

    def tell(self, trial: optuna.Trial, tried: Tried) -> None:
        """Keep what came of a trial."""
        import optuna

        for gate, excess in tried.excess.items():
            trial.set_constraint(gate, excess)
        record = {
            "name": tried.name,
            "chain": list(tried.chain),
            "metrics": dict(tried.metrics),
            "excess": dict(tried.excess),
            "problem": tried.problem,
        }
        trial.set_user_attr("record", json.dumps(record))
        if tried.problem is not None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, [tried.metrics[name] for name in self.search.objectives])

    def _take_back_unfinished(self) -> None:
        """Draw a trial that a kill left open again as it was; what it had made is in the store."""
        import optuna

        for trial in self._study.trials:
            if trial.state == optuna.trial.TrialState.RUNNING:
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                self._study.enqueue_trial(trial.params)


def direction(metric: str) -> Literal["minimize", "maximize"]:
    """Which way a metric is better, in Optuna's words."""
    return "minimize" if METRICS.get(metric).better == "lower" else "maximize"


def excess_over(limits: Sequence[Gate], metrics: Mapping[str, float]) -> dict[str, float]:
    """By how much each limit is missed, as a share of it (or absolutely, where it is 0)."""
    found = {}
    for gate in limits:
        value = metrics[gate.metric]
        misses = []
        if gate.max is not None:
            misses.append((value - gate.max) / (abs(gate.max) or 1.0))
        if gate.min is not None:
            misses.append((gate.min - value) / (abs(gate.min) or 1.0))
        found[gate.describe()] = max(misses)
    return found


def front(tried: Sequence[Tried], objectives: Sequence[str]) -> list[Tried]:
    """Those within the limits that no other one within them beats in every objective.

    Best in the first objective first; of equal ones, the first that was tried.
    """
    signs = [1.0 if direction(name) == "minimize" else -1.0 for name in objectives]

    def costs(one: Tried) -> tuple[float, ...]:
        return tuple(s * one.metrics[n] for s, n in zip(signs, objectives, strict=True))

    candidates = [one for one in tried if one.within]
    best: dict[tuple[float, ...], Tried] = {}
    for one in candidates:
        own = costs(one)
        beaten = any(
            costs(other) != own and all(a <= b for a, b in zip(costs(other), own, strict=True))
            for other in candidates
        )
        if not beaten:
            best.setdefault(own, one)
    return [best[key] for key in sorted(best)]


def nearest_to_limits(tried: Sequence[Tried]) -> Tried | None:
    """The trial that misses the limits by the least, of those that were measured."""
    measured = [one for one in tried if one.problem is None]
    return min(
        measured, key=lambda one: sum(max(0.0, v) for v in one.excess.values()), default=None
    )


def _suggest(trial: optuna.Trial, name: str, space: Open) -> Scalar:
    if isinstance(space, Choice):
        value: Scalar = trial.suggest_categorical(name, space.choose)
        return value
    return _number(trial, name, space)


def _number(trial: optuna.Trial, name: str, space: Interval) -> float:
    if space.whole:
        step = 1 if space.step is None else int(space.step)
        return trial.suggest_int(name, int(space.low), int(space.high), step=step, log=space.log)
    return trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)


def _tried(trial: optuna.trial.FrozenTrial) -> Tried:
    record = json.loads(trial.user_attrs["record"])
    return Tried(
        trial.number,
        record["name"],
        tuple(record["chain"]),
        record["metrics"],
        record["excess"],
        record["problem"],
    )
