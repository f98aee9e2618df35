"""The plots: the same bytes each time, legible labels, and the front where it belongs."""

import re
import sys
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.report_example import example
from stet.core.errors import StetError
from stet.evaluation.report import write_report
from stet.evaluation.report.frontier import front, points
from stet.evaluation.report.plots import plots
from stet.evaluation.summary import Estimate, Summary
from stet.pages.drawing import laid_out, new_figure, style
from stet.pages.labels import Box, place_labels, spread


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return example(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def summary(run) -> Summary:
    return run[1]


@pytest.fixture(scope="module")
def pictures(summary):
    return {picture.name: picture for picture in plots(summary)}


def test_which_plots(pictures):
    assert list(pictures) == [
        "frontier",
        "speed",
        "kept",
        "cost",
        "signals-4",
        "signals-5",
        "signals-6",
    ]


def test_same_bytes_each_time(summary, pictures):
    again = {picture.name: picture for picture in plots(summary)}
    for name in ("frontier", "kept", "signals-5"):
        assert again[name].svg() == pictures[name].svg() == pictures[name].svg()
    assert again["frontier"].png() == pictures["frontier"].png()
    assert "<dc:date>" not in pictures["frontier"].svg()


def test_inline_svg_shares_nothing_with_the_page(pictures):
    ids: list[str] = []
    for name, picture in pictures.items():
        text = picture.inline()
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert root.get("aria-label").startswith(picture.title)
        assert "<style" not in text
        own = re.findall(r'\bid="([^"]+)"', text)
        used = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
        assert set(used) <= set(own)
        assert all(found.startswith(f"{name}-") for found in own)
        ids += own
    assert len(ids) == len(set(ids))


def test_plots_name_every_policy(summary, pictures):
    for policy in summary.policies:
        for name in ("frontier", "speed", "cost"):
            assert f">{policy.label}</text>" in pictures[name].svg()
            assert policy.label in pictures[name].description
    for label in ("accuracy, %", "mean seconds of an answer"):
        assert f">{label}</text>" in pictures["frontier"].svg()


def test_labels_are_text_not_mathematics(summary):
    policies = [replace(p, label=f"$x_{i}^2$ <b>&") for i, p in enumerate(summary.policies)]
    found = {picture.name: picture for picture in plots(replace(summary, policies=policies))}
    assert "$x_3^2$ &lt;b&gt;&amp;" in found["frontier"].svg()
    ElementTree.fromstring(found["cost"].inline())


def test_the_users_settings_change_nothing(summary, pictures):
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert plots(summary)[0].svg() == pictures["frontier"].svg()
        assert matplotlib.rcParams["font.size"] == 30


def test_front(summary):
    found = points(summary)
    labels = [point.policy.label for point in front(found)]
    assert labels == ["ensemble", "steps", "draft"]
    for point in found:
        beaten = any(
            o.at[0] >= point.at[0] and o.at[1] >= point.at[1] and o.at != point.at for o in found
        )
        assert beaten == (point.policy.label not in labels)


def test_without_a_grader_the_height_is_the_same_text(summary):
    policies = [replace(p, accuracy=None, difference=None, signals=[]) for p in summary.policies]
    found = plots(replace(summary, policies=policies))
    assert [picture.name for picture in found] == ["frontier", "speed", "kept", "cost"]
    assert ">same text as the reference, %</text>" in found[0].svg()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_policies(summary, count):
    for picture in plots(replace(summary, policies=summary.policies[:count], batch=1)):
        assert picture.inline()
        assert picture.png().startswith(b"\x89PNG")


def test_numbers_that_are_missing_or_not_finite(summary):
    nan = Estimate(float("nan"))
    strange = [
        replace(
            p,
            accuracy=nan,
            signals=[],
            speed=replace(p.speed, latency_speedup=nan, throughput_speedup=nan),
        )
        for p in summary.policies[1:3]
    ]
    for picture in plots(replace(summary, policies=[summary.policies[0], *strange])):
        assert picture.svg()


def test_many_close_points_keep_their_labels_apart():
    names = [f"policy-{index}" for index in range(10)]
    spots = [(1 + 0.03 * (i % 4), 80 + 0.4 * (i % 3) + 0.05 * i) for i in range(10)]
    with style("test"):
        figure = new_figure(7, 4)
        axes = figure.subplots()
        axes.set_xlim(0.5, 2)
        axes.set_ylim(75, 85)
        laid_out(figure)
        boxes = place_labels(axes, spots, names, [])
        extent = axes.get_window_extent()
    frame = Box(extent.x0, extent.y0, extent.x1, extent.y1)
    for index, box in enumerate(boxes):
        assert box.outside(frame) == pytest.approx(0, abs=1e-6)
        assert all(box.overlap(other) < 1 for other in boxes[:index])


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.1, 10))
def test_spread(values, gap):
    moved = spread(values, gap)
    for first, a in enumerate(moved):
        for second, b in enumerate(moved):
            if first != second:
                assert abs(a - b) >= gap - 1e-6
            if values[first] < values[second]:
                assert a < b
    # Nothing moves that had room.
    ordered = sorted(values)
    if all(b - a >= gap for a, b in pairwise(ordered)):
        assert moved == pytest.approx(values)


def test_without_matplotlib_one_sentence_and_no_files(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StetError, match=r'pip install "stet-decoding\[compare\]"'):
        write_report(*run, tmp_path / "report")
    assert not (tmp_path / "report").exists()
