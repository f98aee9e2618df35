"""Is the control pair what it is meant to be? Shown before anything is fitted to it.

    python benchmarks/control.py [--pairs benchmarks/pairs/control] [--seed 0] [--count 400]

By kind of step: both models continue the reference solution from just before the number that a step
finds, so that a step is judged by itself. And whole answers, greedily. All on validation problems.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import control

import stet
from stet.bundled import parse_answer
from stet.requests.options import PINNED

PAIRS = Path(__file__).resolve().parent / "pairs" / "control"
STREAM = 2
"""Of problems that no training looked at."""


def questions(problem: control.Problem, tokenizer: Any) -> Iterator[tuple[str, list[int], str]]:
    """Each step's kind, the tokens before the number that it finds, and that number."""
    done = problem.prompt
    for line, kind, group in zip(problem.steps, problem.kinds, problem.groups, strict=True):
        number = line.rsplit(" ", 1)[-1]
        ids = tokenizer(done + line)["input_ids"]  # a digit is a token
        yield (f"{kind}, {group}" if group else kind), ids[: -len(number)], number
        done += line + "\n"


def by_kind(pair: stet.Pair, problems: list[control.Problem], batch: int) -> dict[str, Any]:
    """Shares of right steps of each kind, by model."""
    asked = [question for problem in problems for question in questions(problem, pair.tokenizer)]
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for policy in ("target", "draft"):
        for start in range(0, len(asked), batch):
            some = asked[start : start + batch]
            prompts = [ids for _, ids, _ in some]
            results = pair.generate(prompts, policy, max_new_tokens=6, **PINNED)
            for (kind, _, number), result in zip(some, results, strict=True):
                found = result.text.split("\n")[0] == number
                right[kind][policy].append(found)
                right["all lookups" if ", " in kind else "all arithmetic"][policy].append(found)
    return {
        kind: {
            "steps": len(found["target"]),
            **{policy: round(sum(own) / len(own), 4) for policy, own in found.items()},
        }
        for kind, found in sorted(right.items())
    }


def whole(pair: stet.Pair, problems: list[control.Problem], batch: int) -> dict[str, Any]:
    """Shares of right answers, and of those that one model alone has."""
    right: dict[str, list[bool]] = {}
    for policy in ("target", "draft"):
        own = right.setdefault(policy, [])
        for start in range(0, len(problems), batch):
            some = problems[start : start + batch]
            prompts = [problem.prompt for problem in some]
            results = pair.generate(prompts, policy, max_new_tokens=300, **PINNED)
            own += [
                parse_answer(result.text) == problem.answer
                for result, problem in zip(results, some, strict=True)
            ]
    both = list(zip(right["target"], right["draft"], strict=True))
    return {
        "problems": len(problems),
        **{policy: round(sum(own) / len(own), 4) for policy, own in right.items()},
        "only_target": round(both.count((True, False)) / len(both), 4),
        "only_draft": round(both.count((False, True)) / len(both), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="holds target-SEED, draft-SEED")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    target, draft = (options.pairs / f"{role}-{options.seed}" for role in ("target", "draft"))
    if not (target.is_dir() and draft.is_dir()):
        print(f"Skipped: there is no {target} and {draft}.")
        return
    problems = control.generate("asked", "validation", options.count, options.seed, stream=STREAM)
    with stet.load_pair(
        target, draft, dtype="float32", max_batch=options.batch, compile=False
    ) as pair:
        for name, found in by_kind(pair, problems, options.batch).items():
            print(f"{name:<20}", json.dumps(found), flush=True)
        print(json.dumps(whole(pair, problems, options.batch)))


if __name__ == "__main__":
    main()
