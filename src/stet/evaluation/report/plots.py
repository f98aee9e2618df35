"""The plots of a report. Colour is never the only cue: shapes, hatches and words repeat it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stet.evaluation.summary import Estimate, PolicySummary, SignalHistogram, Summary
from stet.pages.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Picture,
    category_axis,
    laid_out,
    new_figure,
    short,
    style,
)
from stet.pages.labels import spread
from stet.pages.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.6


def plots(summary: Summary) -> list[Picture]:
    """Draw all plots that this run has numbers for.

    Raises:
        StetError: matplotlib is not installed.
    """
    from stet.evaluation.report.frontier import frontier

    with style("frontier"):
        found = [frontier(summary)]
    with style("speed"):
        found.append(_speed(summary))
    if any(policy.work.accepted_per_position for policy in summary.policies):
        with style("kept"):
            found.append(_acceptance(summary))
    with style("cost"):
        found.append(_cost(summary))
    for index, policy in enumerate(summary.policies):
        if policy.signals:
            with style(f"signals-{index}"):
                found.append(_signals(f"signals-{index}", policy))
    return found


def _speed(summary: Summary) -> Picture:
    """Plot speed-ups with their intervals, beside the acceptance rates."""
    policies = summary.policies
    figure = new_figure(WIDTH, 1.1 + 0.34 * len(policies))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    both = summary.batch > 1
    for row, policy in enumerate(policies):
        height = row - 0.13 if both else row
        _point(left, policy.speed.latency_speedup, height, BLUE, "o", filled=True)
        if both:
            _point(left, policy.speed.throughput_speedup, row + 0.17, VERMILLION, "s", filled=False)
        ends = (policy.speed.latency_speedup, policy.speed.throughput_speedup)[: 1 + both]
        far = [v for end in ends for v in (end.value, end.high) if v and math.isfinite(v)]
        left.annotate(
            number(ends[0].value),
            (max(far, default=0.0), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=BLUE,
        )
    category_axis(left, [short(policy.label) for policy in policies])
    left.axvline(1.0, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    left.margins(x=0.12)
    left.set_xlim(0, None)
    left.set_xlabel(f"speed-up, times {short(summary.reference)}")
    if both:
        left.legend(
            handles=[
                _handle("o", BLUE, "latency", filled=True),
                _handle("s", VERMILLION, "throughput", filled=False),
            ],
            ncols=2,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            handletextpad=0.2,
            borderaxespad=0.1,
        )
    for row, policy in enumerate(policies):
        rate = policy.work.acceptance_rate
        if rate is None:
            right.text(1.5, row, "nothing drafted", va="center", fontsize=8.5, color=GREY)
            continue
        right.barh(row, 100 * rate, height=0.55, color=SKY, edgecolor=BLUE, linewidth=0.8)
        right.text(100 * rate + 1.5, row, number(100 * rate, ".0f"), va="center", fontsize=8.5)
    category_axis(right, [""] * len(policies))
    right.set_xlim(0, 108)
    right.set_xticks(range(0, 101, 25))
    right.set_xlabel("acceptance, % of drafted tokens")
    says = "; ".join(
        f"{p.label} {number(p.speed.latency_speedup.value)} times"
        + (
            f", {100 * p.work.acceptance_rate:.0f} % accepted"
            if p.work.acceptance_rate is not None
            else ""
        )
        for p in policies
    )
    return Picture("speed", "Speed-up and acceptance", says, laid_out(figure))


def _acceptance(summary: Summary) -> Picture:
    """Plot how often the i-th drafted token is accepted."""
    from matplotlib.ticker import MaxNLocator

    policies = [policy for policy in summary.policies if policy.work.accepted_per_position]
    figure = new_figure(WIDTH, 3.2)
    axes = figure.subplots()
    longest = max(len(policy.work.accepted_per_position) for policy in policies)
    ends = [100 * policy.work.accepted_per_position[-1] for policy in policies]
    marks = "osD^vPX*"
    colours = (BLUE, VERMILLION, GREEN, PURPLE, BLACK, ORANGE, SKY, GREY)
    lines = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1)))
    heights = spread(ends, 6.0)
    for index, (policy, end, height) in enumerate(zip(policies, ends, heights, strict=True)):
        shares = [100 * share for share in policy.work.accepted_per_position]
        colour = colours[index % len(colours)]
        axes.plot(
            range(1, len(shares) + 1),
            shares,
            color=colour,
            marker=marks[index % len(marks)],
            markersize=5,
            linestyle=lines[index % len(lines)],
            linewidth=1.6,
        )
        axes.annotate(
            short(policy.label),
            (len(shares), end),
            xytext=(longest + 0.04 * longest, height),
            textcoords="data",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 4,
            },
        )
    axes.set_ylim(min(0, *heights), 101)
    axes.set_xlim(0.8, longest + 0.02 * longest)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("position in the block")
    axes.set_ylabel("accepted, % of blocks")
    says = "; ".join(
        f"{p.label}: "
        + ", ".join(number(100 * share, ".0f") for share in p.work.accepted_per_position)
        for p in policies
    )
    title = "Accepted tokens per position, in percent of blocks"
    return Picture("kept", title, says, laid_out(figure))


def _cost(summary: Summary) -> Picture:
    """Plot the seconds of an answer by model."""
    from matplotlib.patches import Patch

    policies = summary.policies
    figure = new_figure(WIDTH, 1.0 + 0.34 * len(policies))
    axes = figure.subplots()
    parts: tuple[tuple[str, str, str], ...] = (
        ("target", ORANGE, ""),
        ("draft", SKY, "///"),
        ("other", "#e2e2e2", ""),
    )
    for row, policy in enumerate(policies):
        speed, start = policy.speed, 0.0
        values = (speed.target_seconds, speed.draft_seconds, speed.other_seconds)
        for (_, colour, hatch), value in zip(parts, values, strict=True):
            axes.barh(
                row,
                value,
                left=start,
                height=0.6,
                color=colour,
                hatch=hatch,
                edgecolor="#333333",
                linewidth=0.6,
            )
            start += value
        axes.annotate(
            f"{number(start, '.3g')} s",
            (start, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    category_axis(axes, [short(policy.label) for policy in policies])
    axes.margins(x=0.1)
    axes.set_xlim(0, None)
    axes.set_xlabel("mean machine seconds of an answer")
    axes.legend(
        handles=[Patch(facecolor=c, hatch=h, edgecolor="#333333", label=n) for n, c, h in parts],
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.1,
    )
    says = "; ".join(
        f"{p.label}: target {number(p.speed.target_seconds, '.3g')} s, "
        f"draft {number(p.speed.draft_seconds, '.3g')} s, "
        f"other {number(p.speed.other_seconds, '.3g')} s"
        for p in policies
    )
    return Picture("cost", "Mean machine seconds of an answer, by model", says, laid_out(figure))


def _signals(name: str, policy: PolicySummary) -> Picture:
    """Plot the distribution of each signal over right and wrong answers."""
    across = min(3, len(policy.signals))
    down = math.ceil(len(policy.signals) / across)
    figure = new_figure(WIDTH, 0.4 + 2.1 * down)
    grid = figure.subplots(down, across, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index < len(policy.signals):
            _histogram(axes, policy.signals[index])
            if index % across == 0:
                axes.set_ylabel("share, %")
        else:
            axes.set_visible(False)
    grid[0, 0].legend(loc="upper left", fontsize=8.5, handlelength=1.4, borderaxespad=0.2)
    says = "; ".join(
        f"{signal.name} of {signal.of}, area under the curve {number(signal.auc)}"
        for signal in policy.signals
    )
    return Picture(name, f"Signals of {policy.label}, right against wrong", says, laid_out(figure))


def _histogram(axes: Axes, signal: SignalHistogram) -> None:
    looks: tuple[tuple[list[int], str, dict[str, Any]], ...] = (
        (signal.right, "right", {"facecolor": "#cfe3f1", "edgecolor": BLUE}),
        (signal.wrong, "wrong", {"facecolor": "none", "edgecolor": VERMILLION, "hatch": "////"}),
    )
    for counts, label, look in looks:
        total = sum(counts)
        if total:
            shares = [100 * count / total for count in counts]
            axes.stairs(
                shares, signal.edges, fill=True, linewidth=1.3, label=f"{label} ({total:,})", **look
            )
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    auc = "" if signal.auc is None else f", AUC {number(signal.auc)}"
    axes.set_title(f"{signal.of}{auc}", fontsize=9)
    axes.set_xlabel(signal.name)


def _point(
    axes: Axes, value: Estimate, row: float, colour: str, mark: str, *, filled: bool
) -> None:
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [row, row], color=colour, linewidth=1.4, zorder=2)
    axes.plot(
        value.value,
        row,
        mark,
        color=colour,
        markersize=5.5,
        markerfacecolor=colour if filled else "white",
        zorder=3,
    )


def _handle(mark: str, colour: str, label: str, *, filled: bool) -> Any:
    from matplotlib.lines import Line2D

    face = colour if filled else "white"
    return Line2D([], [], marker=mark, color=colour, markerfacecolor=face, label=label)
