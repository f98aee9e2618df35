"""The plots of results by threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stet.calibration.choosing import ThresholdPoint
from stet.calibration.result import Calibration
from stet.evaluation.statistics import share
from stet.evaluation.summary import Estimate
from stet.pages.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    Picture,
    laid_out,
    new_figure,
    short,
)
from stet.pages.labels import Box, place_labels, spread
from stet.pages.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.6
_LOOKS = {"target": (GREY, (0, (4, 2))), "exact": (ORANGE, (0, (1, 1.5)))}


def thresholds(found: Calibration) -> Picture:
    """Draw accuracy, accepted steps, seconds and losses over the threshold."""
    looked_at = all(p.losses is not None for p in found.points)
    rows, columns = (2, 2) if looked_at else (1, 3)
    figure = new_figure(WIDTH, 2.5 * rows)
    panels: list[Axes] = list(figure.subplots(rows, columns, sharex=True).flat)
    _panel(panels[0], found, _passed, f"{found.measure.quantity}, %", references=True)
    _panel(panels[1], found, lambda p: Estimate(100 * p.kept), "steps accepted, %")
    _panel(panels[2], found, lambda p: Estimate(p.seconds), "seconds of an answer", True)
    panels[2].set_ylim(0, None)
    if looked_at:
        _panel(panels[3], found, _losses, f"{found.measure.loss}, %")
        bound = found.wish.value if found.wish.goal == "risk" else 0.0
        panels[3].set_ylim(0, max(panels[3].get_ylim()[1], 115 * bound))
        if bound:
            _line(panels[3], 100 * bound, "bound", BLACK, "-")
    for axes in panels[-columns:]:
        axes.set_xlabel("threshold")
    says = "; ".join(
        f"{p.threshold:g}: {number(100 * p.accuracy, '.1f')} % {found.measure.heading}, "
        f"{number(100 * p.kept, '.1f')} % of steps accepted, {number(p.seconds, '.3f')} s"
        + (f", {p.losses} lost" if p.losses is not None else "")
        for p in found.points
    )
    says += f". Chosen: {found.chosen.threshold:g}"
    return Picture("thresholds", "Results by threshold", says, laid_out(figure))


def _panel(
    axes: Axes,
    found: Calibration,
    value: Callable[[ThresholdPoint], Estimate],
    label: str,
    references: bool = False,
) -> None:
    """Draw a quantity over the threshold; the chosen threshold is filled."""
    values = [value(p) for p in found.points]
    xs = [p.threshold for p in found.points]
    axes.plot(xs, [v.value for v in values], color=BLUE, linewidth=1.4, zorder=2)
    for point, x, v in zip(found.points, xs, values, strict=True):
        if v.low is not None and v.high is not None:
            axes.plot([x, x], [v.low, v.high], color=BLUE, linewidth=1.2, alpha=0.5, zorder=2)
        _mark(axes, x, v.value, point == found.chosen)
    compared = found.references if references else {}
    heights = {name: value(point).value for name, point in compared.items()}
    for name, height in heights.items():
        _line(axes, height, "", *_LOOKS[name])
    axes.margins(x=0.08, y=0.14)
    axes.set_ylabel(label)
    low, high = axes.get_ylim()
    moved = spread(list(heights.values()), 0.075 * (high - low))
    for name, height in zip(heights, moved, strict=True):
        _name(axes, height, name)


def _mark(axes: Axes, x: float, y: float, chosen: bool) -> None:
    axes.plot(
        x,
        y,
        "D" if chosen else "o",
        color=VERMILLION if chosen else BLUE,
        markerfacecolor=VERMILLION if chosen else "white",
        markersize=8 if chosen else 5.5,
        zorder=4,
    )


def _line(axes: Axes, height: float, name: str, colour: str, dashes: Any) -> None:
    """Draw a horizontal line, with its name at its right end."""
    axes.axhline(height, color=colour, linewidth=1.3, linestyle=dashes, zorder=1)
    if name:
        _name(axes, height, name)


def _name(axes: Axes, height: float, name: str) -> None:
    """Write a line's name, right of the plot."""
    axes.annotate(
        name,
        (1.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(2, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color="#333333",
        annotation_clip=False,
    )


def frontier(found: Calibration) -> Picture:
    """Draw accuracy against latency."""
    figure = new_figure(WIDTH, 4.0)
    axes = figure.subplots()
    every = [*found.points, *found.references.values()]
    names = [f"{p.threshold:g}" for p in found.points] + [short(n) for n in found.references]
    at: list[tuple[float, float]] = []
    bars: list[tuple[float, Estimate]] = []
    for place, point in enumerate(every):
        height = _passed(point)
        at.append((point.seconds, height.value))
        bars.append((point.seconds, height))
        if height.low is not None and height.high is not None:
            ends = [height.low, height.high]
            axes.plot([point.seconds] * 2, ends, color=BLUE, linewidth=1.0, alpha=0.35, zorder=2)
        if place < len(found.points):
            _mark(axes, point.seconds, height.value, point == found.chosen)
        else:
            axes.plot(point.seconds, height.value, "*", color=BLACK, markersize=11, zorder=4)
    inorder = sorted(at[: len(found.points)])
    axes.plot(
        [x for x, _ in inorder], [y for _, y in inorder], color="#bbbbbb", linewidth=1.2, zorder=1
    )
    axes.set_xlim(0, 1.12 * max(x for x, _ in at))
    axes.margins(y=0.14)
    axes.set_xlabel("mean machine seconds of an answer")
    axes.set_ylabel(f"{found.measure.quantity}, %")
    laid_out(figure)
    place_labels(axes, at, names, _boxes(axes, bars))
    says = "; ".join(
        f"{name} {number(y, '.1f')} % in {number(x, '.3f')} s"
        for name, (x, y) in zip(names, at, strict=True)
    )
    says += f". Chosen: {found.chosen.threshold:g}"
    title = f"{found.measure.quantity.capitalize()} against latency, by threshold"
    return Picture("frontier", title, says, figure)


def _boxes(axes: Axes, bars: Sequence[tuple[float, Estimate]]) -> list[Box]:
    """The boxes around the intervals, in pixels."""
    boxes: list[Box] = []
    for x, y in bars:
        if y.low is not None and y.high is not None:
            (left, low), (_, high) = axes.transData.transform([(x, y.low), (x, y.high)])
            boxes.append(Box(left - 2, low, left + 2, high))
    return boxes


def risk(found: Calibration) -> Picture:
    """Draw the p-values of the bound on risk."""
    from matplotlib.ticker import FuncFormatter

    figure = new_figure(WIDTH, 3.4)
    axes = figure.subplots()
    floor = 1e-6
    bar = found.wish.delta / len(found.points)
    values = [max(p.p_value if p.p_value is not None else 1.0, floor) for p in found.points]
    labels = [f"{p.threshold:g}" for p in found.points]
    for place, (point, p_value) in enumerate(zip(found.points, values, strict=True)):
        passes = p_value <= bar
        axes.plot(
            [place, place], [p_value, 1.0], color=GREEN if passes else GREY, linewidth=1.4, zorder=2
        )
        _mark(axes, place, p_value, point == found.chosen)
        axes.annotate(
            f"{point.losses} of {point.problems}",
            (place, 1.0),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(floor / 2, 1.0)
    _line(axes, bar, "bar", BLACK, (0, (4, 2)))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_xlabel("threshold")
    axes.set_ylabel(f"p of “risk above {100 * found.wish.value:g} %”")
    says = "; ".join(
        f"{label}: {p.losses} of {p.problems} lost, p {number(p.p_value, '.3g')}"
        for label, p in zip(labels, found.points, strict=True)
    )
    says += f". The bar is {number(bar, '.3g')}"
    title = "Losses and p-values; below the bar the bound holds"
    return Picture("risk", title, says, laid_out(figure))


def _passed(point: ThresholdPoint) -> Estimate:
    return _percent(point.right, point.problems)


def _losses(point: ThresholdPoint) -> Estimate:
    return _percent(point.losses or 0, point.problems)


def _percent(count: int, of: int) -> Estimate:
    found = share([1] * count + [0] * (of - count), [1] * of)
    assert found.low is not None
    assert found.high is not None
    return Estimate(100 * found.value, 100 * found.low, 100 * found.high)
