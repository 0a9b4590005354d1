"""The worst operators stay in float until the limit holds; the limit is judged as it is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgebench.errors import BuildError
from edgebench.metrics.base import Outputs
from edgebench.quantization.calibration import Calibration
from edgebench.quantization.mixed_precision import Judge, keep_in_float, sqnr
from edgebench.quantization.prepare import prepare
from edgebench.quantization.running import answers, feed_for
from edgebench.quantization.static_int8 import FORMATS, calibrated, quantized_layers

FOUR = np.array([0, 1, 0, 1])
FLOAT = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]], np.float32)  # three right


def outputs(values: np.ndarray, *, probabilities: bool = False) -> Outputs:
    return Outputs(np.asarray(values, np.float32), FOUR, probabilities)


def judge(metric, limit: float = 0.0, **changes) -> Judge:
    return Judge(metric, limit, **{"file": outputs(FLOAT), "base": outputs(FLOAT), **changes})


def test_accuracy_is_judged_in_points_lost() -> None:
    by = judge("accuracy", 25.0)
    worse, better = FLOAT[[0, 0, 2, 3]], FLOAT[[0, 1, 2, 1]]
    assert by.value(outputs(FLOAT)) == 0
    assert by.value(outputs(worse)) == 25
    assert by.value(outputs(better)) == -25
    assert by.holds(25.0)
    assert not by.holds(25.1)
    assert by.shown(25.0) == "-25.00 percentage points of accuracy"
    assert by.shown(0.0) == "+0.00 percentage points of accuracy"
    assert by.bound() == "keep_float asks for at most 25 lost"


def test_sqnr_is_judged_in_decibels() -> None:
    by = judge("sqnr", 20.0)
    assert by.value(outputs(FLOAT * 1.1)) == pytest.approx(20, abs=1e-4)
    assert by.value(outputs(FLOAT)) == np.inf
    assert by.holds(20.0)
    assert not by.holds(19.9)
    assert by.bound() == "keep_float asks for at least 20"


def test_functional_preservation_is_a_distance_over_the_strangers() -> None:
    certain = np.array([[1.0, 0.0]] * 4)
    even = np.array([[0.5, 0.5]] * 4)
    base = outputs(certain, probabilities=True)
    by = judge("functional_preservation", 0.5, base=base, stranger=np.sqrt(2))
    # Half a way in each of two classes: √.5 of √2.
    assert by.value(outputs(even, probabilities=True)) == pytest.approx(0.5, abs=1e-6)
    assert by.value(base) == 1
    assert by.holds(0.5)
    assert not by.holds(0.49)
    for stranger in (None, 0.0):
        with pytest.raises(BuildError, match="needs a distance to compare with"):
            judge("functional_preservation", stranger=stranger).value(base)


class Case:
    """A network quantized with one scale a tensor, of which one layer suffers most."""

    def __init__(self, path: Path, folder: Path, x: np.ndarray, y: np.ndarray) -> None:
        self.folder = folder
        self.prepared = prepare(path, folder / "prepared.onnx")
        self.feed = feed_for(self.prepared.path, x, what="examples")
        self.quantizer = calibrated(
            self.prepared,
            self.feed,
            Calibration(),
            FORMATS["u8s8-reduced"],
            per_channel=False,
            folder=folder,
        )
        self.file = Outputs(answers(path, self.feed), y[: len(self.feed.examples)])
        self.asked: list[list[str]] = []

    def build(self, leave: Sequence[str]) -> Path:
        self.asked.append(list(leave))
        self.quantizer.quantize(self.folder / "int8.onnx", leave=leave)
        return self.folder / "int8.onnx"

    def value(self, leave: Sequence[str], by: Judge) -> float:
        self.quantizer.quantize(self.folder / "again.onnx", leave=leave)
        got = answers(self.folder / "again.onnx", self.feed)
        return by.value(Outputs(got, self.file.labels))

    def choose(self, by: Judge, *, leave: Sequence[str] = (), most: int | None = None, finish=None):
        return keep_in_float(
            self.prepared,
            self.quantizer,
            self.build,
            by,
            self.feed,
            leave=leave,
            most=most,
            folder=self.folder,
            finish=finish,
        )

    def judge(self, metric, limit: float, **changes) -> Judge:
        return Judge(metric, limit, self.file, self.file, **changes)


@pytest.fixture
def case(data, exported, tmp_path: Path) -> Case:
    """A trained network with one layer spoilt: a channel of it is a hundred times the others."""
    model = onnx.load(exported("lenet"))
    stored = {t.name: t for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in {"Conv", "Gemm"}]
    weight = onnx.numpy_helper.to_array(stored[layers[2].input[1]]).copy()
    # Its input is dead, so only the scale of its tensor tells.
    weight[0] = 0
    weight[0, 0] = 100 * np.abs(weight).max()
    bias = onnx.numpy_helper.to_array(stored[layers[2].input[2]]).copy()
    bias[0] = -1e4
    for name, value in ((layers[2].input[1], weight), (layers[2].input[2], bias)):
        stored[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    return Case(tmp_path / "spoilt.onnx", tmp_path, data.train_x, data.train_y)


def test_nothing_stays_where_the_limit_holds(case: Case) -> None:
    kept = case.choose(case.judge("sqnr", 1e-3))
    assert kept.nodes == []
    assert kept.figures == []
    assert kept.notes[0].startswith("no layer has to stay in float: an SQNR of ")
    assert case.asked == [[]]


def test_the_worst_stay_until_the_limit_holds(case: Case) -> None:
    worst = case.prepared.layers[2]
    all_quantized = case.value([], case.judge("sqnr", 1.0))
    limit = all_quantized + 6
    by = case.judge("sqnr", limit)
    kept = case.choose(by)
    assert kept.nodes == [worst.node]
    reached = case.value(kept.nodes, by)
    assert reached >= limit
    assert kept.notes == [
        f"left in float: 1 of 4 operators ({worst.name}), which gives an SQNR of "
        f"{reached:.1f} dB, and keep_float asks for at least {limit:g}"
    ]
    (left,) = {n.node for n in case.prepared.layers} - {
        n.name for n in quantized_layers(onnx.load(case.folder / "int8.onnx"))
    }
    assert left == worst.node
    (figure,) = kept.figures
    assert figure.kind == "bar"
    heights = [series[0][1] for series in figure.series.values()]
    assert next(iter(figure.series)) == worst.name
    assert heights == sorted(heights, reverse=True)
    # The height is the noise of the logits that this layer alone makes, as a share of them.
    others = [layer.node for layer in case.prepared.layers if layer.node != worst.node]
    alone = case.value(others, by)
    assert heights[0] == pytest.approx(100 * 10 ** (-alone / 20), rel=0.2)


@pytest.mark.parametrize(
    ("metric", "limit", "extra"),
    [("accuracy", 0.0, {}), ("functional_preservation", 0.99, {"stranger": 0.5})],
)
def test_other_limits_hold_too(case: Case, metric, limit: float, extra) -> None:
    by = case.judge(metric, limit, **extra)
    before = case.value([], by)
    assert not by.holds(before)
    kept = case.choose(by)
    assert by.holds(case.value(kept.nodes, by))
    # One operator fewer would not do: they are left one after the other.
    assert not by.holds(case.value(kept.nodes[:-1], by))
    assert case.asked == [kept.nodes[:n] for n in range(len(kept.nodes) + 1)]
    assert kept.figures[0].series


def test_the_chosen_file_alone_is_finished(case: Case) -> None:
    by = case.judge("sqnr", case.value([], case.judge("sqnr", 1.0)) + 6)
    finished: list[int] = []
    kept = case.choose(by, finish=lambda _: finished.append(len(case.asked)))
    assert case.asked == [[], kept.nodes]
    assert finished == [2]


def test_a_finish_that_breaks_the_limit_leaves_one_more(case: Case) -> None:
    by = case.judge("sqnr", case.value([], case.judge("sqnr", 1.0)) + 6)
    finished: list[int] = []

    def finish(path: Path) -> None:
        finished.append(len(case.asked))
        if len(finished) == 1:
            case.quantizer.quantize(path)

    kept = case.choose(by, finish=finish)
    assert len(kept.nodes) == 2
    assert finished == [2, 3]
    assert kept.notes[0].startswith("left in float: 2 of 4 operators")


def test_the_last_candidate_is_finished_before_it_fails(case: Case) -> None:
    """What is done to the file may make a limit hold that did not before."""
    by = case.judge("sqnr", 200.0)

    def finish(path: Path) -> None:
        path.write_bytes((case.folder / "prepared.onnx").read_bytes())

    assert len(case.choose(by, most=1, finish=finish).nodes) == 1


def test_what_is_left_anyway_is_not_ranked(case: Case) -> None:
    first = case.prepared.layers[0].node
    by = case.judge("sqnr", case.value([first], case.judge("sqnr", 1.0)) + 6)
    kept = case.choose(by, leave=[first])
    assert kept.nodes == [first, case.prepared.layers[2].node]
    assert case.prepared.layers[0].name not in kept.figures[0].series
    assert kept.notes[0].startswith("left in float: 1 of 3 operators")


def test_a_limit_out_of_reach_says_how_near_it_came(case: Case) -> None:
    by = case.judge("sqnr", 200.0)
    with pytest.raises(BuildError, match=r"up to 1 of 4 operators.*raise keep_float\.most") as few:
        case.choose(by, most=1)
    best = case.value([case.prepared.layers[2].node], by)
    assert f"an SQNR of {best:.1f} dB" in few.value.line()
    with pytest.raises(BuildError, match=r"up to 3 of 4 operators.*; widen keep_float\.limit"):
        case.choose(by)


def test_a_float_file_beyond_the_limit(case: Case) -> None:
    """A file that other techniques changed before is already far from base."""
    far = Outputs(case.file.values[::-1].copy(), case.file.labels)
    by = Judge("functional_preservation", 0.99, case.file, far, 0.5)
    with pytest.raises(BuildError, match="the float file itself has a functional preservation of"):
        case.choose(by)
    assert case.asked == []


def test_additions_are_ranked_too(data, exported, tmp_path: Path) -> None:
    """With all but one operator in float, nothing else is quantized."""
    case = Case(exported("resnet8"), tmp_path, data.train_x[:64], data.train_y)
    by = case.judge("sqnr", 500.0)
    with pytest.raises(BuildError, match="up to 12 of 13 operators"):
        case.choose(by)
    last = case.asked[-1]
    assert len(last) == 12
    kinds = {n.name: n.op_type for n in onnx.load(case.prepared.path).graph.node}
    assert sum(kinds[name] == "Add" for name in last) >= 2
    graph = onnx.load(case.build(last)).graph
    # Two inputs and the output of an addition, or the input and output of a layer.
    assert sum(n.op_type == "QuantizeLinear" for n in graph.node) in {2, 3}


def test_sqnr_by_hand() -> None:
    assert sqnr(outputs(FLOAT), outputs(FLOAT * 0.9)) == pytest.approx(20, abs=1e-4)


def test_of_several_outputs_the_worst_is_judged() -> None:
    """The second output is a thousandth of the first in size, and half of it is lost."""
    small = FLOAT / 1000
    before, after = (
        Outputs(np.hstack([FLOAT, second]), answers="any", widths=(2, 2))
        for second in (small, small * 0.5)
    )
    assert sqnr(before, after) == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert sqnr(before, before) == np.inf
    silent = Outputs(np.hstack([FLOAT, 0 * small]), answers="any", widths=(2, 2))
    assert sqnr(silent, before) == -np.inf
