"""Stet against transformers on a real pair in bfloat16 on a CPU, batch 1, greedy, eager.

    python benchmarks/bfloat16.py [--models .cache/models] [--gsm8k .cache/gsm8k]

Same weights, prompts (GSM8K, the train split, in the chat template) and limits; all methods take
turns on every prompt in one process, and speeds are compared prompt by prompt. Assisted generation
gets the number of drafted tokens that is fastest on other prompts. Answers are kept as they come,
and a run goes on where it was cut off (`--minutes` cuts it off).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _record import spread, write
from transformers import AutoModelForCausalLM

import stet
from stet.requests.options import PINNED

RATIOS = {
    "target_vs_generate_bf16_real": ("generate", "target"),
    "exact_vs_assisted_bf16_real": ("assisted", "exact"),
    "exact_vs_target_bf16_real": ("target", "exact"),
    "exact_vs_generate_bf16_real": ("generate", "exact"),
    "assisted_vs_generate_bf16_real": ("generate", "assisted"),
}
"""Speed-up of the second over the first: the first one's seconds by the second one's."""

LENGTHS = (3, 5, 10)
TRIED = 1
"""Prompts on which assisted generation is given each of these lengths."""

Answer = tuple[list[int], float]


def contestants(options: argparse.Namespace) -> tuple[dict[str, Callable[..., Answer]], Any]:
    """The methods by name, and transformers' draft, whose settings choose the length."""
    places = [options.models / options.target, options.models / options.draft]
    pair = stet.load_pair(
        places[0], places[1], dtype="bfloat16", device="cpu", max_batch=1, max_length=1024,
        compile=False,
    )  # fmt: skip
    target, draft = (
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16).eval() for place in places
    )
    limit = options.max_new_tokens

    def chat(question: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}]

    def ours(policy: str) -> Callable[..., Answer]:
        def run(question: str, limit: int = limit) -> Answer:
            began = time.perf_counter()
            result = pair.generate(chat(question), policy, max_new_tokens=limit, **PINNED)
            return result.token_ids, time.perf_counter() - began

        return run

    def theirs(**more: Any) -> Callable[..., Answer]:
        def run(question: str, limit: int = limit) -> Answer:
            began = time.perf_counter()
            inputs = pair.tokenizer.apply_chat_template(
                chat(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                out = target.generate(
                    **inputs,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    repetition_penalty=1.0,
                    max_new_tokens=limit,
                    **more,
                )
            return out[0, inputs["input_ids"].shape[1] :].tolist(), time.perf_counter() - began

        return run

    methods = {
        "generate": theirs(),
        "assisted": theirs(assistant_model=draft),
        "target": ours("target"),
        "exact": ours("exact"),
    }
    return methods, draft


def set_length(draft: Any, length: int) -> None:
    """Have assisted generation draft so many tokens at a time."""
    draft.generation_config.num_assistant_tokens = length
    draft.generation_config.num_assistant_tokens_schedule = "constant"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Answer one prompt after the other until the time is over; returns all that is kept."""
    lines = (options.gsm8k / "train.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    kept: dict[str, Any] = {"lengths": {}, "prompts": []}
    if options.checkpoint.exists() and not options.fresh:
        kept = json.loads(options.checkpoint.read_text(encoding="utf-8"))
    best = min(kept["lengths"], key=lambda length: kept["lengths"][length], default="")
    if len(kept["prompts"]) >= options.prompts:
        return kept | {"assisted_length": int(best)}
    end = time.perf_counter() + 60 * options.minutes
    methods, draft = contestants(options)
    for run in methods.values():
        run("What is 6 times 7?", 8)

    def save() -> None:
        options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        options.checkpoint.write_text(json.dumps(kept), encoding="utf-8")

    for length in LENGTHS:
        if str(length) not in kept["lengths"]:
            set_length(draft, length)
            took = sum(methods["assisted"](q, 32)[1] for q in questions[-TRIED:])
            kept["lengths"][str(length)] = took
            save()
    best = min(kept["lengths"], key=lambda length: kept["lengths"][length])
    set_length(draft, int(best))
    order = list(methods)
    for number in range(len(kept["prompts"]), options.prompts):
        if time.perf_counter() > end:
            break
        answers: dict[str, Answer] = {}
        for place in range(len(order)):
            name = order[(number + place) % len(order)]
            answers[name] = methods[name](questions[number])
        kept["prompts"].append(
            {
                "seconds": {name: took for name, (_, took) in answers.items()},
                "tokens": {name: len(tokens) for name, (tokens, _) in answers.items()},
                "same_exact_target": answers["exact"][0] == answers["target"][0],
                "same_target_generate": answers["target"][0] == answers["generate"][0],
            }
        )
        save()
    return kept | {"assisted_length": int(best)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--target", default="coder-1.5b")
    parser.add_argument("--draft", default="coder-0.5b")
    parser.add_argument("--gsm8k", type=Path, default=Path(".cache/gsm8k"))
    parser.add_argument("--checkpoint", type=Path, default=Path(".cache/bfloat16.json"))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options)
    prompts = found["prompts"]
    seconds = {name: [p["seconds"][name] for p in prompts] for name in prompts[0]["seconds"]}
    row: dict[str, Any] = {
        "target": options.target,
        "draft": options.draft,
        "prompts": len(prompts),
        "max_new_tokens": options.max_new_tokens,
        "assisted_length": found["assisted_length"],
        "tokens_per_second": {
            name: round(sum(p["tokens"][name] for p in prompts) / sum(took), 2)
            for name, took in seconds.items()
        },
        "same_exact_target": statistics.mean(p["same_exact_target"] for p in prompts),
        "same_target_generate": statistics.mean(p["same_target_generate"] for p in prompts),
    }
    figures = {"same_exact_target": row["same_exact_target"]}
    for name, (slow, fast) in RATIOS.items():
        # Of seconds for a token: texts in half precision may differ in length.
        row[name] = spread(
            [
                p["seconds"][slow] / p["tokens"][slow] / (p["seconds"][fast] / p["tokens"][fast])
                for p in prompts
            ]
        )
        figures[name] = row[name]["median"]
    print(json.dumps(row, indent=1))
    print("written:", write("bfloat16", [row], figures, threads=options.threads))


if __name__ == "__main__":
    main()
