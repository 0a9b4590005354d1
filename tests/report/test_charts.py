import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from edgebench.records import Estimate
from edgebench.report.charts import (
    accuracy_latency,
    far_below,
    gate_limits,
    latency_forest,
    pareto_front,
)
from edgebench.report.labels import Label, place_labels
from edgebench.report.landscape import control_distance, functional_landscape
from edgebench.report.svg import TONE_COLOURS, new_figure

GO, NO_GO = TONE_COLOURS["go"], TONE_COLOURS["no-go"]

FIGURES = [latency_forest, accuracy_latency, functional_landscape]


def with_ratio(run, values):
    """The example with other latency ratios: {variant: (point, low, high)}."""
    variants = []
    for v in run.variants:
        if v.name in values:
            point, low, high = values[v.name]
            ratio = Estimate(point=point, low=low, high=high, n=12, method="m")
            changed = {"comparisons": v.comparisons | {"latency_ratio": ratio}}
            variants.append(v.model_copy(update=changed))
        else:
            variants.append(v)
    return run.model_copy(update={"variants": tuple(variants)})


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("kind", ["run", "hostile"])
def test_well_formed_deterministic_and_labelled(figure, kind, request):
    record = request.getfixturevalue(kind)
    svg = figure(record)
    root = ET.fromstring(svg)
    assert svg == figure(record)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "http" not in re.sub("http://evil[^ ]*", "", svg)
    assert "NaN" not in svg


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_to_draw(figure, bare):
    assert figure(bare) is None


@pytest.mark.parametrize("figure", FIGURES)
def test_every_measured_variant_is_named(figure, run):
    texts = " ".join(t for t in ET.fromstring(figure(run)).itertext())
    for v in run.variants:
        if v.status == "measured" and not v.control and v.name != "base":
            assert v.name in texts


def test_labels_keep_apart_and_inside_the_frame():
    rng = np.random.default_rng(3)
    figure = new_figure(400, 300)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    crowd = rng.normal(0.5, 0.06, (12, 2))
    labels = [Label(x, y, f"point-{i} $\\frac{{$", 4.0) for i, (x, y) in enumerate(crowd)]
    place_labels(axes, labels)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 12
    for i, box in enumerate(boxes):
        assert min(box.x0, box.y0, 400 - box.x1, 300 - box.y1) >= 0
        assert not [other for other in boxes[i + 1 :] if box.overlaps(other)]


def test_forest_shows_the_control_and_the_gate(run):
    texts = [t.strip() for t in ET.fromstring(latency_forest(run)).itertext() if t.strip()]
    assert "base against itself" in texts
    assert "gate ≤ 1.05" in texts


def test_forest_survives_wide_ranges_and_missing_ends(run):
    wide = with_ratio(run, {"student": (0.05, 0.04, None), "int8": (9.0, None, None)})
    assert "9.0" in latency_forest(wide)
    ET.fromstring(latency_forest(wide))


def test_values_that_cannot_be_drawn_are_left_out(run):
    odd = with_ratio(run, {"student": (math.inf, 1.0, 2.0), "int8": (-1.0, -2.0, 0.0)})
    texts = " ".join(ET.fromstring(latency_forest(odd)).itertext())
    assert "student" not in texts
    assert "sparse-50" in texts


def test_pareto_front():
    points = [(2.0, 0.9), (1.0, 0.8), (3.0, 0.9), (1.5, 0.7), (2.0, 0.9)]
    assert pareto_front(points) == [0, 1, 4]


def test_gate_limits_ignores_what_is_not_a_gate(run):
    assert gate_limits(run, "latency_ratio") == [("≤", 1.05)]
    odd = run.model_copy(update={"recipe": {"gates": ["x", {"metric": "m", "min": "a", "max": 2}]}})
    assert gate_limits(odd, "m") == [("≤", 2.0)]


def test_control_distance_is_the_mean_of_the_controls(run, bare):
    assert control_distance(run) == pytest.approx((0.0958 + 0.0984) / 2)
    assert control_distance(bare) is None


def test_one_bad_model_does_not_flatten_the_others(run):
    def with_accuracy(value):
        variants = tuple(
            v.model_copy(update={"metrics": v.metrics | {"accuracy": value}})
            if v.name == "sparse-90"
            else v
            for v in run.variants
        )
        return accuracy_latency(run.model_copy(update={"variants": variants}))

    clipped, whole = with_accuracy(0.64), with_accuracy(0.95)
    label = next(t for t in ET.fromstring(clipped).itertext() if t.startswith("sparse-90,"))
    assert label.endswith("64.00 % ↓")
    assert "↓" not in whole
    ticks = [float(t) for t in re.findall(r">(\d\d(?:\.\d+)?)<", clipped)]
    assert [t for t in ticks if t > 90]
    assert not [t for t in ticks if 60 < t < 90]


def test_far_below():
    assert far_below([0.97, 0.975, 0.98, 0.64]) == [False, False, False, True]
    assert far_below([0.97, 0.97, 0.97, 0.96]) == [False] * 4
    assert far_below([0.9, 0.6]) == [False, False]
    assert far_below([0.5, 0.98, 0.97, 0.64, 0.975, 0.97]) == [
        True,
        False,
        False,
        True,
        False,
        False,
    ]
    assert far_below([0.98, 0.97, 0.975, 0.6, 0.5, 0.55]) == [False] * 6


def test_a_go_is_drawn_over_what_lies_on_the_same_spot(run):
    go = next(v.name for v in run.variants if v.verdict == "GO")
    bad = next(v.name for v in run.variants if v.verdict == "NO-GO")
    points = {"base": (0.0, 0.0), go: (0.01, 0.01), bad: (0.01, 0.01)}
    landscape = run.landscape.model_copy(update={"points": points})
    svg = functional_landscape(run.model_copy(update={"landscape": landscape}))
    marks = [c for c in re.findall(r"<use [^>]*fill: (#\w+)", svg) if c in (GO, NO_GO)]
    assert marks == [NO_GO, GO]


def test_the_noise_band_is_visible_however_narrow(run):
    svg = latency_forest(with_ratio(run, {"base": (1.0, 0.99999, 1.00001)}))
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*opacity: 0.3', svg)
    xs = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", path)]
    assert max(xs) - min(xs) >= 3


def test_what_lies_beyond_is_named_in_the_description(run):
    landscape = run.landscape.model_copy(update={"beyond": {"lost": 0.668}})
    svg = functional_landscape(run.model_copy(update={"landscape": landscape}))
    assert "Too far out to be drawn: lost at 0.668." in ET.fromstring(svg).get("aria-label")


def test_an_invalid_measurement_is_marked_in_the_forest(run, invalid):
    assert "not valid" not in latency_forest(run)
    root = ET.fromstring(latency_forest(invalid))
    assert [t.strip() for t in root.itertext()].count("not valid") == 2
    assert "int8 1.31 [1.28, 1.33], not valid" in root.get("aria-label")
