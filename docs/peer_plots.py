"""Draw the pictures of docs/performance.md from benchmarks/results/peers.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    style,
)

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
IMAGES = ROOT / "docs" / "images"
GROUPS = ("4-bit", "openvino", "bf16", "vllm")


def speeds(found: dict[str, Any]) -> Picture:
    """Tokens per second of everybody on the real pair."""
    best: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        if row["group"] in GROUPS:
            best.setdefault(row["contender"], row)
    rows = sorted(best.values(), key=lambda row: -row["tokens_per_second"]["median"])
    with style("peers"):
        figure = new_figure(7.2, 0.8 + 0.28 * len(rows))
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            speed = row["tokens_per_second"]
            own = row["contender"].startswith("stet")
            spread = [[speed["median"] - speed["q1"]], [speed["q3"] - speed["median"]]]
            axes.barh(place, speed["median"], color=BLUE if own else GREY, height=0.7)
            axes.errorbar(speed["median"], place, xerr=spread, color=BLACK, linewidth=0.9)
        category_axis(axes, [row["contender"] for row in rows])
        axes.set_xlabel("tokens per second, median over prompts and quartiles")
        laid_out(figure)
    told = "; ".join(f"{r['contender']} {r['tokens_per_second']['median']}" for r in rows)
    return Picture("peers", "Tokens per second", told, figure)


def speedup(found: dict[str, Any]) -> Picture:
    """Speed-up against acceptance, prompt by prompt, and against K at several acceptances."""
    with style("speedup"):
        figure = new_figure(8.4, 3.6)
        left, right = figure.subplots(1, 2)
        points = [p for p in found["points"] if p["acceptance_rate"] is not None]
        names = sorted({p["group"] for p in points})
        colours = [BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE, GREY]
        for name, colour in zip(names, colours, strict=False):
            own = [p for p in points if p["group"] == name]
            x, y = [p["acceptance_rate"] for p in own], [p["speedup"] for p in own]
            left.scatter(x, y, s=18, color=colour, label=name)
        left.axhline(1.0, color=BLACK, linewidth=0.8)
        left.set_xlabel("share of drafted tokens accepted")
        left.set_ylabel("speed over the target alone")
        left.set_title("Measured, one point a prompt")
        left.legend(fontsize=7)
        if found["bound"]:
            for (rate, values), colour in zip(
                found["bound"]["expected_speedup"].items(), colours, strict=False
            ):
                right.plot(range(len(values)), values, color=colour, label=f"{float(rate):.0%}")
            right.legend(fontsize=7)
        right.axhline(1.0, color=BLACK, linewidth=0.8)
        right.set_xlabel("K, tokens of a block")
        right.set_title("Bare passes allow, by acceptance")
        laid_out(figure)
    told = "; ".join(f"{p['prompt']} {p['acceptance_rate']}: {p['speedup']}" for p in points)
    return Picture("speedup", "Speed-up against acceptance and K", told, figure)


def draw() -> list[Path]:
    """Write the pictures."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    written: list[Path] = []
    for picture in (speeds(found), speedup(found)):
        path = IMAGES / f"{picture.name}.svg"
        path.write_text(picture.svg(), encoding="utf-8")
        written.append(path)
    return written


def main() -> None:
    if not RESULT.exists():
        print(f"skipped: {RESULT.name} is not recorded")
        return
    for path in draw():
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
