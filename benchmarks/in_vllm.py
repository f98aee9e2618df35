"""Policies inside vLLM: whether they decide as in Stet's own engine, and what that costs.

    python packages/stet-vllm/install.py .venv-vllm
    .venv-vllm/bin/python benchmarks/in_vllm.py

It runs in the environment of vLLM. The newer model runner needs a GPU; without one its kernels are
interpreted, which shows what it decides and nothing of its speed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "packages" / "stet-vllm" / "tests"))

from _record import add, spread
from engines import greedy, prompts, run_engine, texts_equal, token_policies
from laws import SAMPLES, deviations

ROUNDS = 4
"""Engines of each kind whose speeds are compared, in turns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - {*PARTS}:
        parser.error(f"there is no part {min(unknown)!r}; choose from {', '.join(PARTS)}")
    for part in parts:
        figures: dict[str, Any] = {}
        rows = [{"part": f"vllm_{part}", **row} for row in PARTS[part](figures)]
        print(add("scale", f"vllm_{part}", rows, figures))


def texts(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Texts that are those of Stet's own engine, given the same first token."""
    return [row for runner in ("v1", "v2") for row in texts_of(runner, figures)]


def laws(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """How far sampled tokens are from the target's distribution, in standard deviations."""
    rows = []
    for policy in ("exact", "block"):
        found = deviations(policy, SAMPLES)
        figures[f"vllm_{policy}_z"] = round(max(found, key=abs), 2)
        rows.append({"policy": policy, "samples": SAMPLES, "z": [round(z, 2) for z in found]})
    return rows


def texts_of(runner: str, figures: dict[str, Any]) -> list[dict[str, Any]]:
    newer = runner == "v2"
    some = [list(prompt) for prompt in prompts()[: 6 if newer else None]]
    policies = token_policies()
    batches = [[greedy(prompt, policy) for prompt in some] for policy in policies]
    found = run_engine(batches, newer=newer)
    rows = []
    for place, policy in enumerate(policies):
        answers = found["found"][place * len(some) : (place + 1) * len(some)]
        steps = [a["metrics"]["num_spec_steps"] for a in answers]
        tokens = [len(a["tokens"]) - 1 for a in answers]
        rows.append(
            {
                "runner": runner,
                "vllm": found["version"],
                "policy": policy,
                "texts": len(some),
                "equal": texts_equal(answers, policy),
                "tokens_per_pass": round(sum(tokens) / sum(steps), 2),
            }
        )
        print(rows[-1], flush=True)
    equal, whole = (sum(row[name] for row in rows) for name in ("equal", "texts"))
    figures[f"vllm_texts_equal_{runner}"] = round(equal / whole, 4)
    figures["vllm_policies"] = len(policies)
    figures["vllm_version"] = found["version"]
    return rows


def overhead(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Time under Stet's exact rule over that under vLLM's own, which write the same texts."""
    batch = [greedy(list(prompt)) for prompt in prompts()[:16]]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    texts: set[str] = set()
    for turn in range(2 * ROUNDS):
        asked = turn % 2 == 0
        settings = {"trace": False} if asked else None
        found = run_engine([batch] * 12, settings=settings)
        seconds[asked] += found["seconds"][2:]  # the first ones warm up
        texts |= {str([one["tokens"] for one in found["found"]])}
    ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
    figures["vllm_policy_overhead"] = round(ratio - 1, 4)
    spread_of = {"stet": spread(seconds[True]), "vllm": spread(seconds[False])}
    return [{"seconds": spread_of, "texts_differ": len(texts) - 1}]


PARTS = {"texts": texts, "laws": laws, "overhead": overhead}


if __name__ == "__main__":
    main()
