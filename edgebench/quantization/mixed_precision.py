"""Leave the operators that quantization damages most in float, until a limit holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from edgebench.errors import BuildError
from edgebench.metrics.activation_distance import distances
from edgebench.metrics.base import Outputs
from edgebench.quantization.prepare import Prepared
from edgebench.quantization.running import Feed, answers
from edgebench.quantization.static_int8 import StaticQuantizer
from edgebench.records import Figure

Metric = Literal["accuracy", "functional_preservation", "sqnr"]

# Ranking compares noise of the logits, which few examples tell; the limit is judged on all.
MOST_RANKED = 512
# They belong to the operator before them, whose result is quantized behind them.
ABSORBED = ("Relu", "Clip")
# At most so many bars can be read.
MOST_BARS = 40


@dataclass(frozen=True)
class Judge:
    """Says how good a file's answers are by one metric, on the same examples each time.

    `file`: the float file's answers. `base`: the uncompressed model's. `stranger`: the mean
    activation distance of independent networks from base, for functional preservation. `limit`:
    the largest loss of accuracy in percentage points, the least functional preservation, or the
    least SQNR in dB.
    """

    metric: Metric
    limit: float
    file: Outputs
    base: Outputs
    stranger: float | None = None

    def value(self, outputs: Outputs) -> float:
        """The metric of these answers."""
        if self.metric == "accuracy":
            return 100 * float(self.file.correct.mean() - outputs.correct.mean())
        if self.metric == "sqnr":
            return sqnr(self.file, outputs)
        if not self.stranger:
            raise BuildError(
                "functional preservation needs a distance to compare with",
                hint="controls: {independent: 2} train networks anew; an ONNX file needs "
                "controls of its own",
            )
        return 1 - float(distances(outputs, self.base).mean()) / self.stranger

    def holds(self, value: float) -> bool:
        """Whether the limit holds."""
        return value <= self.limit if self.metric == "accuracy" else value >= self.limit

    def shown(self, value: float) -> str:
        """A value of the metric in words."""
        if self.metric == "accuracy":
            return f"{0.0 - value:+.2f} percentage points of accuracy"
        if self.metric == "sqnr":
            return f"an SQNR of {value:.1f} dB"
        return f"a functional preservation of {value:.3f}"

    def bound(self) -> str:
        """The limit in words."""
        at = "at most" if self.metric == "accuracy" else "at least"
        lost = " lost" if self.metric == "accuracy" else ""
        return f"keep_float asks for {at} {self.limit:g}{lost}"


@dataclass
class Kept:
    """The operators left in float, and why."""

    nodes: list[str]
    notes: list[str]
    figures: list[Figure] = field(default_factory=list)


def sqnr(reference: Outputs, outputs: Outputs) -> float:
    """The power of the reference's logits over that of their change, in dB."""
    noise = float(((reference.logits - outputs.logits) ** 2).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(float((reference.logits**2).sum()) / noise))


