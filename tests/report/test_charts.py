import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from edgebench.records import Estimate
from edgebench.report.charts import accuracy_latency, gate_limits, latency_forest, pareto_front
from edgebench.report.labels import Label, place_labels
from edgebench.report.landscape import control_distance, functional_landscape
from edgebench.report.svg import new_figure

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
