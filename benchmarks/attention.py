"""What attention of a short pass costs on a CPU: the compiled kernel beside torch's attention.

    python benchmarks/attention.py

The shapes of the bundled pair (float32) and of Qwen2.5-Coder-0.5B and 1.5B (bfloat16): single
tokens and blocks, alone and in batches with rows of equal and of uneven lengths, over short and
long contexts. All attention layers of a pass with the views and masks that it needs; both take
turns in one process, on one thread. Time is the processor's: what else the machine does hardly
changes it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import torch
from _record import spread, write
from rich.console import Console
from rich.table import Table

from stet.core.model import LayerShape
from stet.engine.attention import attend
from stet.engine.kv_cache import KVCache
from stet.engine.masks import AlignedMasks
from stet.engine.views import Place, view_of
from stet.kernels.attention import WIDEST

CPU = torch.device("cpu")
MODELS = {
    "bundled target": (14, LayerShape(4, 4, 32, 32, torch.float32, CPU)),
    "coder-0.5b": (24, LayerShape(14, 2, 64, 64, torch.bfloat16, CPU)),
    "coder-1.5b": (28, LayerShape(12, 2, 128, 128, torch.bfloat16, CPU)),
}
"""Layers of a model, and the shape of each."""

CONTEXTS = (100, 1000, 3000)
SHAPES = (("1", 1), ("1", 6), ("1", 16), ("1", 64), ("8", 1), ("8", 6), ("8 uneven", 6))
"""Rows of a batch, of equal or of uneven lengths, and new tokens of each."""
SLOTS_IN_VAIN = 12_000
"""Width of the keys of a token times the slots that are read in vain, as the runner bounds them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each shape")
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for name in options.models:
        layers, shape = MODELS[name]
        cache = KVCache([shape] * layers, rows=8, max_length=max(CONTEXTS) + 160, grow=False)
        for part in (*cache.keys, *cache.values):
            part.normal_()
        for context, (batch, width) in itertools.product(CONTEXTS, SHAPES):
            found = measure(cache, shape, context, width, batch, options.seconds)
            rows.append({"model": name, "context": context, "width": width, "batch": batch} | found)
            print(*rows[-1].values(), flush=True)
    show(rows)
    slowest = min(rows, key=lambda row: row["speed_up"]["median"])
    figures = {
        "speed_up_median": statistics.median(r["speed_up"]["median"] for r in rows),
        "speed_up_least": slowest["speed_up"]["median"],
    }
    print("written:", write("attention", rows, figures, threads=options.threads))


@torch.inference_mode()
def measure(
    cache: KVCache, shape: LayerShape, context: int, width: int, batch: str, seconds: float
) -> dict[str, Any]:
    """Milliseconds of a pass's attention, by torch and by the kernel."""
    count = int(batch.split()[0])
    ends = [context + width - (b * 53 if "uneven" in batch else 0) for b in range(count)]
    ends = [max(width, end) for end in ends]
    starts = [end - width for end in ends]
    masks = AlignedMasks(cache.capacity, shape.dtype, CPU)
    slots = torch.arange(cache.capacity)
    query = torch.randn(count, shape.query_heads, width, shape.key_size).to(shape.dtype)
    key, value = torch.randn(2, count, shape.key_heads, width, shape.key_size).to(shape.dtype)
    cost = 2 * SLOTS_IN_VAIN // (shape.key_heads * shape.key_size)

    def run(native: int) -> None:
        place = Place(cache, masks, slots, list(range(count)), native)
        view, _ = view_of(place, width, starts, None, ends, cost)
        for layer in range(len(cache.layers)):
            attend(view, layer, query, key, value, None, None, None)

    ways = {"torch": 0, "kernel": WIDEST}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for native in ways.values():
        run(native)
    stop = time.process_time() + seconds
    for turn in itertools.count():
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            begun = time.process_time()
            run(ways[name])
            taken[name].append((time.process_time() - begun) * 1e3)
        if turn >= 2 and time.process_time() > stop:
            break
    ratios = [torch_ / kernel for torch_, kernel in zip(*taken.values(), strict=True)]
    return {
        **{f"milliseconds_{name}": spread(values) for name, values in taken.items()},
        "speed_up": spread(ratios),
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Milliseconds of a pass's attention, medians")
    columns = ("model", "context", "batch", "tokens", "torch", "kernel", "speed-up (quartiles)")
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        gain = row["speed_up"]
        table.add_row(
            row["model"],
            *(str(row[name]) for name in ("context", "batch", "width")),
            *(f"{row[f'milliseconds_{n}']['median']:.2f}" for n in ("torch", "kernel")),
            f"{gain['median']:.2f} ({gain['q1']:.2f}-{gain['q3']:.2f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
