"""The plots of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stet.pages.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    Picture,
    laid_out,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.6
CELL_COLOURS = {
    "both right": GREY,
    "draft only": BLUE,
    "target only": ORANGE,
    "neither": "#dddddd",
}


def plots(record: dict[str, Any]) -> list[Picture]:
    """Draw all plots for which a training's record has numbers."""
    found = [_cells(record), _curve(record)]
    if record["importance"]:
        found.append(_importance(record))
    if record["rounds"]:
        found.append(_rounds(record))
    return found


def _cells(record: dict[str, Any]) -> Picture:
    """Draw the outcomes of the mismatches of each sweep."""
    figure = new_figure(WIDTH, 1.0 + 0.5 * len(record["cells"]))
    axes: Axes = figure.subplots()
    labels = [f"sweep {i}" for i in range(1, len(record["cells"]) + 1)]
    left = [0.0] * len(labels)
    for cell, colour in CELL_COLOURS.items():
        shares = [100 * c[cell] / max(sum(c.values()), 1) for c in record["cells"]]
        axes.barh(labels, shares, left=left, color=colour, label=cell, height=0.6)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of mismatches, %")
    figure.legend(loc="outside upper center", ncols=4)
    says = "; ".join(
        f"{label}: " + ", ".join(f"{n} {name}" for name, n in cells.items())
        for label, cells in zip(labels, record["cells"], strict=True)
    )
    return Picture("cells", "Whose token leads to a right answer", says, laid_out(figure))


def _curve(record: dict[str, Any]) -> Picture:
    """Draw right answers over tokens per pass, for every threshold."""
    figure = new_figure(WIDTH, 3.4)
    axes: Axes = figure.subplots()
    for name, key, colour, marker in (
        ("warm start", "warm", GREY, "o"),
        ("after policy gradient", "final", BLUE, "D"),
    ):
        points = record[key]
        if key == "final" and not record["rounds"]:
            continue
        axes.plot(
            [p["tokens_per_pass"] for p in points],
            [100 * p["right"] / p["questions"] for p in points],
            color=colour,
            marker=marker,
            label=name,
            linewidth=1,
        )
        for p in points:
            axes.annotate(
                f"{p['threshold']:g}",
                (p["tokens_per_pass"], 100 * p["right"] / p["questions"]),
                textcoords="offset points",
                xytext=(4, 4),
                color=colour,
                fontsize=7,
            )
    target = record["target"]
    axes.plot(
        [target["tokens_per_pass"]],
        [100 * target["right"] / target["questions"]],
        color=VERMILLION,
        marker="*",
        markersize=11,
        linestyle="none",
        label="target alone",
    )
    axes.set_xlabel("tokens per pass of the target")
    axes.set_ylabel("right answers, %")
    figure.legend(loc="outside upper center", ncols=3)
    chosen = record["chosen"]
    says = (
        f"Target alone: {target['right']} of {target['questions']} right at "
        f"{target['tokens_per_pass']:.2f} tokens per pass; chosen: {chosen['right']} right at "
        f"{chosen['tokens_per_pass']:.2f}, threshold {chosen['threshold']:g}"
    )
    return Picture("curve", "Thresholds on the validation questions", says, laid_out(figure))


def _importance(record: dict[str, Any]) -> Picture:
    """Draw what is lost when each feature is shuffled."""
    found = sorted(record["importance"].items(), key=lambda item: item[1])
    figure = new_figure(WIDTH, 0.8 + 0.26 * len(found))
    axes: Axes = figure.subplots()
    axes.barh([name for name, _ in found], [value for _, value in found], color=GREEN, height=0.6)
    axes.set_xlabel("right answers lost per 100 mismatches when it is shuffled")
    says = ", ".join(f"{name} {value:.2f}" for name, value in reversed(found))
    return Picture("importance", "Importance of features", says, laid_out(figure))


def _rounds(record: dict[str, Any]) -> Picture:
    """Draw policy gradient, round by round."""
    rounds = record["rounds"]
    figure = new_figure(WIDTH, 2.5)
    panels: list[Axes] = list(figure.subplots(1, 3).flat)
    value = "reward" if "reward" in rounds[0] else "advantage"
    for axes, key, words in zip(
        panels,
        (value, "entropy", "validation"),
        (f"mean {value}", "entropy of a decision, nats", "validation, % right"),
        strict=True,
    ):
        there = [(r["round"] + 1, r[key]) for r in rounds if key in r]
        scale = 100 if key == "validation" else 1
        axes.plot([x for x, _ in there], [scale * y for _, y in there], color=BLUE, linewidth=1)
        axes.set_xlabel("round")
        axes.set_title(words, fontsize=8)
    says = f"{len(rounds)} rounds; {value} from {rounds[0][value]:.3f} to {rounds[-1][value]:.3f}"
    return Picture("rounds", "Policy gradient", says, laid_out(figure))
