"""The plot of accuracy against speed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stet.evaluation.summary import Estimate, PolicySummary, Summary
from stet.pages.drawing import (
    BLACK,
    BLUE,
    GREY,
    VERMILLION,
    Picture,
    laid_out,
    new_figure,
    short,
)
from stet.pages.labels import Box, place_labels
from stet.pages.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A policy in the plane: speed-up to the right, percent upwards."""

    policy: PolicySummary
    x: Estimate
    y: Estimate

    @property
    def at(self) -> tuple[float, float]:
        """Its position in the plot."""
        return self.x.value, 100 * self.y.value


def points(summary: Summary) -> list[FrontierPoint]:
    """The policies that have both numbers.

    Without a grader the height is the share of texts equal to the reference's.
    """
    graded = is_graded(summary)
    found = []
    for policy in summary.policies:
        y = policy.accuracy if graded else policy.same_text
        x = policy.speed.latency_speedup
        if y is not None and math.isfinite(y.value) and math.isfinite(x.value) and x.value > 0:
            found.append(FrontierPoint(policy, x, y))
    return found


def front(found: list[FrontierPoint]) -> list[FrontierPoint]:
    """The Pareto front: points that no other beats in both directions; slowest first."""
    best: list[FrontierPoint] = []
    for point in sorted(found, key=lambda p: (-p.at[0], -p.at[1])):
        if not best or point.at[1] > best[-1].at[1]:
            best.append(point)
    return best[::-1]


def is_graded(summary: Summary) -> bool:
    """Whether accuracy is known."""
    return any(policy.accuracy is not None for policy in summary.policies)


def frontier(summary: Summary) -> Picture:
    """Every policy with its intervals, the Pareto front and the reference."""
    found = points(summary)
    best = front(found)
    what = "Accuracy" if is_graded(summary) else "Same text as the reference"
    figure = new_figure(7.6, 4.6)
    axes = figure.subplots()
    _limits(axes, found)
    for point in found:
        _draw(axes, point, on_front=point in best)
    _front_line(axes, best)
    axes.set_xlabel(f"speed-up, times {short(summary.reference)} (latency of the same questions)")
    axes.set_ylabel("accuracy, %" if is_graded(summary) else "same text as the reference, %")
    base = next((p.speed.seconds for p in summary.policies if p.is_reference), 0.0)
    if base > 0 and found:
        _seconds_axis(axes, base)
    _legend(figure, found)
    laid_out(figure)
    if found:
        names = [short(p.policy.label) for p in found]
        place_labels(axes, [p.at for p in found], names, _occupied(axes, found, best))
    says = "; ".join(
        f"{p.policy.label} {number(p.at[1], '.1f')} % at {number(p.at[0])} times" for p in found
    )
    says += ". On the Pareto front: " + ", ".join(p.policy.label for p in best) + "."
    return Picture("frontier", f"{what} against speed-up", says, figure)


