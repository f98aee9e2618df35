"""The plots of a calibration. Colour is never the only cue: shapes or words say the same."""

from __future__ import annotations

from collections.abc import Callable

from stet.calibration.reliability import Reliability
from stet.calibration.report.threshold_plots import WIDTH, frontier, risk, thresholds
from stet.calibration.report.words import best_first, label
from stet.calibration.result import Calibration
from stet.pages.drawing import (
    BLACK,
    BLUE,
    GREY,
    SKY,
    VERMILLION,
    Picture,
    category_axis,
    laid_out,
    new_figure,
    style,
)
from stet.pages.words import number


def plots(found: Calibration) -> list[Picture]:
    """Draw all plots for which a calibration has numbers.

    Raises:
        StetError: matplotlib is not installed.
    """
    made: list[Callable[[Calibration], Picture]] = [_signals, _reliability, thresholds, frontier]
    if found.wish.goal == "risk":
        made.append(risk)
    pictures: list[Picture] = []
    for make in made:
        with style(make.__name__.strip("_")):
            pictures.append(make(found))
    return pictures


def _signals(found: Calibration) -> Picture:
    """Draw the AUROC of every signal with its interval, and among similar steps."""
    from matplotlib.lines import Line2D

    shown = best_first(found)
    figure = new_figure(WIDTH, 1.2 + 0.3 * len(shown))
    axes = figure.subplots()
    for row, quality in enumerate(shown):
        used = quality is found.score or quality.name in found.weights
        colour = BLACK if quality is found.score else BLUE if used else GREY
        axes.plot([quality.low, quality.high], [row, row], color=colour, linewidth=1.6, zorder=2)
        face = colour if used else "white"
        axes.plot(
            quality.auroc, row, "o", color=colour, markerfacecolor=face, markersize=6, zorder=3
        )
        if quality.within is not None:
            axes.plot(
                quality.within,
                row + 0.24,
                "D",
                color=VERMILLION,
                markerfacecolor="white",
                markersize=4.5,
                zorder=3,
            )
    category_axis(axes, [label(q) for q in shown])
    axes.axvline(0.5, color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    ends = [e for q in shown for e in (q.low, q.within) if e is not None]
    axes.set_xlim(min(0.45, *ends) - 0.02, 1.01)
    axes.set_xlabel("AUROC: probability that a good step has more of it than a bad one")
    keys = (
        ("o", BLUE, BLUE, "in the score"),
        ("o", GREY, "white", "left out"),
        ("D", VERMILLION, "white", "among steps of similar index and length"),
    )
    axes.legend(
        handles=[
            Line2D([], [], linestyle="", marker=m, color=c, markerfacecolor=f, label=words)
            for m, c, f, words in keys
        ],
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        handletextpad=0.2,
        borderaxespad=0.1,
    )
    says = "; ".join(f"{label(q)} {number(q.auroc, '.3f')}" for q in shown)
    return Picture(
        "signals", "How well each signal tells good steps from bad", says, laid_out(figure)
    )


def _reliability(found: Calibration) -> Picture:
    """Draw the share of good steps by score, above a histogram of scores."""
    curve: Reliability = found.reliability
    figure = new_figure(WIDTH, 4.4)
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 100], color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    xs: list[float] = []
    ys: list[float] = []
    for b in curve.bins:
        if b.score is None or b.good is None:
            continue
        xs.append(b.score)
        ys.append(100 * b.good)
        if b.good_low is not None and b.good_high is not None:
            ends = [100 * b.good_low, 100 * b.good_high]
            upper.plot([b.score, b.score], ends, color=BLUE, linewidth=1.4, alpha=0.6, zorder=2)
    upper.plot(xs, ys, "o-", color=BLUE, markersize=6, linewidth=1.4, zorder=3)
    upper.set_ylim(-3, 103)
    upper.set_ylabel("good steps, %")
    upper.axvline(found.chosen.threshold, color=VERMILLION, linewidth=1.4, zorder=1)
    upper.annotate(
        f"threshold {found.chosen.threshold:g}",
        (found.chosen.threshold, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        color=VERMILLION,
        annotation_clip=False,
    )
    for b in curve.bins:
        lower.bar(
            (b.low + b.high) / 2,
            b.steps,
            width=0.92 * (b.high - b.low),
            color=SKY,
            edgecolor=BLUE,
            linewidth=0.8,
        )
        if b.steps:
            lower.annotate(
                str(b.steps),
                ((b.low + b.high) / 2, b.steps),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    lower.margins(y=0.2)
    lower.set_xlim(-0.02, 1.02)
    lower.set_ylabel("steps")
    lower.set_xlabel("score")
    says = "; ".join(
        f"score {number(b.score)}: {number(100 * b.good, '.0f')} % of {b.steps} steps good"
        for b in curve.bins
        if b.score is not None and b.good is not None
    )
    says += f". Expected calibration error {number(curve.error, '.3f')}"
    return Picture("reliability", "Share of good steps by score", says, laid_out(figure))
