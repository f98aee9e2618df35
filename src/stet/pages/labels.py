"""Placement of labels beside the points of a plot, without overlaps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stet.pages.drawing import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINT = 5.5
"""Half the size of a marker, in points."""
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area of the intersection with another box."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def outside(self, other: Box) -> float:
        """The area of this box outside the other."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(other)

    def distance(self, x: float, y: float) -> float:
        """The distance from a point to the nearest edge; 0 inside."""
        return math.hypot(
            max(self.left - x, 0.0, x - self.right), max(self.bottom - y, 0.0, y - self.top)
        )


@dataclass(frozen=True, slots=True)
class LabelPlace:
    """A possible place of a label: its offset from the point, in points, and its alignment."""

    dx: float
    dy: float
    across: str
    along: str

    def box(self, x: float, y: float, width: float, height: float, scale: float) -> Box:
        """The box of a text of this size beside a point; all in pixels."""
        left = x + self.dx * scale - {"left": 0.0, "center": 0.5, "right": 1.0}[self.across] * width
        bottom = (
            y + self.dy * scale - {"bottom": 0.0, "center": 0.5, "top": 1.0}[self.along] * height
        )
        return Box(left, bottom, left + width, bottom + height)


def place_labels(
    axes: Axes, points: list[tuple[float, float]], names: list[str], bars: list[Box]
) -> list[Box]:
    """Write each name beside its point, where it overlaps least and is not ambiguous.

    In some rounds, each label tries places around its point, the near ones first, given the places
    of the others. A label that is far from its point, or near another one, gets a line to its own.

    Args:
        axes: the axes, with final limits and place in the figure.
        points: the points in data coordinates.
        names: one name for each point.
        bars: intervals to keep clear of, as boxes in pixels.

    Returns:
        The boxes of the labels in pixels, in the order of the points.
    """
    canvas: Any = axes.figure.canvas
    renderer = canvas.get_renderer()
    scale: float = renderer.points_to_pixels(1.0)
    extent = axes.get_window_extent(renderer)
    frame = Box(extent.x0, extent.y0, extent.x1, extent.y1)
    spots = [tuple(map(float, axes.transData.transform(point))) for point in points]
    sizes = [_size(axes, name, renderer) for name in names]
    half = _POINT * scale
    markers = [Box(x - half, y - half, x + half, y + half) for x, y in spots]
    chosen: list[LabelPlace | None] = [None] * len(points)
    boxes: list[Box | None] = [None] * len(points)

    def cost(index: int, rank: int, box: Box) -> float:
        found = 8.0 * sum(box.overlap(b) for i, b in enumerate(boxes) if b and i != index)
        found += 6.0 * sum(box.overlap(marker) for marker in markers)
        found += 5.0 * sum(box.overlap(bar) for bar in bars) + 10.0 * box.outside(frame)
        found += 30.0 * scale * max(0.0, _ambiguity(box, spots, index) + 6 * scale)
        return found + 6.0 * scale**2 * rank

    for _ in range(_ROUNDS):
        for index, (x, y) in enumerate(spots):
            options = [
                (place.box(x, y, *sizes[index], scale), place, rank)
                for rank, place in enumerate(_PLACES)
            ]
            best = min(options, key=lambda option: cost(index, option[2], option[0]))
            boxes[index], chosen[index] = best[0], best[1]
    final: list[Box] = []
    for index, (place, box) in enumerate(zip(chosen, boxes, strict=True)):
        assert place is not None
        assert box is not None
        far = math.hypot(place.dx, place.dy) > 12 or _ambiguity(box, spots, index) > -4 * scale
        _write(axes, names[index], points[index], place, line=far)
        final.append(box)
    return final


def _ambiguity(box: Box, spots: list[Any], index: int) -> float:
    """How much nearer a label is to another point than to its own; below 0 where it is not."""
    own = box.distance(*spots[index])
    others = [box.distance(*spot) for i, spot in enumerate(spots) if i != index]
    return own - min(others, default=math.inf)


def spread(values: list[float], gap: float) -> list[float]:
    """Move values until neighbours are at least `gap` apart, in the same order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(values)), key=lambda i: (values[i], i)):
        groups.append([index])
        # Groups that touch become one, centred on the values of its members.
        while len(groups) > 1:
            above, below = groups[-1], groups[-2]
            room = _first(above, values, gap) - _first(below, values, gap) - gap * len(below)
            if room >= -1e-9:
                break
            groups[-2:] = [below + above]
    moved = [0.0] * len(values)
    for group in groups:
        for place, index in enumerate(group):
            moved[index] = _first(group, values, gap) + place * gap
    return moved


def _first(group: list[int], values: list[float], gap: float) -> float:
    return sum(values[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _size(axes: Axes, name: str, renderer: Any) -> tuple[float, float]:
    label = axes.text(0, 0, name)
    extent = label.get_window_extent(renderer)
    label.remove()
    return float(extent.width), float(extent.height)


def _around(distance: float) -> list[LabelPlace]:
    slant = distance * 0.75
    return [
        LabelPlace(slant, slant, "left", "bottom"),
        LabelPlace(-slant, slant, "right", "bottom"),
        LabelPlace(slant, -slant, "left", "top"),
        LabelPlace(-slant, -slant, "right", "top"),
        LabelPlace(distance, 0, "left", "center"),
        LabelPlace(-distance, 0, "right", "center"),
        LabelPlace(0, distance, "center", "bottom"),
        LabelPlace(0, -distance, "center", "top"),
        LabelPlace(slant / 2, distance, "left", "bottom"),
        LabelPlace(-slant / 2, distance, "right", "bottom"),
        LabelPlace(slant / 2, -distance, "left", "top"),
        LabelPlace(-slant / 2, -distance, "right", "top"),
    ]


_PLACES = [place for distance in (7.0, 16.0, 26.0, 38.0, 52.0, 68.0) for place in _around(distance)]


def _write(
    axes: Axes, name: str, point: tuple[float, float], place: LabelPlace, *, line: bool
) -> None:
    arrow: dict[str, Any] | None = None
    if line:
        arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 5}
    axes.annotate(
        name,
        point,
        xytext=(place.dx, place.dy),
        textcoords="offset points",
        horizontalalignment=place.across,
        verticalalignment=place.along,
        arrowprops=arrow,
        zorder=6,
    )