def flat(answers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Answers [N, ...] as rows of numbers."""
    return answers.reshape(len(answers), -1)


def keep_in_float(
    prepared: Prepared,
    quantizer: StaticQuantizer,
    build: Callable[[Sequence[str]], Path],
    judge: Judge,
    feed: Feed,
    *,
    leave: Sequence[str],
    most: int | None,
    folder: Path,
) -> Kept:
    """Choose the operators to leave in float, the most damaging first, until the limit holds.

    `build` writes the whole quantized file without the operators it is given; `leave` stay in float
    anyway; `most` is how many more may.

    Raises
    ------
    BuildError
        The float file itself misses the limit, or the limit does not hold with `most` in float, or
        with all but the last one.
    """
    every = judge.value(judge.file)
    if not judge.holds(every):
        raise BuildError(
            f"the float file itself has {judge.shown(every)}, and {judge.bound()}",
            hint="widen keep_float.limit",
        )

    def judged(path: Path) -> Outputs:
        return replace(judge.file, values=flat(answers(path, feed)))

    value = judge.value(judged(build(list(leave))))
    if judge.holds(value):
        note = f"no layer has to stay in float: {judge.shown(value)} with all of them quantized"
        return Kept(list(leave), [note])
    ranked, figure = _ranked(prepared, quantizer, judge, feed, leave=leave, folder=folder)
    best = value
    allowed = len(ranked) - 1 if most is None else min(most, len(ranked) - 1)
    for count in range(1, allowed + 1):
        nodes = ranked[:count]
        value = judge.value(judged(build([*leave, *nodes])))
        if judge.holds(value):
            names = ", ".join(prepared.called(node) for node in nodes)
            note = (
                f"left in float: {count} of {len(ranked)} operators ({names}), which gives "
                f"{judge.shown(value)}, and {judge.bound()}"
            )
            return Kept([*leave, *nodes], [note], [figure])
        best = min(best, value) if judge.metric == "accuracy" else max(best, value)
    raise BuildError(
        f"with up to {allowed} of {len(ranked)} operators in float the nearest is "
        f"{judge.shown(best)}, and {judge.bound()}",
        hint="widen keep_float.limit"
        if allowed == len(ranked) - 1
        else "raise keep_float.most or widen keep_float.limit",
    )


def _ranked(
    prepared: Prepared,
    quantizer: StaticQuantizer,
    judge: Judge,
    feed: Feed,
    *,
    leave: Sequence[str],
    folder: Path,
) -> tuple[list[str], Figure]:
    """The operators that can be quantized, worst first, and the damage of each alone."""
    # Whole batches, spread over the examples, which may lie class after class.
    count = min(len(feed), max(MOST_RANKED // feed.batch, 1) * feed.batch)
    chosen = np.linspace(0, len(feed) - 1, count).round().astype(np.int64)
    few = feed.only(chosen)

    def taken(outputs: Outputs) -> Outputs:
        labels = outputs.labels[chosen] if len(outputs.labels) else outputs.labels
        return replace(outputs, values=outputs.values[chosen], labels=labels)

    on_few = Judge(judge.metric, judge.limit, taken(judge.file), taken(judge.base), judge.stranger)
    model = onnx.load(prepared.path)
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    damage: dict[str, tuple[float, float]] = {}
    alone = folder / "alone.onnx"
    for node in model.graph.node:
        if node.name in leave:
            continue
        absorbed = [
            user.name
            for name in node.output
            for user in users.get(name, [])
            if user.op_type in ABSORBED
        ]
        quantizer.quantize(alone, only=[node.name, *absorbed], leave=leave)
        if not any(n.op_type == "QuantizeLinear" for n in onnx.load(alone).graph.node):
            continue
        outputs = replace(on_few.file, values=flat(answers(alone, few)))
        damage[node.name] = (sqnr(on_few.file, outputs), on_few.value(outputs))
    ranked = sorted(damage, key=lambda name: damage[name][0])
    return ranked, _figure(prepared, judge, ranked, damage)


def _figure(
    prepared: Prepared, judge: Judge, ranked: Sequence[str], damage: dict[str, tuple[float, float]]
) -> Figure:
    """What quantizing each operator alone does, worst first."""
    series = {}
    for node in ranked[:MOST_BARS]:
        ratio, value = damage[node]
        if judge.metric == "accuracy":
            shown = value
        elif judge.metric == "functional_preservation":
            shown = 1 - value
        else:
            shown = 100 * 10 ** (-ratio / 20)
        series[prepared.called(node)] = ((0.0, float(shown)),)
    axes = {
        "accuracy": "accuracy lost, percentage points",
        "functional_preservation": "1 − functional preservation",
        "sqnr": "change of the logits, % of their size",
    }
    return Figure(
        title="Damage of quantizing each operator alone, worst SQNR first",
        x="operator",
        y=axes[judge.metric],
        kind="bar",
        series=series,
    )
