"""What it brings that threads wait awake for the next operation, alone and beside other work.

    python benchmarks/waits.py [--alternations 6]

The same answers with threads that wait awake, and with a crowd that makes them sleep, in turns:
first on the machine as it is, then beside a process that wants a whole core. What `Waits` would
choose meanwhile is left out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

import _prompts
from _record import write

import stet
from stet.engine.waits import Waits
from stet.kernels.threads import Crowd
from stet.requests.options import PINNED

WAYS = ("awake", "asleep")
POLICIES = ("target", "exact")
BUSY = "while True: pass"


def speed(pair: stet.Pair, prompt: Any, policy: str, tokens: int) -> float:
    """Tokens per second of an answer."""
    began = time.perf_counter()
    pair.generate(prompt, policy, max_new_tokens=tokens, ignore_eos=True, **PINNED)
    return tokens / (time.perf_counter() - began)


def measure(pair: stet.Pair, options: argparse.Namespace, prompt: Any) -> dict[str, float]:
    """Median speeds by way and policy."""
    crowd = Crowd()
    found: dict[str, list[float]] = {f"{way} {policy}": [] for way in WAYS for policy in POLICIES}
    for turn in range(options.alternations):
        for way in WAYS if turn % 2 else reversed(WAYS):
            crowd.go() if way == "awake" else crowd.come()
            time.sleep(0.2)
            for policy in POLICIES:
                found[f"{way} {policy}"].append(speed(pair, prompt, policy, options.tokens))
    crowd.go()
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _prompts.add_arguments(parser)
    parser.set_defaults(pair="gguf")  # smaller ones run in one thread
    parser.add_argument("--alternations", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    if options.pair != "bundled" and not (options.models / f"{options.target}.gguf").exists():
        print(f"Skipped: there is no {options.models / options.target}.gguf.")
        return
    Waits.look = lambda _: None  # type: ignore[method-assign]
    with _prompts.load(options) as pair:
        _ = pair.costs
        (prompt,) = _prompts.prompts(pair, options, 1)
        for policy in POLICIES:
            speed(pair, prompt, policy, 8)
        alone = measure(pair, options, prompt)
        other = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            beside = measure(pair, options, prompt)
        finally:
            other.kill()
    rows = [{"machine": "alone", **alone}, {"machine": "beside a busy process", **beside}]
    figures = {
        f"awake_over_asleep_{place}_{policy}": round(
            row[f"awake {policy}"] / row[f"asleep {policy}"], 3
        )
        for place, row in (("alone", alone), ("beside", beside))
        for policy in POLICIES
    }
    print(write("waits", rows, figures, pair=options.pair), figures)


if __name__ == "__main__":
    main()
