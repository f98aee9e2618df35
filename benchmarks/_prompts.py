"""Pairs by name, and word problems as the bundled pair and a real one take them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import stet
from stet.bundled import generate

PAIRS = ("bundled", "gguf", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name a pair."""
    parser.add_argument("--pair", choices=PAIRS, default="bundled")
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b")
    parser.add_argument("--draft", default="coder-0.5b")
    parser.add_argument("--gsm8k", type=Path, default=Path(".cache/gsm8k"))
    parser.add_argument(
        "--stranger", action="store_true", help="turn the draft's opinions over: none is accepted"
    )


def load(options: argparse.Namespace, max_batch: int = 1) -> stet.Pair:
    """The pair that the options name: GGUF files, bfloat16 folders, or the bundled."""
    if options.pair == "bundled":
        pair = stet.load_pair(max_batch=max_batch, compile=False)
        torch.set_num_threads(1)  # as the commands do for models as small as these
    else:
        is_file = options.pair == "gguf"
        suffix = ".gguf" if is_file else ""
        target, draft = (
            options.models / (name + suffix) for name in (options.target, options.draft)
        )
        pair = stet.load_pair(
            target,
            draft,
            dtype="auto" if is_file else "bfloat16",
            max_batch=max_batch,
            max_length=1024,
            compile=False,
        )
    if options.stranger:
        _turn_over(pair)
    return pair


def _turn_over(pair: stet.Pair) -> None:
    """Change the sign of the draft's logits, so that it writes what it finds least probable."""
    assert pair.draft is not None
    module: Any = pair.draft.model
    body: Any = pair.draft.body
    held = [module.base_model.norm.weight.data]
    if body is not None:
        # Its norm has forms of the weight that it was made with; some may be the same memory.
        held += [body.norm.weight, body.norm._scaled, getattr(body.norm, "_wide", None)]
    distinct = {tensor.data_ptr(): tensor for tensor in held if tensor is not None}
    with torch.no_grad():
        for tensor in distinct.values():
            tensor.neg_()


def prompts(pair: stet.Pair, options: argparse.Namespace, count: int, start: int = 0) -> list[Any]:
    """Word problems number `start` and following, in the form that the pair takes them."""
    if options.pair == "bundled":
        problems = generate("stories", "validation", start + count)
        return [problem.prompt for problem in problems[start:]]
    with (options.gsm8k / "test.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][start : start + count]
    return [pair.render([{"role": "user", "content": row["question"]}]) for row in rows]
