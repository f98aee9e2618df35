"""What multiplying with a weight costs on a CPU: packed weights beside what torch offers.

    python benchmarks/kernels.py [--threads 2] [--rounds 60]

Every shape has copies of its weights that take turns, so that none stays in the processor's cache,
and all ways and numbers of tokens take turns, so that what else runs on the machine meets them
alike. The figures are the least times, of the clock on the wall and of all threads on processors
together: a machine with other work shows the first only now and then.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from _record import write

from stet.kernels import PackedLinear, PackedWeight, arrange, unavailable
from stet.kernels.packed import BLOCK, ROWS, groups_of

SHAPES = {
    "1.5B gate, up": (8960, 1536),
    "1.5B down": (1536, 8960),
    "1.5B query, output": (1536, 1536),
    "1.5B head": (151936, 1536),
    "0.5B down": (896, 4864),
    "0.5B head": (151936, 896),
}
TOKENS = (1, 2, 4, 5, 8, 16, 32, 512)
ROTATED = 96 * 2**20
"""Bytes of weights that take turns: three times the cache of the machines at hand."""
RARE = {16: 4, 32: 4, 512: 16}
"""Longer passes are timed once in so many rounds."""

Way = Callable[[torch.Tensor], torch.Tensor]


def packed_way(name: str, outputs: int, inputs: int) -> tuple[Way, int]:
    """A layer of random codes in a type's layout."""
    bits, parts, has_supers, has_mins = {
        "packed 4 (Q4_K)": (4, 1, True, True),
        "packed 5 (Q5_K)": (5, 1, True, True),
        "packed 6 (Q6_K)": (6, 2, True, False),
        "packed 8 (Q8_0)": (8, 1, False, False),
    }[name]
    tiles, groups = -(-outputs // ROWS), groups_of(inputs)

    def halves(count: int) -> torch.Tensor:
        return (torch.rand(tiles, count, ROWS) / 100).half()

    def headers(count: int) -> torch.Tensor:
        small = torch.randint(0, 64, (tiles, count, ROWS), dtype=torch.int8)
        return small if has_supers else halves(count)

    blocks = -(-groups // BLOCK)
    weight = PackedWeight(
        bits,
        (outputs, inputs),
        0 if has_mins else 2 ** (bits - 1),
        codes=torch.randint(-(2**31), 2**31, (tiles, groups, bits, ROWS), dtype=torch.int32),
        scales=headers(groups * parts),
        mins=headers(groups) if has_mins else None,
        super_scales=halves(blocks) if has_supers else None,
        super_mins=halves(blocks) if has_mins else None,
    )
    return PackedLinear(weight), weight.nbytes


def arranged_way(outputs: int, inputs: int) -> tuple[Way, int]:
    weight = arrange(torch.randn(outputs, inputs, dtype=torch.bfloat16))
    return PackedLinear(weight), weight.nbytes


def plain_way(outputs: int, inputs: int) -> tuple[Way, int]:
    weight = torch.randn(outputs, inputs, dtype=torch.bfloat16)
    return lambda x: torch.nn.functional.linear(x, weight), weight.nbytes


def int4_way(outputs: int, inputs: int) -> tuple[Way, int]:
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
    weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = torch.rand(inputs // 32, outputs, 2).bfloat16()
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda x: multiply(x, weight, 32, scales), weight.nbytes + scales.nbytes


def int8_way(outputs: int, inputs: int) -> tuple[Way, int]:
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scales = torch.rand(outputs).bfloat16()
    multiply = torch.ops.aten._weight_int8pack_mm
    return lambda x: multiply(x, weight, scales), weight.nbytes + scales.nbytes


def onednn_way(outputs: int, inputs: int) -> tuple[Way, int]:
    """Activations are rounded to 8 bits with one scale for all of them."""
    codes = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    weight = torch.ops.onednn.qlinear_prepack(codes, None)
    scales, zeros = torch.rand(outputs), torch.zeros(outputs, dtype=torch.int32)
    kind = (None, 1.0, 0, torch.bfloat16, "none", [], "")

    def multiply(x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax().item() / 127
        rounded = (x / scale + 128).round_().to(torch.uint8)  # it has no fast path for int8
        return torch.ops.onednn.qlinear_pointwise(rounded, scale, 128, weight, scales, zeros, *kind)

    return multiply, weight.nbytes + scales.nbytes


WAYS: dict[str, Callable[[int, int], tuple[Way, int]]] = {
    **{
        name: lambda outputs, inputs, name=name: packed_way(name, outputs, inputs)  # type: ignore[misc]
        for name in ("packed 4 (Q4_K)", "packed 5 (Q5_K)", "packed 6 (Q6_K)", "packed 8 (Q8_0)")
    },
    "arranged bfloat16": arranged_way,
    "torch bfloat16": plain_way,
    "torch int4pack": int4_way,
    "torch int8pack": int8_way,
    "oneDNN int8": onednn_way,
}


def measure(outputs: int, inputs: int, rounds: int) -> list[dict[str, Any]]:
    """Time every way of multiplying with one shape of weights."""
    copies: dict[str, list[Way]] = {}
    sizes: dict[str, int] = {}
    for name, make in WAYS.items():
        made, sizes[name] = make(outputs, inputs)
        count = ROTATED // sizes[name]
        copies[name] = [made, *(make(outputs, inputs)[0] for _ in range(count))]
    counts = [t for t in TOKENS if t <= 32 or outputs < 100000]
    batches = {t: torch.randn(t, inputs, dtype=torch.bfloat16) for t in counts}
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    turn = 0
    for round_ in range(rounds):
        for t, x in batches.items():
            if round_ % RARE.get(t, 1):
                continue
            for name, ways in copies.items():
                turn += 1
                way = ways[turn % len(ways)]
                start, busy = time.perf_counter(), time.process_time()
                way(x)
                busy, taken = time.process_time() - busy, time.perf_counter() - start
                seconds[name, t].append((taken, busy))
    return [
        {
            "way": name,
            "outputs": outputs,
            "inputs": inputs,
            "tokens": t,
            "least_ms": round(min(taken) * 1e3, 4),
            "median_ms": round(statistics.median(taken) * 1e3, 4),
            "processor_ms": round(min(busy) * 1e3, 4),
            "gb_s": round(sizes[name] / min(taken) / 1e9, 1),
        }
        for name in WAYS
        for t in counts
        for taken, busy in [zip(*seconds[name, t], strict=True)]
    ]


def show(title: str, rows: list[dict[str, Any]]) -> None:
    counts = sorted({row["tokens"] for row in rows})
    print(f"\n{title}, {rows[0]['outputs']} x {rows[0]['inputs']}: ms (GB/s for 1 token)")
    print(" " * 18 + "".join(f"{f'T={t}':>9}" for t in counts))
    for name in WAYS:
        own = {row["tokens"]: row for row in rows if row["way"] == name}
        for clock, mark in (("least_ms", name), ("processor_ms", "  of processors")):
            times = "".join(f"{own[t][clock]:9.3f}" for t in counts)
            print(f"{mark:18}{times}" + (f"  ({own[1]['gb_s']})" if mark == name else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=64)
    parser.add_argument("--shape", choices=SHAPES, help="this one alone")
    options = parser.parse_args()
    if (reason := unavailable()) is not None:
        raise SystemExit(reason)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for title, (outputs, inputs) in SHAPES.items():
            if options.shape in (None, title):
                rounds = options.rounds if outputs < 100000 else options.rounds // 4
                measured = measure(outputs, inputs, rounds)
                show(title, measured)
                rows += measured
    if options.shape is None:
        print(write("kernels", rows, figures(rows), threads=options.threads))


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the largest layer's shape: what more tokens cost, and what a bit less saves."""
    times = {
        (row["way"], row["tokens"]): row["least_ms"]
        for row in rows
        if (row["outputs"], row["inputs"]) == SHAPES["1.5B gate, up"]
    }
    four, plain, int4 = "packed 4 (Q4_K)", "torch bfloat16", "torch int4pack"
    arranged = "arranged bfloat16"
    found = {
        "five_tokens_over_one": times[four, 5] / times[four, 1],
        "eight_tokens_over_one": times[four, 8] / times[four, 1],
        "int4pack_eight_tokens_over_one": times[int4, 8] / times[int4, 1],
        "int4pack_over_packed_one_token": times[int4, 1] / times[four, 1],
        "int4pack_over_packed_eight_tokens": times[int4, 8] / times[four, 8],
        "bfloat16_over_packed_one_token": times[plain, 1] / times[four, 1],
        "bfloat16_over_packed_512_tokens": times[plain, 512] / times[four, 512],
        "bfloat16_over_arranged_one_token": times[plain, 1] / times[arranged, 1],
        "bfloat16_over_arranged_eight_tokens": times[plain, 8] / times[arranged, 8],
    }
    return {name: round(value, 2) for name, value in found.items()}


if __name__ == "__main__":
    main()
