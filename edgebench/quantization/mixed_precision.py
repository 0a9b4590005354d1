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
from edgebench.quantization.running import Feed, all_answers, answers
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

    def answers(self, model: Path, feed: Feed) -> Outputs:
        """A file's answers to the examples that are judged: of a classifier, its first output's."""
        if self.file.answers == "any":
            return outputs_of_all(model, feed)
        return replace(self.file, values=answers(model, feed))

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
    """The power of the reference's logits over that of their change, in dB.

    Of several outputs the least: a large one would hide what happens to a small one.
    """
    pairs = zip(reference.each(), outputs.each(), strict=True)
    return min(_decibels(before.logits, after.logits) for before, after in pairs)


def _decibels(wanted: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    noise = float(((wanted - given) ** 2).sum())
    if noise == 0:
        return float("inf")
    signal = float((wanted**2).sum())
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def outputs_of_all(model: Path, feed: Feed) -> Outputs:
    """A file's answers of any kind: an example's numbers in a row, output after output."""
    joined = [np.concatenate(parts) for parts in all_answers(model, feed)]
    rows = [one.reshape(len(one), -1) for one in joined]
    widths = tuple(row.shape[1] for row in rows)
    return Outputs(np.concatenate(rows, axis=1), answers="any", widths=widths)


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
    finish: Callable[[Path], None] | None = None,
) -> Kept:
    """Choose the operators to leave in float, the most damaging first, until the limit holds.

    `build` writes the whole quantized file without the operators it is given; `leave` stay in float
    anyway; `most` is how many more may. `finish`: what is done to the file chosen, in place. The
    limit has to hold after it too, or one more operator is left.

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

    def reached(nodes: Sequence[str], *, last: bool = False) -> float:
        path = build([*leave, *nodes])
        value = judge.value(judge.answers(path, feed))
        if finish is not None and (last or judge.holds(value)):
            finish(path)
            value = judge.value(judge.answers(path, feed))
        return value

    value = reached([])
    if judge.holds(value):
        note = f"no layer has to stay in float: {judge.shown(value)} with all of them quantized"
        return Kept(list(leave), [note])
    ranked, figure = _ranked(prepared, quantizer, judge, feed, leave=leave, folder=folder)
    best = value
    allowed = len(ranked) - 1 if most is None else min(most, len(ranked) - 1)
    for count in range(1, allowed + 1):
        nodes = ranked[:count]
        value = reached(nodes, last=count == allowed)
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
        outputs = on_few.answers(alone, few)
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
