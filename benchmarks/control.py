"""Is the control pair what it is meant to be? Shown before anything is fitted to it.

    python benchmarks/control.py [--pairs benchmarks/pairs/control] [--seeds 0 1 2] [--count 400]

By kind of step: both models continue the reference solution from just before the number that a step
finds, so that a step is judged by itself. Whole answers, greedily. And the room: what an oracle
answers right that may accept up to three of the draft's tokens, less what the same search over
other tokens of the target's finds. All on validation problems. Where every seed was looked at,
`benchmarks/results/control.json` holds the criteria beside what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import control
from _pairs import CONTROL_SEEDS, STUDY
from _record import write

import stet
from stet.arbiter import Arbiter, Network
from stet.bundled import parse_answer
from stet.evaluation.tasks import load_task
from stet.evaluation.tasks.base import Question
from stet.requests.options import PINNED
from stet.training.oracle import Oracle, TargetsOthers, drafts_tokens

PAIRS = STUDY / "control"
STREAM = 2
"""Of problems that no training looked at."""

LACKED = ("outdated", "scarce")
"""Groups of entries that the target lacks: the draft's kinds."""

APART = 0.15
"""By so much the draft is above the target on its kinds of steps, and below it on arithmetic and
on whole answers."""

ROOM = 0.06
"""The oracle's gain less that of the same search over other tokens, at least."""


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


def room(pair: stet.Pair, problems: list[control.Problem], batch: int) -> dict[str, float]:
    """What searches for a right answer find, by what they may put in the place of a token."""
    questions = [Question(str(i), p.prompt, str(p.answer)) for i, p in enumerate(problems)]
    plain = load_task("stories", count=1)  # whose form and grader are those of these problems
    task = replace(plain, name="control", questions=questions, other=None)
    blind = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
    shares: dict[str, float] = {}
    for name, others in (("draft", drafts_tokens), ("others", TargetsOthers(pair))):
        oracle = Oracle(pair, task, blind, batch=batch, alternatives=others)
        found = oracle.search(range(len(questions)))
        shares["target"] = sum(s.accepted_mismatches == () for s in found) / len(found)
        shares[name] = sum(s.accepted_mismatches is not None for s in found) / len(found)
    return {
        "problems": len(problems),
        **{name: round(share, 4) for name, share in shares.items()},
        "room": round(shares["draft"] - shares["others"], 4),
    }


def met(
    steps: dict[str, Any], answers: dict[str, float], found: dict[str, float]
) -> dict[str, bool]:
    """The criteria, and whether they are met."""
    whose = {kind: own["draft"] - own["target"] for kind, own in steps.items()}
    experts = [gap for kind, gap in whose.items() if kind.endswith(LACKED)]
    return {
        "draft above target on its kinds": min(experts) >= APART,
        "target above draft on arithmetic": whose["all arithmetic"] <= -APART,
        "target above draft on whole answers": answers["target"] - answers["draft"] >= APART,
        "room": found["room"] >= ROOM,
    }


def of_seed(seed: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """What a pair is like; None where it was not trained."""
    target, draft = (options.pairs / f"{role}-{seed}" for role in ("target", "draft"))
    if not (target.is_dir() and draft.is_dir()):
        print(f"Skipped: there is no {target} and {draft}.")
        return None
    problems = control.generate("asked", "validation", options.count, seed, stream=STREAM)
    with stet.load_pair(
        target, draft, dtype="float32", max_batch=options.batch, compile=False
    ) as pair:
        steps = by_kind(pair, problems, options.batch)
        for name, found in steps.items():
            print(f"{name:<20}", json.dumps(found), flush=True)
        answers = whole(pair, problems, options.batch)
        print(json.dumps(answers), flush=True)
        searched = room(pair, problems[: options.searched], options.batch)
        print(json.dumps(searched), flush=True)
    criteria = met(steps, answers, searched)
    print(json.dumps(criteria), flush=True)
    return {"seed": seed, "criteria": criteria, "steps": steps, "whole": answers, "room": searched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, default=PAIRS, help="holds target-SEED, draft-SEED")
    parser.add_argument("--seeds", type=int, nargs="+", default=CONTROL_SEEDS)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--searched", type=int, default=200, help="problems of the oracle")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    found = [of_seed(seed, options) for seed in options.seeds]
    rows = [row for row in found if row is not None]
    if [row["seed"] for row in rows] == list(CONTROL_SEEDS):
        figures = {
            "criteria_met": float(all(all(row["criteria"].values()) for row in rows)),
            "room_points": round(100 * min(row["room"]["room"] for row in rows), 2),
            "seeds": len(rows),
        }
        print(write("control", rows, figures, mix=asdict(control.MIX)))


if __name__ == "__main__":
    main()