def _limits(axes: Axes, found: list[FrontierPoint]) -> None:
    xs = [x for p in found for x in (p.x.value, p.x.low, p.x.high) if x is not None and x > 0]
    ys = [100 * y for p in found for y in (p.y.value, p.y.low, p.y.high) if y is not None]
    low, high = min(xs, default=1.0), max(xs, default=1.0)
    if high / low > 3:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.set_xscale("log")
        axes.set_xlim(low / 1.25, high * 1.25)
        steps = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 50)
        axes.xaxis.set_major_locator(FixedLocator(steps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    else:
        room = max(0.12 * (high - low), 0.1)
        axes.set_xlim(max(0.0, low - room), high + room)
    bottom, top = min(ys, default=0.0), max(ys, default=100.0)
    room = max(0.1 * (top - bottom), 1.0)
    axes.set_ylim(bottom - room, top + room)


def _draw(axes: Axes, point: FrontierPoint, *, on_front: bool) -> None:
    mark, colour, size = _look(point.policy)
    x, y = point.at
    bar: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": 0.55, "zorder": 3}
    if point.x.low is not None and point.x.high is not None:
        axes.plot([point.x.low, point.x.high], [y, y], **bar)
    if point.y.low is not None and point.y.high is not None:
        axes.plot([x, x], [100 * point.y.low, 100 * point.y.high], **bar)
    axes.plot(
        x,
        y,
        mark,
        color=colour,
        markersize=size,
        markerfacecolor=colour if on_front else "white",
        markeredgewidth=1.4,
        zorder=5,
    )


def _look(policy: PolicySummary) -> tuple[str, str, float]:
    """Marker, colour and size of a policy."""
    if policy.is_reference:
        return "*", BLACK, 13.0
    return ("o", BLUE, 8.0) if policy.lossless else ("s", VERMILLION, 7.5)


def _front_line(axes: Axes, best: list[FrontierPoint]) -> None:
    """Draw the front; everything below and left of this line is beaten by a policy on it."""
    if best:
        corners = _corners(axes, best)
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        axes.plot(xs, ys, color="#bbbbbb", linewidth=3.0, zorder=1)


def _corners(axes: Axes, best: list[FrontierPoint]) -> list[tuple[float, float]]:
    """The front as a line of steps, from the left edge to the bottom."""
    corners = [(axes.get_xlim()[0], best[0].at[1])]
    for point in best:
        corners += [(corners[-1][0], point.at[1]), point.at]
    return [*corners, (best[-1].at[0], axes.get_ylim()[0])]


def _seconds_axis(axes: Axes, base: float) -> None:
    """Draw an axis along the top with the seconds that the speed-ups stand for."""
    low, high = axes.get_xlim()
    top = axes.twiny()
    top.set_xscale(axes.get_xscale())
    top.set_xlim(low, high)
    most, least = base / max(low, high * 1e-3), base / high
    power = math.floor(math.log10(least))
    steps = [m * 10.0**p for p in range(power, power + 5) for m in (1, 1.5, 2, 3, 4, 5, 7)]
    ticks, last = [], -1.0
    for seconds in sorted((s for s in steps if least <= s <= most), reverse=True):
        place = float(
            axes.transAxes.inverted().transform(axes.transData.transform((base / seconds, 0)))[0]
        )
        if place - last > 0.08:
            ticks.append(seconds)
            last = place
    top.set_xticks([base / s for s in ticks], [f"{s:.3g}" for s in ticks], minor=False)
    top.minorticks_off()
    top.grid(visible=False)
    top.spines["top"].set_visible(True)
    top.set_xlabel("mean seconds of an answer")


def _legend(figure: Any, found: list[FrontierPoint]) -> None:
    from matplotlib.lines import Line2D

    def key(mark: str, colour: str, size: float, label: str, *, face: str | None = None) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="",
            marker=mark,
            color=colour,
            markersize=size * 0.8,
            markerfacecolor=face or colour,
            label=label,
        )

    handles = []
    for name, shown in (
        ("reference", [p for p in found if p.policy.is_reference]),
        ("lossless", [p for p in found if p.policy.lossless and not p.policy.is_reference]),
        ("lossy", [p for p in found if not p.policy.lossless and not p.policy.is_reference]),
    ):
        if shown:
            handles.append(key(*_look(shown[0].policy), name))
    handles.append(Line2D([], [], color="#bbbbbb", linewidth=3.0, label="Pareto front (filled)"))
    handles.append(key("o", GREY, 8.0, "beaten by another", face="white"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, handletextpad=0.4)


def _occupied(axes: Axes, found: list[FrontierPoint], best: list[FrontierPoint]) -> list[Box]:
    """The intervals and the front as thin boxes, in pixels."""
    lines: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for point in found:
        (x, y), low, high = point.at, point.y.low, point.y.high
        if low is not None and high is not None:
            lines.append(((x, 100 * low), (x, 100 * high)))
        if point.x.low is not None and point.x.high is not None:
            lines.append(((point.x.low, y), (point.x.high, y)))
    corners = _corners(axes, best)
    lines += pairwise(corners)
    boxes = []
    for line in lines:
        (x1, y1), (x2, y2) = axes.transData.transform(line)
        boxes.append(Box(min(x1, x2) - 2, min(y1, y2) - 2, max(x1, x2) + 2, max(y1, y2) + 2))
    return boxes
