"""How cost grows with the batch, the context and the block: time, memory and time to first token.

    python benchmarks/scaling.py                     # all parts, bundled pair
    python benchmarks/scaling.py --pair real         # the same of a real pair: hours
    python benchmarks/scaling.py --before ../earlier before
    python benchmarks/scaling.py report

Parts: `memory`, what candidates of a step and samples of a prompt take in the caches; `reuse`, a
chat's second turn and a second sample; `preempted`, caches too small for all requests; `batch`,
`context`, `grid` and `length`, the curves; `before`, this version against a checkout of an earlier
one, in turns. Each writes its rows to `.cache/scaling` and goes on where it was stopped; `report`
writes `benchmarks/results/scaling.json` from all of them, and `docs/scaling_plots.py` draws it.

The real pair is Qwen2.5-Coder 1.5B and 0.5B Instruct, Q4_K_M dequantised to bfloat16, in
`.cache/models`. transformers answers the same prompts beside Stet, in a process of its own;
llama.cpp (the 4-bit file) and vLLM do where `benchmarks/peers.py` has installed them. Times count
only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _scaling_before
import _scaling_curves as curves
import _scaling_memory as memory
from _parts import parse
from _scaling_report import report
from _scaling_settings import Settings

PARTS = {
    "memory": memory.memory,
    "reuse": memory.reuse,
    "preempted": memory.preempted,
    "batch": curves.batch,
    "context": curves.context,
    "grid": curves.grid,
    "length": curves.length,
    "before": _scaling_before.before,
    "report": report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("bundled", "real"), default="bundled")
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--peers", type=Path, default=Path(".cache/peers"))
    parser.add_argument("--root", type=Path, default=Path(".cache/scaling"))
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--threads", type=int, help="default: 1 for the bundled pair, else 2")
    parser.add_argument("--longest", type=int, default=32_768, help="of contexts, in tokens")
    parser.add_argument("--alternations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options, chosen = parse(parser, PARTS, unasked=("before", "report"))
    settings = Settings(**options)
    if (path := settings.missing()) is not None:
        print(f"Skipped: there is no {path}.")
        return
    for part in chosen:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
