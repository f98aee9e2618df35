"""The prompts that all peers answer, as tokens of the target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _peers_turns import Prompt

from stet.bundled import TARGET
from stet.bundled import generate as problems

SPEC_BENCH_GROUPS = {
    "multi-turn": (
        ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]
    ),
    "translation": ["translation"],
    "summarization": ["summarization"],
    "question answering": ["qa"],
    "mathematical reasoning": ["math_reasoning"],
    "retrieval": ["rag"],
}
"""Spec-Bench's six groups, with the categories of its file."""

LONGEST = 700
"""Tokens of a prompt; longer ones are left out, since reading would be most of their time."""


def gsm8k(folder: Path, tokenizer: Any, split: str, count: int) -> list[Prompt]:
    """Questions of GSM8K as a chat's first message: `SPLIT.jsonl` of a folder."""
    found = _lines(folder / f"{split}.jsonl")
    return [
        Prompt(f"gsm8k-{split}-{number}", _chat(tokenizer, next(found)["question"]))
        for number in range(count)
    ]


def spec_bench(file: Path, tokenizer: Any, count: int) -> list[Prompt]:
    """First turns of Spec-Bench's `question.jsonl`: so many of each group, the groups in turns."""
    group_of = {c: group for group, names in SPEC_BENCH_GROUPS.items() for c in names}
    groups: dict[str, list[Prompt]] = {group: [] for group in SPEC_BENCH_GROUPS}
    categories: dict[str, set[str]] = {group: set() for group in SPEC_BENCH_GROUPS}
    for line in _lines(file):
        group = group_of[line["category"]]
        if len(groups[group]) == count:
            continue
        # The first group has ten questions of each category, one after the other.
        seen = categories[group]
        if line["category"] in seen and len(seen) < min(count, len(SPEC_BENCH_GROUPS[group])):
            continue
        tokens = _chat(tokenizer, line["turns"][0])
        if len(tokens) <= LONGEST:
            seen.add(line["category"])
            groups[group].append(Prompt(f"spec-{line['question_id']}", tokens, group))
    return [groups[group][n] for n in range(count) for group in groups if n < len(groups[group])]


def bundled(tokenizer: Any, split: str, count: int) -> list[Prompt]:
    """Problems of the bundled pair."""
    found = problems("stories", split, count)
    return [
        Prompt(f"stories-{split}-{n}", tuple(tokenizer(problem.prompt)["input_ids"]))
        for n, problem in enumerate(found)
    ]


def tokenizer_of(folder: Path | None) -> Any:
    """The tokenizer of a folder; of the bundled pair if None."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder or TARGET)


def _chat(tokenizer: Any, text: str) -> tuple[int, ...]:
    messages = [{"role": "user", "content": text}]
    return tuple(
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
