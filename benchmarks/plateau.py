"""Is the bundled target at its plateau? It against itself after a further schedule of training.

    python recipes/train.py target --run target-again --start-from src/stet/bundled/target --seed 7
    python recipes/train.py target --run target-again --export-only .cache/pair/target-again/export
    python benchmarks/plateau.py

The rate is warmed up, held and brought to zero once more, on the same data in another order. Both
solve the same validation problems, so the difference is paired.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from _record import write

from stet import load_pair
from stet.bundled import DRAFT, TARGET
from stet.core.reading import json_lines
from stet.evaluation.statistics import mcnemar_p
from stet.evaluation.tasks import load_task
from stet.requests.options import PINNED

RUN = Path(".cache/pair/target-again")


def solved(target: Path, split: str, problems: int, batch: int) -> list[bool]:
    """Which problems a target solves. With a draft it writes the same text, only faster."""
    pair = load_pair(target, DRAFT, max_batch=batch, dtype="float32", compile=False)
    task = load_task("stories", split=split, count=problems)
    assert task.grader is not None
    results = pair.generate(
        [q.prompt for q in task.questions],
        max_new_tokens=task.max_new_tokens,
        stop=list(task.stop),
        **PINNED,
    )
    return [
        task.grader.right(task.grader.extract(result.text), question.reference or "")
        for result, question in zip(results, task.questions, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    log = json_lines(RUN / "log.jsonl")
    judged = [entry for entry in log if "validation_loss" in entry and "tokens" in entry]
    first, last = judged[0], judged[-1]
    before = solved(TARGET, options.split, options.problems, options.batch)
    after = solved(RUN / "export", options.split, options.problems, options.batch)
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    count = len(before)
    # The 95 % interval of a paired difference of shares.
    spread = 1.96 * ((gained + lost) / count - ((gained - lost) / count) ** 2) ** 0.5 / count**0.5
    gain = (gained - lost) / count
    figures: dict[str, float] = {
        "further_tokens": last["tokens"],
        "accuracy_before": round(sum(before) / count, 4),
        "accuracy_after": round(sum(after) / count, 4),
        "gain": round(gain, 4),
        "gain_low": round(gain - spread, 4),
        "gain_high": round(gain + spread, 4),
        "p_value": round(mcnemar_p(gained, lost), 4),
        "loss_before": round(min(first["validation_loss"], first["validation_loss_average"]), 4),
        "loss_after": round(min(last["validation_loss"], last["validation_loss_average"]), 4),
        "problems": count,
    }
    rows: list[dict[str, Any]] = [
        {k: v for k, v in entry.items() if k not in ("time", "step")} for entry in judged
    ]
    print(write("plateau", rows, figures, gained=gained, lost=lost, split=options.split))


if __name__ == "__main__":
    main()
