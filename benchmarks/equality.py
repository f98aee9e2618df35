"""How often speculation at temperature 0 writes the target's own text, by dtype, and why not.

    python benchmarks/equality.py [--models .cache/models]

Counts equal texts of `exact` and `target`, and lays the logits of passes over blocks beside those
of passes over single tokens, on the target's own text: how far they are apart, where another token
becomes the best one, and how sure the target had been of its own there. The bundled pair, and the
published models that a folder holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _record import write
from torch import Tensor

from stet import Pair, load_pair
from stet.bundled import generate
from stet.requests.inputs import Message
from stet.requests.options import PINNED

NAMES = {"smol-135m": "HuggingFaceTB/SmolLM2-135M-Instruct (Q4_K_M, dequantised)"}
QUESTIONS = (
    "What is the capital of France?",
    "Explain in three sentences why the sky is blue.",
    "Write a Python function that reverses a list.",
    "A train leaves at 9:40 and arrives at 11:05. How long does it take?",
    "Name five animals that live in the sea, one a line.",
    "Translate into French: the weather is fine today.",
    "What is 17 times 23? Show the steps.",
    "Give a recipe for a simple tomato soup.",
)
BLOCK = 8
"""Tokens of a pass over a block."""


@dataclass(frozen=True)
class Case:
    """A pair in a dtype.

    Attributes:
        name: of the pair, for people.
        target: folder; None for the bundled pair.
        dtype: of the weights.
        prompts: texts or chats.
        tokens: of an answer at most.
    """

    name: str
    target: Path | None
    dtype: str
    prompts: Sequence[str | list[Message]]
    tokens: int

    def load(self) -> Pair:
        """The pair; published models speculate by prompt lookup."""
        draft = None if self.target is None else "lookup"
        return load_pair(self.target, draft, dtype=self.dtype, max_batch=1, compile=False)


def ids_of(pair: Pair, prompt: str | list[Message]) -> Sequence[int]:
    """Tokens of a prompt."""
    if isinstance(prompt, str):
        return pair.tokenizer(prompt)["input_ids"]
    return pair.render(prompt)


def rows_apart(pair: Pair, tokens: list[int], start: int) -> tuple[Tensor, Tensor]:
    """Logits [T, V] from `start` on, by passes over single tokens and over blocks."""
    runner = pair.engine.runners["target"]

    def logits(width: int) -> Tensor:
        row = runner.allocate()
        try:
            text = torch.tensor([tokens], device=runner.device)
            runner.forward([row], text[:, :start], [0], logits="none")
            found: list[Tensor] = []
            for place in range(start, len(tokens), width):
                passed = runner.forward([row], text[:, place : place + width], [place])
                assert passed.logits is not None
                found.append(passed.logits[0].clone())
            return torch.cat(found)
        finally:
            runner.release(row)

    return pair.between_rounds(lambda: (logits(1), logits(BLOCK)))


def measured(case: Case) -> dict[str, Any]:
    """A row of the result."""
    equal = tokens = changed = 0
    apart = 0.0
    margins: list[float] = []
    with case.load() as pair:
        for prompt in case.prompts:
            asked = list(ids_of(pair, prompt))
            options: dict[str, Any] = {"max_new_tokens": case.tokens, **PINNED}
            plain, ours = (pair.generate(asked, p, **options) for p in ("target", "exact"))
            equal += plain.token_ids == ours.token_ids
            single, block = rows_apart(pair, asked + plain.token_ids, len(asked))
            tokens += len(plain.token_ids)
            apart = max(apart, float((single - block).abs().max()))
            other = single.argmax(-1) != block.argmax(-1)
            changed += int(other.sum())
            best = single[other].log_softmax(-1).topk(2).values
            margins += (best[:, 0] - best[:, 1]).tolist()
    return {
        "pair": case.name,
        "dtype": case.dtype,
        "texts": len(case.prompts),
        "equal_texts": equal,
        "tokens": tokens,
        "tokens_changed": changed,
        "logits_apart": round(apart, 6),
        "largest_margin_changed": round(max(margins), 4) if margins else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--problems", type=int, default=40, help="of the bundled pair")
    parser.add_argument("--tokens", type=int, default=96, help="of a published model's answer")
    options = parser.parse_args()
    problems = [problem.prompt for problem in generate("stories", "test", options.problems, seed=5)]
    chats: list[list[Message]] = [[{"role": "user", "content": text}] for text in QUESTIONS]
    cases = [Case("bundled", None, dtype, problems, 160) for dtype in ("float32", "bfloat16")]
    for folder, name in NAMES.items():
        path = options.models / folder
        if not (path / "config.json").is_file():
            print(f"Skipped: {path} is not here.")
            continue
        cases += [Case(name, path, d, chats, options.tokens) for d in ("float32", "bfloat16")]
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows.append(measured(case))
        print(rows[-1], flush=True)
    figures = {
        f"{row['pair'].split('/')[-1].split()[0]}_{row['dtype']}_equal_share": round(
            row["equal_texts"] / row["texts"], 3
        )
        for row in rows
    }
    print(write("equality", rows, figures, block=BLOCK))


if __name__ == "__main__":
    main()
