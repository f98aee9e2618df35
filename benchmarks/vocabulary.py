"""The work of every policy over a vocabulary of 151,936 tokens beside the models.

    python benchmarks/vocabulary.py

Counts the rows of the vocabulary that operations go over and the bytes they allocate, and times
them; the unit of time is the most probable token of one row of logits, found by `argmax`.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from _record import write
from _vocabulary import LENGTH, SAMPLINGS, VOCAB, Setting

from stet.policies import arbiter_inference

POLICIES = (
    "exact",
    "block",
    "top-k",
    "typical",
    "fuzzy",
    "fly",
    "confident",
    "cosd",
    "ensemble",
    "speculative-cascade",
    "random",
    "cospec",
)
"""The token policies."""


def argmax_seconds(repeats: int) -> float:
    """Of one row."""
    logits = torch.randn(1, VOCAB)
    found: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        logits.argmax(-1)
        found.append(time.perf_counter() - began)
    return median(found)


def in_tensors_over_in_numbers(setting: Setting, repeats: int) -> float:
    """Time of a scored position whose arbiter is run on tensors, over that of one in numbers.

    Both in turn; the median of the ratios. It is what having two implementations saves.
    """
    few, ratios = arbiter_inference.FEW, list[float]()
    try:
        for _ in range(5):
            seconds: list[float] = []
            for arbiter_inference.FEW in (0, few):
                seconds.append(setting.seconds("cospec", "greedy", repeats)[1])
            ratios.append(seconds[0] / seconds[1])
    finally:
        arbiter_inference.FEW = few
    return round(median(ratios), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--name", default="vocabulary", help="of the result file")
    options = parser.parse_args()
    setting = Setting()
    rows: list[dict[str, Any]] = []
    for policy in POLICIES:
        for sampling in SAMPLINGS:
            unit = argmax_seconds(10 * options.repeats)
            cost = setting.cost(policy, sampling)
            drafting, scoring = setting.seconds(policy, sampling, options.repeats)
            rows.append(
                {
                    "policy": policy,
                    "sampling": sampling,
                    "rows_a_drafted_token": round(cost.draft_rows, 2),
                    "rows_a_scored_position": round(cost.score_rows, 2),
                    "megabytes_a_drafted_token": round(cost.draft_bytes / 1e6, 2),
                    "megabytes_a_scored_position": round(cost.score_bytes / 1e6, 2),
                    "milliseconds_a_drafted_token": round(1000 * drafting, 3),
                    "milliseconds_a_scored_position": round(1000 * scoring, 3),
                    "argmaxes_a_drafted_token": round(drafting / unit, 1),
                    "argmaxes_a_scored_position": round(scoring / unit, 1),
                    "operations": cost.operations,
                }
            )
            shown = {k: v for k, v in rows[-1].items() if k != "operations"}
            print(*shown.values(), sep="\t", flush=True)
    by = {(row["policy"], row["sampling"]): row for row in rows}
    figures = {
        f"{policy}_{sampling}_{key}": by[policy, sampling][f"{key}"]
        for policy, sampling in (("exact", "greedy"), ("exact", "top_p"))
        for key in ("rows_a_drafted_token", "rows_a_scored_position")
    }
    figures["arbiter_in_tensors_over_in_numbers"] = in_tensors_over_in_numbers(
        setting, options.repeats
    )
    print(write(options.name, rows, figures, vocabulary=VOCAB, block=LENGTH))


if __name__ == "__main__":
    main()
