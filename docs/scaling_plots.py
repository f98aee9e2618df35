"""Draw the curves of docs/performance.md from benchmarks/results/scaling.json."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from stet.pages.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Picture,
    laid_out,
    new_figure,
    style,
)

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scaling.json"
IMAGES = ROOT / "docs" / "images"
COLOURS = (BLUE, SKY, ORANGE, GREEN, VERMILLION, PURPLE, GREY)
MARKS = "osD^vPX"

Points = dict[str, dict[int, list[float]]]
"""Values of each curve, by place on the axis."""


def points(rows: list[dict[str, Any]], x: str, value: Any, name: str = "contender") -> Points:
    """What is drawn: for each curve and place the measured values that are there."""
    found: Points = defaultdict(lambda: defaultdict(list))
    for row in rows:
        number = value(row)
        if number is not None:
            found[str(row.get(name, "stet"))][row[x]].append(number)
    return found


def per_token(row: dict[str, Any]) -> float | None:
    """Milliseconds of each token after those that came first."""
    if row["first_seconds"] is None or row["tokens"] <= row["first_tokens"]:
        return None
    later = row["tokens"] - row["first_tokens"]
    return 1000 * float((row["seconds"] - row["first_seconds"]) / later)


def short(number: int) -> str:
    """A number of an axis: "8k" for 8,192."""
    return f"{number // 1024}k" if number >= 1024 else str(number)


def curves(axes: Any, found: Points, title: str, x: str, y: str, *, log: bool = True) -> str:
    """Draw the medians of all curves; returns them in words."""
    told: list[str] = []
    for (name, curve), colour, mark in zip(found.items(), COLOURS, MARKS, strict=False):
        places = sorted(curve)
        values = [statistics.median(curve[place]) for place in places]
        axes.plot(places, values, color=colour, marker=mark, markersize=4, label=name)
        told.append(f"{name}: {', '.join(f'{v:.4g}' for v in values)}")
    axes.set_xscale("log", base=2)
    every = sorted({place for curve in found.values() for place in curve})
    axes.set_xticks(every, [short(place) for place in every])
    axes.xaxis.set_minor_locator(NullLocator())
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.legend(fontsize=7)
    return f"{title}: {'; '.join(told)}"


def scaling(found: dict[str, Any], pair: str) -> Picture | None:
    """The curves of one pair; None where nothing of it was measured."""
    every = [row for row in found["rows"] if row["pair"] == found["models"][pair]]
    by_part: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in every:
        by_part[row["part"]].append(row)
    if not by_part["batch"]:
        return None
    contexts = [row | {"name": f"{row['context']:,} tokens"} for row in by_part["grid"]]
    lengths = [row for row in by_part["length"] if row["length"]]
    with style(f"scaling-{pair}"):
        figure = new_figure(8.6, 9.0)
        axes = figure.subplots(3, 2)

        def speed(row: dict[str, Any]) -> float:
            return float(row["tokens"] / row["seconds"])

        told = [
            curves(
                axes[0, 0],
                points(by_part["batch"], "batch", speed),
                "Throughput",
                "requests at a time",
                "tokens per second",
            ),
            curves(
                axes[0, 1],
                points(lengths, "length", lambda row: row["tokens_per_second"]),
                "Throughput of one request",
                "K, tokens of a block",
                "tokens per second",
                log=False,
            ),
            curves(
                axes[1, 0],
                points(by_part["context"], "context", lambda row: row["first_seconds"]),
                "Time to first token",
                "tokens of the prompt",
                "seconds",
            ),
            curves(
                axes[1, 1],
                points(by_part["context"], "context", per_token),
                "Each further token",
                "tokens of the prompt",
                "milliseconds",
            ),
            curves(
                axes[2, 0],
                points(contexts, "batch", speed, "name"),
                "Throughput, reading included",
                "requests at a time",
                "tokens per second",
            ),
            curves(
                axes[2, 1],
                points(contexts, "batch", lambda row: row["rss"] / 1e9, "name"),
                "Memory of the process",
                "requests at a time",
                "GB",
                log=False,
            ),
        ]
        laid_out(figure)
    return Picture(f"scaling-{pair}", "How cost grows", "; ".join(told), figure)


def main() -> None:
    if not RESULT.exists():
        print(f"skipped: {RESULT.name} is not recorded")
        return
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    for pair in found["models"]:
        picture = scaling(found, pair)
        if picture is not None:
            path = IMAGES / f"{picture.name}.svg"
            path.write_text(picture.svg(), encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
