"""The trials of a search, drawn by Optuna and kept in a file that a killed search goes on from.

The file holds ended trials only. The next one is drawn from these and from the seed of its number:
whenever a search was interrupted, it goes on with the draw that was next.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from edgebench.errors import StorageError, storage_error
from edgebench.hashing import named_seed
from edgebench.metrics.base import METRICS
from edgebench.recipe import Gate
from edgebench.search_space import Chain, Choice, Interval, Open, Search

if TYPE_CHECKING:
    import optuna

STUDY = "search"
# So many are drawn at random before the sampler has seen enough to guess.
RANDOM = 8
# So many draws of chains that were tried before, and the space counts as used up.
DRAWS = 50
# The optimiser measures volumes and takes no infinity: of metrics only decibels can be infinite.
ENDLESS = 1e6


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


@dataclass(frozen=True)
class Draw:
    """A chain to try: `drawn` are the values that were open, by their place."""

    number: int
    name: str
    chain: Chain
    drawn: dict[str, Any]
    trial: optuna.Trial


class Earlier(NamedTuple):
    """What the file of an earlier search tells: its plan, and each draw's parameters in order."""

    plan: str | None = None
    draws: tuple[dict[str, Any], ...] = ()


class Trials:
    """The trials of one search; its folder must be held, for nobody else may write meanwhile.

    `plan` is the key of all that decides what a trial is, `device` the fingerprint of what they
    are measured on. `earlier`: a finished search; where its plan is this one, its chains are tried
    again first, in their order. So are those in `file` where another device measured them.
    """

    def __init__(
        self,
        file: Path,
        search: Search,
        limits: Sequence[Gate],
        seed: int,
        *,
        plan: str,
        device: str,
        earlier: Earlier | None = None,
    ) -> None:
        self.search = search
        self.limits = limits
        self.seed = seed
        self._file = file
        again = list(earlier.draws) if earlier and earlier.plan == plan else []
        with _readable(file), _quiet():
            if file.exists():
                kept = _study_in(file, self._directions())
                if kept.user_attrs.get("device") != device:
                    again = list(_earlier(kept).draws)
                    file.unlink()
            self._kept = _study_in(file, self._directions())
            if "plan" not in self._kept.user_attrs:
                self._kept.set_user_attr("device", device)
                self._kept.set_user_attr("again", json.dumps(again))
                self._kept.set_user_attr("plan", plan)
            self._again = json.loads(self._kept.user_attrs["again"])
            # Drawing writes to a study of its own, so that the file never holds half a trial.
            self._study = _study_in(None, self._directions())
            ended = self._kept.trials
            self._study.add_trials(ended)
            self._ended = [_tried(trial) for trial in ended]
        self._seen = {_text(one.chain) for one in self._ended}

    def ended(self) -> list[Tried]:
        """All trials that were told, in their order."""
        return list(self._ended)

    def begin(self) -> Draw | None:
        """The next chain to try, one that was not tried yet; None where none is found."""
        number = len(self._ended)
        if number < len(self._again):
            self._study.enqueue_trial(self._again[number])
            return self._draw(number, 0)
        for attempt in range(DRAWS):
            draw = self._draw(number, attempt)
            if _text(draw.chain) not in self._seen:
                return draw
            self._set_aside(draw)
        return None

    def tell(self, draw: Draw, tried: Tried) -> None:
        """Keep what came of a trial; raises StorageError."""
        trial = draw.trial
        failed = tried.problem is not None
        # Counts against its neighbourhood more than anything that misses a limit.
        trial.set_constraint("built and measured", math.inf if failed else 0.0)
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
        with _quiet():
            told = self._study.tell(trial, [self._value(tried, n) for n in self.search.objectives])
            try:
                self._kept.add_trial(told)
            except OSError as error:
                raise storage_error(error, self._file) from error
        self._ended.append(tried)
        self._seen.add(_text(tried.chain))

    def forget(self) -> None:
        """Begin anew next time."""
        self._file.unlink(missing_ok=True)

    def _draw(self, number: int, attempt: int) -> Draw:
        import optuna

        purpose = f"search/{number}" if not attempt else f"search/{number}/{attempt}"
        seed = named_seed(self.seed, purpose)
        drawn: dict[str, Any] = {}

        def suggest(place: str, space: Open) -> Any:
            drawn[place] = _suggest(trial, place, space)
            return drawn[place]

        with _quiet():
            if attempt:
                # The sampler wants what was tried: anything else tells more.
                self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
            else:
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=RANDOM, multivariate=True, group=True
                )
            trial = self._study.ask()
            name, chain = self.search.draw(suggest)
        return Draw(number, name, chain, drawn, trial)

    def _set_aside(self, draw: Draw) -> None:
        """End a draw that is not tried, so that it counts for nothing."""
        import optuna

        with _quiet():
            self._study.tell(draw.trial, state=optuna.trial.TrialState.FAIL)

    def _value(self, tried: Tried, objective: str) -> float:
        """What the optimiser is told: of a failed trial the worst, which it does not look at."""
        if tried.problem is not None:
            return math.inf if direction(objective) == "minimize" else -math.inf
        value = tried.metrics[objective]
        return value if math.isfinite(value) else math.copysign(ENDLESS, value)

    def _directions(self) -> list[Literal["minimize", "maximize"]]:
        return [direction(name) for name in self.search.objectives]


def read_earlier(file: Path) -> Earlier:
    """What the file of a search tells of its draws; nothing where there is no such file."""
    if not file.exists():
        return Earlier()
    import optuna

    try:
        with _quiet():
            return _earlier(optuna.load_study(study_name=STUDY, storage=_storage(file)))
    except (ValueError, KeyError, OSError):
        # It is only what to try first that is lost.
        return Earlier()


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


def _study_in(file: Path | None, directions: list[Literal["minimize", "maximize"]]) -> optuna.Study:
    """The study kept in a file, or one in memory."""
    import optuna

    storage = None if file is None else _storage(file)
    return optuna.create_study(
        storage=storage, study_name=STUDY, directions=[*directions], load_if_exists=True
    )


def _storage(file: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Held(JournalFileOpenLock):
        """The run's folder is held already; Optuna's own lock would outlive a kill."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            """Nothing to give back."""

    _drop_torn_line(file)
    return JournalStorage(JournalFileBackend(str(file), lock_obj=Held(str(file))))


def _drop_torn_line(file: Path) -> None:
    """Cut off a last line that was not written to its end; Optuna would append to it."""
    if file.exists():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with file.open("r+b") as stream:
                stream.truncate(whole)


def _earlier(study: optuna.Study) -> Earlier:
    draws = [dict(trial.params) for trial in study.trials]
    again = json.loads(study.user_attrs.get("again", "[]"))
    return Earlier(study.user_attrs.get("plan"), (*draws, *again[len(draws) :]))


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, file) from error
    except (ValueError, KeyError) as error:
        raise StorageError(
            "holds no trials that can be read", where=str(file), hint="remove it: they are lost"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's words: parts of it have been "experimental" for years."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _suggest(trial: optuna.Trial, name: str, space: Open) -> Any:
    if isinstance(space, Choice):
        texts = space.texts
        return space.choose[texts.index(trial.suggest_categorical(name, texts))]
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


def _text(chain: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(chain), sort_keys=True)
