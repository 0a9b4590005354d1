"""What a metric is, and the answers it is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebench.records import Estimate
from edgebench.registry import Registry

Floats = NDArray[np.float64]

# What a model's answers are: logits or probabilities of classes, or numbers of any meaning.
Kind = Literal["classes", "any"]

# Probabilities are clipped here before their logarithm: float32 softmax underflows to 0 earlier.
SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Outputs:
    """One model's answers on the test set, as the target returned them.

    `values`: [N, C], logits or, where `probabilities` is set, rows that sum to 1. `labels`: [N].
    Of `answers` of any kind, all numbers of an example stand in a row, output after output;
    `widths` are how many each output has (empty: one output), and there are no labels.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    probabilities: bool = False
    answers: Kind = "classes"
    widths: tuple[int, ...] = ()

    def each(self) -> list[Outputs]:
        """The outputs one by one."""
        if len(self.widths) < 2:
            return [self]
        ends = np.cumsum(self.widths)[:-1]
        return [
            replace(self, values=part, widths=()) for part in np.split(self.values, ends, axis=1)
        ]

    @cached_property
    def logits(self) -> Floats:
        """[N, C]; the logarithm of the probabilities for a model that ends in a softmax."""
        values = self.values.astype(np.float64)
        return np.log(np.clip(values, SMALLEST_PROBABILITY, None)) if self.probabilities else values

    @cached_property
    def log_softmax(self) -> Floats:
        """[N, C] natural logarithms of the predicted probabilities."""
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return normalised

    @cached_property
    def softmax(self) -> Floats:
        """[N, C] predicted probabilities."""
        return np.exp(self.log_softmax)

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """[N] the class with the largest answer."""
        answers: NDArray[np.int64] = self.values.argmax(axis=1)
        return answers

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """[N] whether the prediction is the label."""
        hits: NDArray[np.bool_] = self.predictions == self.labels
        return hits


def looks_like_probabilities(values: NDArray[np.float32]) -> bool:
    """Whether a model's answers [N, C] are probabilities: none negative, every row sums to 1."""
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3))


@dataclass(frozen=True)
class Context:
    """What a variant is compared with.

    `base`: the uncompressed model. `controls`: independently trained networks, without the model
    under comparison. `weights`: [B, N], the bootstrap's resamples of the test set. `reference`:
    the network that was trained on as long as the variant, without what its technique does.
    """

    base: Outputs
    controls: tuple[Outputs, ...]
    weights: NDArray[np.float32]
    reference: Outputs | None = None


ModelFunction = Callable[[Outputs], "Estimate | float"]
PairFunction = Callable[[Outputs, Context], "Estimate | None"]


@dataclass(frozen=True)
class Metric:
    """A named quantity.

    `of`: "model" is computed from one model's answers, "pair" from a variant's and base's,
    "measured" comes from the agent or the file. `better`: which direction is good. `certainty`:
    "interval" where every value comes with one, "exact" where it needs none, "none" where there is
    none to judge by: such a metric cannot be a gate. `answers`: the kinds of answers it is defined
    for.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    meaning: str
    of: Literal["model", "pair", "measured"]
    certainty: Literal["interval", "exact", "none"] = "interval"
    on_model: ModelFunction | None = None
    on_pair: PairFunction | None = None
    answers: tuple[Kind, ...] = ("classes",)

    def judges(self, answers: Kind) -> bool:
        """Whether it is defined for answers of this kind."""
        return self.of == "measured" or answers in self.answers


METRICS: Registry[Metric] = Registry("metric", "edgebench.metrics")


def model_metric(
    name: str,
    *,
    title: str,
    unit: str,
    better: Literal["higher", "lower"],
    meaning: str,
    certainty: Literal["interval", "exact", "none"] = "interval",
) -> Callable[[ModelFunction], ModelFunction]:
    """Register a function of one model's answers as a metric."""

    def add(function: ModelFunction) -> ModelFunction:
        METRICS.register(name)(
            Metric(name, title, unit, better, meaning, "model", certainty, on_model=function)
        )
        return function

    return add


def pair_metric(
    name: str,
    *,
    title: str,
    unit: str,
    better: Literal["higher", "lower"],
    meaning: str,
    answers: tuple[Kind, ...] = ("classes",),
) -> Callable[[PairFunction], PairFunction]:
    """Register a function of a variant's and base's answers as a metric.

    `answers`: the kinds of answers it is defined for.
    """

    def add(function: PairFunction) -> PairFunction:
        METRICS.register(name)(
            Metric(name, title, unit, better, meaning, "pair", on_pair=function, answers=answers)
        )
        return function

    return add


def worst(
    estimate: Callable[[Outputs, Outputs], Estimate],
    variant: Outputs,
    base: Outputs,
    better: Literal["higher", "lower"],
) -> Estimate:
    """The estimate of the output that fares worst: `estimate` of a variant's output and of base's.

    An output whose value is not finite counts only where no other has one.
    """
    found = [estimate(a, b) for a, b in zip(variant.each(), base.each(), strict=True)]
    known = [(one.point, one) for one in found if one.point is not None]
    if not known:
        return found[0]
    choose = min if better == "higher" else max
    return choose(known, key=lambda pair: pair[0])[1]
