"""Models of the size that people run, on a GPU: how near the engine comes to the device's limits.

    python benchmarks/gpu.py

Weights are random and made on the device: a target of the shapes of Qwen2.5-7B and a draft of those
of the 0.5B. Such models never agree, so how much is accepted is set by the `random` policy's rate.
Says so, and measures nothing, where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch
from _record import write
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import stet
from stet.core.policy import Policy
from stet.models import LoadedModel, prepare_model
from stet.policies import Random

SHAPES: dict[str, dict[str, int]] = {
    "target": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
    },
    "draft": {
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 152_064,
    },
}
"""The vocabulary of both models."""

PROMPT = 256
TOKENS = 96
LENGTH = 5
"""Drafted tokens of a block."""

RATE = 0.8
"""Share of the drafted tokens that are accepted."""


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a word for each id."""
    words = {f"w{place}": place for place in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w0"
    )


def model(role: stet.core.model.Role, tokens: PreTrainedTokenizerFast) -> LoadedModel:
    """A model with random weights, made on the device."""
    config = Qwen2Config(
        **SHAPES[role],
        max_position_embeddings=4096,
        tie_word_embeddings=role == "draft",
        dtype=torch.bfloat16,
    )
    torch.manual_seed(1)
    with torch.device("cuda"):
        made = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    return prepare_model(made, tokens, role=role, name=f"random-{role}")


def copy_rate() -> float:
    """Bytes a second that a large copy on the device reads and writes."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    rates: list[float] = []
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        rates.append(2 * source.nbytes / (time.perf_counter() - began))
    return median(rates)


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of weights that a pass reads: all but the rows of an embedding that is not the head."""
    table = loaded.model.get_input_embeddings().weight
    own = table is not loaded.model.get_output_embeddings().weight
    return loaded.parameter_bytes - (table.nbytes if own else 0)


def forward_seconds(pair: stet.Pair, role: str, batch: int, width: int) -> float:
    """Seconds of a bare pass over a cache of `PROMPT` tokens, logits of all positions included."""
    runner = pair.engine.runners[role]

    def timed() -> float:
        rows = [runner.allocate() for _ in range(batch)]
        try:
            prompt = torch.ones(batch, PROMPT, dtype=torch.long, device="cuda")
            runner.forward(rows, prompt, [0] * batch, logits="none")
            block = prompt[:, :width].contiguous()
            seconds: list[float] = []
            for _ in range(12):
                torch.cuda.synchronize()
                began = time.perf_counter()
                runner.forward(rows, block, [PROMPT] * batch)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            return median(seconds[2:])
        finally:
            for row in reversed(rows):
                runner.release(row)

    return pair.between_rounds(timed)


def generate(pair: stet.Pair, policy: str | Policy, batch: int, repeats: int) -> dict[str, float]:
    """Times of answers, prompts included; the first one warms up."""
    prompts = [[7 + place] * PROMPT for place in range(batch)]
    seconds: list[float] = []
    for _ in range(1 + repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        results = pair.generate(
            prompts,
            policy,
            max_new_tokens=TOKENS,
            ignore_eos=True,
            draft_length=LENGTH,
            seed=3,
        )
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        assert all(r.error is None and len(r.token_ids) == TOKENS for r in results)
    counters = [result.counters for result in results]
    taken = median(seconds[1:])
    return {
        "seconds": round(taken, 4),
        "tokens_a_second": round(batch * TOKENS / taken, 1),
        "target_passes": max(c.target_passes for c in counters),
        "drafted": max(c.drafted_tokens for c in counters),
    }


def rows_of(pair: stet.Pair, batch: int, compiled: bool, repeats: int) -> list[dict[str, Any]]:
    """Target alone and speculation, beside the bare passes that they are made of."""
    bare = {
        "target_1": forward_seconds(pair, "target", batch, 1),
        f"target_{LENGTH + 1}": forward_seconds(pair, "target", batch, LENGTH + 1),
        "draft_1": forward_seconds(pair, "draft", batch, 1),
    }
    found: list[dict[str, Any]] = []
    policies: dict[str, str | Policy] = {"target": "target", "random": Random(rate=RATE)}
    for name, policy in policies.items():
        row: dict[str, Any] = {"policy": name, "batch": batch, "compiled": compiled}
        row |= generate(pair, policy, batch, repeats)
        passes = row["target_passes"]
        if name == "target":
            row["bare_seconds"] = round(passes * bare["target_1"], 4)
        else:
            drafted = row["drafted"] * bare["draft_1"]
            row["bare_seconds"] = round(passes * bare[f"target_{LENGTH + 1}"] + drafted, 4)
        row["over_bare"] = round(row["seconds"] / row["bare_seconds"], 3)
        row["bare"] = {key: round(1000 * value, 3) for key, value in bare.items()}
        found.append(row)
        print(row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--compile", action="store_true", help="capture graphs of single rows too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="gpu", help="of the result file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no CUDA device here; nothing was measured.")
        return
    rate = copy_rate()
    print(f"a copy moves {rate / 1e12:.2f} TB/s", flush=True)
    tokens = tokenizer(SHAPES["target"]["vocab_size"])
    began = time.perf_counter()
    target, draft = model("target", tokens), model("draft", tokens)
    print(f"models made and checked in {time.perf_counter() - began:.1f} s", flush=True)
    rows: list[dict[str, Any]] = []
    for compiled in (False, True) if options.compile else (False,):
        with stet.Pair(
            target, draft, max_length=1024, max_batch=max(options.batches), compile=compiled
        ) as pair:
            if compiled:
                began = time.perf_counter()
                for role, widths in (("target", [1, LENGTH + 1]), ("draft", [1, 2])):
                    runner = pair.engine.runners[role]
                    pair.between_rounds(lambda r=runner, w=widths: r.warm_up(w, batches=(1,)))
                print(f"captured in {time.perf_counter() - began:.1f} s", flush=True)
            for batch in [1] if compiled else options.batches:
                rows += rows_of(pair, batch, compiled, options.repeats)
    alone = {(r["policy"], r["compiled"]): r for r in rows if r["batch"] == options.batches[0]}
    best = alone.get(("target", True)) or alone["target", False]
    limit = rate / weight_bytes(target)
    figures = {
        "copy_terabytes_a_second": round(rate / 1e12, 3),
        "target_of_bandwidth_limit": round(best["tokens_a_second"] / limit, 3),
        "speculation_vs_target": round(
            alone["random", best["compiled"]]["tokens_a_second"] / best["tokens_a_second"], 3
        ),
        "round_over_bare_passes": alone["random", best["compiled"]]["over_bare"],
    }
    print(figures)
    print(write(options.name, rows, figures, rate=RATE, block=LENGTH, prompt=PROMPT))


if __name__ == "__main__":
    main()
