"""What each metric is called in a report, how its numbers are written, and what grades mean."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from edgebench.metrics.base import Kind as AnswerKind
    from edgebench.records import RunRecord

Kind = Literal[
    "duration", "size", "memory", "rate", "count", "fraction", "points", "percent", "ratio",
    "decibel", "energy", "plain",
]  # fmt: skip

_KIND_OF_UNIT: dict[str, Kind] = {
    "ms": "duration",
    "bytes": "size",
    "MiB": "memory",
    "1/s": "rate",
    "pp": "points",
    "%": "percent",
    "dB": "decibel",
    "mJ": "energy",
}
_KIND_OF_NAME: dict[str, Kind] = {
    "parameters": "count",
    "accuracy": "fraction",
    "top5_accuracy": "fraction",
    "ece": "fraction",
    "sparsity": "fraction",
    "prediction_disagreement": "fraction",
    "negative_flips": "fraction",
    "latency_ratio": "ratio",
    "size_ratio": "ratio",
    "compressed_size_ratio": "ratio",
    "functional_preservation": "ratio",
    "logit_cosine": "ratio",
    "output_cosine": "ratio",
    "mean_relative_error": "fraction",
    "largest_relative_error": "fraction",
}

FUNCTIONAL = (
    "functional_preservation",
    "activation_distance",
    "js_divergence",
    "kl_divergence",
    "logit_cosine",
    "sqnr_db",
    "negative_flips",
    "prediction_disagreement",
    "output_cosine",
    "mean_relative_error",
    "largest_relative_error",
)

GRADES = {
    "A": "locked: clocks were fixed and the device was alone",
    "B": "floating: a device of its own, but its clocks could change",
    "C": "shared or virtual: other work may have run beside the measurement",
}


LEAST_CHANGE = "Least change told"
LEAST_CHANGE_MEANING = (
    "The true change of latency that four in five measurements like this one would tell from none: "
    "what base timed against itself differs by, plus 3.5 half widths of the interval."
)


def fits(name: str, run: RunRecord) -> bool:
    """Whether a metric is defined for the answers of a run's models."""
    from edgebench.metrics.base import METRICS

    answers: AnswerKind = "any" if run.data.get("answers") == "any" else "classes"
    return name not in METRICS.names() or METRICS.get(name).judges(answers)


def functional_metrics(run: RunRecord) -> list[str]:
    """The metrics of how far answers moved, for the table of them all."""
    return [name for name in FUNCTIONAL if fits(name, run)]


class Words(NamedTuple):
    """One metric in words; `better` is empty where no direction is good in itself."""

    label: str
    kind: Kind
    better: Literal["lower", "higher", ""]
    meaning: str


@cache
def words(name: str) -> Words:
    """A metric in words; one that is not registered here keeps its name as label."""
    from edgebench.metrics.base import METRICS

    if name not in METRICS.names():
        return Words(name, "plain", "", "")
    metric = METRICS.get(name)
    kind = _KIND_OF_NAME.get(name) or _KIND_OF_UNIT.get(metric.unit, "plain")
    return Words(_sentence(metric.title), kind, metric.better, f"{_sentence(metric.meaning)}.")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
