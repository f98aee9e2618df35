"""Stet against transformers' `generate` and its assisted generation, on the bundled pair.

Same weights, dtype, prompts and limits, batch 1, greedy, all four taking turns on every prompt in
one process. The speeds are compared prompt by prompt, so what the machine does meanwhile hits all
of them alike. Assisted generation is given the draft length that suits it best, found on other
prompts first; Stet chooses its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _record import spread, write
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM

import stet
from stet.bundled import DRAFT, TARGET
from stet.bundled import generate as problems
from stet.requests.options import PINNED

Answer = tuple[list[int], float]
"""Emitted tokens and the seconds they took."""

RATIOS = {
    "target_vs_generate": ("generate", "target"),
    "exact_vs_assisted": ("assisted", "exact"),
    "exact_vs_target": ("target", "exact"),
    "exact_vs_generate": ("generate", "exact"),
    "assisted_vs_generate": ("generate", "assisted"),
}
"""Speed-up of the second over the first: the first one's seconds by the second one's."""


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for compiled in (False, True) if options.compile else (False,):
        row = measure(options, compiled)
        rows.append(row)
        suffix = "_compiled" if compiled else ""
        for name in (*RATIOS, "tokens_per_pass", "same_text_share"):
            value = row[name]["median"] if isinstance(row[name], dict) else row[name]
            figures[name + suffix] = value
    show(rows)
    print("written:", write("assisted", rows, figures))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--dtype", default="float32")
    # At this size a second thread costs all four more than it gives.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def measure(options: argparse.Namespace, compiled: bool) -> dict[str, Any]:
    methods, pair = contestants(options, compiled)
    prompts = [p.prompt for p in problems("stories", "test", options.prompts)]
    for prompt in prompts[:3]:  # warm up, and compile
        for run in methods.values():
            run(prompt)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    same = 0
    rates: list[float] = []
    order = list(methods)
    for number, prompt in enumerate(track(prompts, "compiled" if compiled else "eager")):
        best = {name: float("inf") for name in methods}
        texts: dict[str, list[int]] = {}
        for repeat in range(options.repeats):
            shift = (number + repeat) % len(order)
            for name in order[shift:] + order[:shift]:
                tokens, took = methods[name](prompt)
                # The best of the repeats: what disturbs a run only ever makes it slower.
                best[name] = min(best[name], took)
                texts[name] = tokens
        for name, took in best.items():
            seconds[name].append(took)
        same += texts["target"] == texts["generate"] == texts["exact"]
        result = pair.generate(prompt, "exact", max_new_tokens=options.max_new_tokens, **PINNED)
        rates.append(result.counters.tokens_per_pass or 1.0)
    row: dict[str, Any] = {
        "compiled": compiled,
        "dtype": options.dtype,
        "prompts": len(prompts),
        "repeats": options.repeats,
        "tokens_per_pass": round(statistics.mean(rates), 3),
        "same_text_share": same / len(prompts),
        "milliseconds_per_answer": {
            name: round(1e3 * statistics.mean(took), 2) for name, took in seconds.items()
        },
    }
    for name, (slow, fast) in RATIOS.items():
        pairs = zip(seconds[slow], seconds[fast], strict=True)
        row[name] = spread([a / b for a, b in pairs])
    return row


def contestants(
    options: argparse.Namespace, compiled: bool
) -> tuple[dict[str, Callable[[str], Answer]], stet.Pair]:
    pair = stet.load_pair(dtype=options.dtype, device="cpu", compile=compiled, max_batch=1)
    if compiled:
        pair.warm_up()
    kind = getattr(torch, options.dtype)
    target = AutoModelForCausalLM.from_pretrained(TARGET, dtype=kind).eval()
    draft = AutoModelForCausalLM.from_pretrained(DRAFT, dtype=kind).eval()
    limit = options.max_new_tokens

    def ours(policy: str) -> Callable[[str], Answer]:
        def run(prompt: str) -> Answer:
            began = time.perf_counter()
            result = pair.generate(prompt, policy, max_new_tokens=limit, **PINNED)
            return result.token_ids, time.perf_counter() - began

        return run

    def theirs(**more: Any) -> Callable[[str], Answer]:
        def run(prompt: str) -> Answer:
            began = time.perf_counter()
            inputs = pair.tokenizer(prompt, return_tensors="pt")
            with torch.inference_mode():
                out = target.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    do_sample=False,
                    repetition_penalty=1.0,
                    max_new_tokens=limit,
                    **more,
                )
            tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
            return tokens, time.perf_counter() - began

        return run

    methods = {
        "generate": theirs(),
        "assisted": best_assisted(theirs, draft),
        "target": ours("target"),
        "exact": ours("exact"),
    }
    return methods, pair


def best_assisted(theirs: Callable[..., Callable[[str], Answer]], draft: Any) -> Any:
    """Assisted generation at the draft length that is fastest on other prompts than the test's."""
    prompts = [p.prompt for p in problems("stories", "validation", 8)]
    found: dict[str, tuple[float, Any]] = {}
    for tokens in (None, 3, 5, 8):
        if tokens is not None:
            draft.generation_config.num_assistant_tokens = tokens
            draft.generation_config.num_assistant_tokens_schedule = "constant"
        settings = {"assistant_model": draft}
        run = theirs(**settings)
        run(prompts[0])
        took = sum(run(prompt)[1] for prompt in prompts)
        found[str(tokens)] = (took, tokens)
    _, best = min(found.values(), key=lambda item: item[0])
    # None is transformers' own default, which the loop above has overwritten on the model.
    draft.generation_config.num_assistant_tokens = 20 if best is None else best
    return theirs(assistant_model=draft)


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Speed-up, median over prompts (quartiles)")
    table.add_column("ratio")
    for row in rows:
        table.add_column("compiled" if row["compiled"] else "eager", justify="right")
    for name in RATIOS:
        cells = [f"{r[name]['median']:.2f} ({r[name]['q1']:.2f}-{r[name]['q3']:.2f})" for r in rows]
        table.add_row(name, *cells)
    for name in ("tokens_per_pass", "same_text_share"):
        table.add_row(name, *(f"{r[name]:.3g}" for r in rows))
    Console().print(table)


if __name__ == "__main__":
    main()
