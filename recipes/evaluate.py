"""Plot the loss of a training run: `python recipes/evaluate.py [.cache/pair/target ...]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from stet.core.reading import json_lines


def plot(runs: list[Path], place: Path) -> None:
    """Training loss, validation loss and accuracy of each run against its tokens."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for run in runs:
        lines = json_lines(run / "log.jsonl")
        training = [(x["tokens"] / 1e6, x["loss"]) for x in lines if "loss" in x]
        judged = [x for x in lines if "validation_loss" in x and "tokens" in x]
        (curve,) = left.plot(*zip(*training, strict=True), linewidth=0.6, alpha=0.5)
        tokens = [x["tokens"] / 1e6 for x in judged]
        colour = curve.get_color()
        best = [min(x["validation_loss"], x["validation_loss_average"]) for x in judged]
        left.plot(tokens, best, "o-", color=colour, label=f"{run.name}, validation")
        solved = [(x["tokens"] / 1e6, 100 * x["accuracy"]) for x in judged if "accuracy" in x]
        if solved:
            right.plot(*zip(*solved, strict=True), "o-", color=colour, label=run.name)
    left.set(xlabel="million tokens", ylabel="loss per token", yscale="log")
    right.set(xlabel="million tokens", ylabel="right answers, % (validation)", ylim=(0, 100))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(place, dpi=120)


def main() -> None:
    """Plot the runs named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    cache = Path(".cache/pair")
    parser.add_argument("runs", nargs="*", type=Path, default=[cache / "target", cache / "draft"])
    parser.add_argument("--to", type=Path, default=cache / "loss.png")
    options = parser.parse_args()
    plot(options.runs, options.to)


if __name__ == "__main__":
    main()
