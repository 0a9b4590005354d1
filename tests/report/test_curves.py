"""The drawings of techniques: every series is told apart, named, and none vanishes unsaid."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from edgebench.records import Figure
from edgebench.report.curves import COLOURS, DASHES, MARKERS, figure_svg

MOST = len(COLOURS) * len(DASHES) * len(MARKERS)
HOSTILE = "<script>|\x1b[31m$\\frac{$"


def figure(kind="line", series=None, **more):
    series = (
        {"conv1": ((0.0, 0.9), (0.5, 0.7)), "head": ((0.0, 0.9), (0.5, 0.2))}
        if (series is None)
        else series
    )
    return Figure(title="Sensitivity", x="ratio", y="accuracy", kind=kind, series=series, **more)


def texts(svg):
    return [t.strip() for t in ET.fromstring(svg).itertext() if t.strip()]


@pytest.mark.parametrize("kind", ["line", "scatter", "bar"])
def test_every_series_is_named_and_told(kind):
    svg = figure_svg(figure(kind), "one")
    assert svg == figure_svg(figure(kind), "one")
    assert {"conv1", "head", "accuracy"} <= set(texts(svg))
    label = ET.fromstring(svg).get("aria-label")
    assert label.startswith("Sensitivity: accuracy")
    assert "conv1" in label


def test_points_are_joined_in_lines_alone():
    drawn = [figure_svg(figure(kind), "one") for kind in ("line", "scatter")]
    widths = [re.findall(r"stroke-width: ([\d.]+)", svg) for svg in drawn]
    assert widths[0].count("1.6") > widths[1].count("1.6")


def test_bars_show_their_first_value_negative_ones_too():
    series = {"a": ((0.0, 0.25), (1.0, 9.0)), "b": ((0.0, -0.5),)}
    assert {"a", "b", "0.25", "-0.5"} <= set(texts(figure_svg(figure("bar", series), "one")))
    assert "9" not in texts(figure_svg(figure("bar", series), "one"))


def test_two_in_one_page_share_no_id():
    ids = [
        set(re.findall(r'\sid="([^"]*)"', figure_svg(figure(), name))) for name in ("one", "two")
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("kind", ["line", "scatter", "bar"])
def test_nothing_to_draw(kind):
    assert figure_svg(figure(kind, {}), "one") is None
    assert figure_svg(figure(kind, {"a": ()}), "one") is None
    assert "empty" not in figure_svg(figure(kind, {"a": ((0.0, 1.0),), "empty": ()}), "one")


@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize("more", [0, 1, 5])
def test_those_too_many_to_be_told_apart_are_counted(kind, more):
    series = {f"layer-{i}": ((0.0, 1.0), (1.0, float(i))) for i in range(MOST + more)}
    found = texts(figure_svg(figure(kind, series), "one"))
    assert sum(text.startswith("layer-") for text in found) == MOST
    said = [text for text in found if "not drawn" in text]
    expected = {0: [], 1: ["(1 more is not drawn)"], 5: ["(5 more are not drawn)"]}[more]
    assert [re.search(r"\(.*\)", text)[0] for text in said] == expected


def test_long_names_stay_apart():
    series = {
        f"{front}stages.{i}.blocks.7.attention.projection.conv": ((0.0, 1.0),)
        for front in ("", "x" * 40)
        for i in range(2)
    }
    for kind in ("line", "bar"):
        found = [t for t in texts(figure_svg(figure(kind, series), "one")) if "conv" in t]
        assert len(found) == len(set(found)) == 4
        assert max(map(len, found)) <= 40
        assert "s.1.b.7.attention.projection.conv" in found
    alike = {f"{i}{'x' * 60}": ((0.0, 1.0),) for i in range(3)}
    found = [t for t in texts(figure_svg(figure("bar", alike), "one")) if "xxx" in t]
    assert [t[:3] for t in found] == ["1: ", "2: ", "3: "]


def test_the_legend_and_the_bars_stay_inside_the_drawing():
    series = {f"{'features.' * 9}{i}.conv": ((0.0, 1.0), (1.0, 0.5)) for i in range(30)}
    for kind in ("line", "bar"):
        svg = figure_svg(figure(kind, series), "one")
        width, height = (float(v) for v in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
        at = re.findall(r"<text[^>]*transform=\"translate\(([-\d.]+) ([-\d.]+)\)", svg)
        at += re.findall(r'<text[^>]*\sx="([-\d.]+)"[^>]*\sy="([-\d.]+)"', svg)
        assert len(at) > 30
        assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in at)


@pytest.mark.parametrize("kind", ["line", "scatter", "bar"])
def test_hostile_names(kind):
    hostile = Figure(
        title=HOSTILE, x=HOSTILE, y=HOSTILE, kind=kind, series={HOSTILE: ((0.0, 1.0), (1.0, 2.0))}
    )
    svg = figure_svg(hostile, "one")
    ET.fromstring(svg)
    assert "\x1b" not in svg
    assert "<script>" not in svg
