"""What a shortlist of the draft's tokens saves and costs, on a real pair with a large vocabulary.

    python benchmarks/shortlist.py [--models .cache/models] [--spec-bench question.jsonl]

`exact` at a fixed block length, greedy, batch 1, in one process: shortlists of several lengths and
the whole vocabulary take turns on every prompt (GSM8K's train split, Spec-Bench's groups), and the
times of the same answer are compared. Answers that differ would be a fault, and end it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from _peers_prompts import gsm8k, spec_bench
from _peers_turns import Prompt
from _record import spread, write

import stet
from stet.models.shortlist import with_shortlist
from stet.requests.options import PINNED

WHOLE = 0
COUNTS = (WHOLE, 16_384, 32_768, 65_536)
"""Frequent tokens in the shortlists that are compared."""


def answer(pair: Any, prompt: Prompt, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Answer a prompt with a shortlist of so many tokens."""
    model = pair.draft if count == WHOLE else with_shortlist(pair.draft, count)
    pair._draft_runner.model = model
    began = time.perf_counter()
    result = pair.generate(
        list(prompt.tokens),
        "exact",
        draft_length=options.length,
        max_new_tokens=options.max_new_tokens,
        **PINNED,
    )
    seconds = time.perf_counter() - began
    counters = result.trace.counters
    return {
        "tokens": result.token_ids,
        "seconds": seconds,
        "draft_pass": counters.draft_seconds / counters.draft_passes,
        "drafted": counters.drafted_tokens,
        "accepted": counters.accepted_tokens,
    }


def row_of(group: str, count: int, whole: list[Any], short: list[Any]) -> dict[str, Any]:
    """One length's row for a group of prompts."""
    speedups = [w["seconds"] / s["seconds"] for w, s in zip(whole, short, strict=True)]
    passes = [s["draft_pass"] / w["draft_pass"] for w, s in zip(whole, short, strict=True)]
    return {
        "prompts": group,
        "count": len(short),
        "frequent_tokens": count,
        "speedup_over_whole": spread(speedups),
        "draft_pass_over_whole": spread(passes),
        "acceptance": sum(s["accepted"] for s in short) / sum(s["drafted"] for s in short),
        "acceptance_whole": sum(w["accepted"] for w in whole) / sum(w["drafted"] for w in whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b.gguf")
    parser.add_argument("--draft", default="coder-0.5b.gguf")
    parser.add_argument("--gsm8k", type=Path, default=Path(".cache/gsm8k"))
    parser.add_argument("--spec-bench", type=Path)
    parser.add_argument("--prompts", type=int, default=6, help="of each of the two sets")
    parser.add_argument("--length", type=int, default=4, help="drafted tokens of a block")
    parser.add_argument("--max-new-tokens", type=int, default=80)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair: Any = stet.load_pair(
        options.models / options.target,
        options.models / options.draft,
        device="cpu",
        max_batch=1,
        max_length=1024,
        compile=False,
        profile=False,
        shortlist=False,
    )
    sets = {"gsm8k": gsm8k(options.gsm8k, pair.tokenizer, "train", options.prompts)}
    if options.spec_bench is not None:
        each = max(1, options.prompts // 6)
        sets["spec-bench"] = spec_bench(options.spec_bench, pair.tokenizer, each)
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        answer(pair, sets["gsm8k"][0], count, options)
    for name, prompts in sets.items():
        answers: dict[int, list[Any]] = {count: [] for count in COUNTS}
        for number, prompt in enumerate(prompts):
            for place in range(len(COUNTS)):
                count = COUNTS[(number + place) % len(COUNTS)]
                answers[count].append(answer(pair, prompt, count, options))
            texts = {tuple(found[-1]["tokens"]) for found in answers.values()}
            if len(texts) != 1:
                raise SystemExit(f"{prompt}: texts differ with what is drafted.")
        for count in COUNTS[1:]:
            rows.append(row_of(name, count, answers[WHOLE], answers[count]))
            print(rows[-1], flush=True)
    figures = {
        f"shortlist_speedup_{row['prompts']}_{row['frequent_tokens']}": row["speedup_over_whole"][
            "median"
        ]
        for row in rows
    }
    print(write("shortlist", rows, figures, target=options.target, draft=options.draft,
                length=options.length, threads=options.threads))  # fmt: skip


if __name__ == "__main__":
    main()
