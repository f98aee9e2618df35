"""The rewards for the bundled pair: how well they tell steps apart, their cost, and what they do.

Needs the labelled validation steps and the models of `recipes/reward.py` in `.cache/reward`. The
thresholds and the choice between rewards are made on validation problems; nothing here touches the
test split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _record import write

import stet
from stet import bundled
from stet.bundled import generate, parse_answer
from stet.calibration.quality import quality
from stet.calibration.samples import StepSample
from stet.core.block import Statistics
from stet.pair import Pair
from stet.policies import Policy, RewardGuided
from stet.requests.options import PINNED
from stet.rewards import ModelReward, RewardHead
from stet.rewards.head import padded
from stet.signals.confidence import min_logprob

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
CACHE = Path(".cache/reward")
SHIPPED = {"draft": "bundled", "head": "head"}
"""The recipe's names that ship, with the names that users know them by."""


def samples(pair: Pair) -> tuple[list[StepSample], dict[str, float]]:
    """The draft's labelled steps with what every reward says of them, and seconds for each step."""
    sys.path.insert(0, str(RECIPES))
    from reward_data import read
    from reward_model import steps_of, texts_of

    texts = texts_of(list(read(CACHE / "validation.jsonl")), pair.tokenizer)
    steps = steps_of(texts)
    columns: dict[str, list[float]] = {"min_logprob": _least(pair, texts, steps)}
    seconds: dict[str, float] = {}
    head = RewardHead.load(bundled.REWARD_HEAD)
    columns["head"] = []
    for states in steps.states:
        with torch.inference_mode():
            columns["head"] += head.net(*padded([states.float()])).tolist()
    seconds["head"] = _seconds(lambda: head.net(*padded([steps.states[0].float()])))
    for folder in sorted(CACHE.glob("*/export/config.json")):
        name = folder.parent.parent.name
        reward = ModelReward.load(folder.parent, device="cpu")
        shown = [
            pair.tokenizer.decode(text.ids[: text.ends[step] + 1], skip_special_tokens=True)
            for text, step in ((texts[place][0], step) for place, step in steps.where)
        ]
        order = sorted(range(len(shown)), key=lambda i: len(shown[i]))
        found = [0.0] * len(shown)
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            for place, value in zip(chosen, reward.read([shown[i] for i in chosen]), strict=True):
                found[place] = value
        columns[name] = found
        middle = shown[order[len(order) // 2]]
        seconds[name] = _seconds(lambda reward=reward, middle=middle: reward.read([middle]))
    made = [
        StepSample(
            problem=str(texts[place][0].problem),
            index=step,
            tokens=len(states),
            signals={name: values[i] for name, values in columns.items()},
            good=good,
            kept=True,
        )
        for i, ((place, step), states, good) in enumerate(
            zip(steps.where, steps.states, steps.good, strict=True)
        )
    ]
    return made, seconds


@torch.inference_mode()
def _least(pair: Pair, texts: Any, steps: Any) -> list[float]:
    """The draft's smallest log-probability in each step: what it knows without any training."""
    assert pair.draft is not None
    head = pair.draft.model.get_output_embeddings().weight.float()
    found: list[float] = []
    for (place, step), states in zip(steps.where, steps.states, strict=True):
        text, prompt = texts[place]
        start = text.starts(prompt)[step]
        ids = text.ids[start : start + len(states)]
        logprobs = (states.float() @ head.T).log_softmax(-1)[range(len(ids)), ids].tolist()
        found.append(min_logprob(Statistics(logprobs, [], [])))
    return found


def _seconds(act: Any, times: int = 40) -> float:
    """Median processor seconds."""
    taken = []
    with torch.inference_mode():
        for _ in range(times):
            began = time.process_time()
            act()
            taken.append(time.process_time() - began)
    return statistics.median(taken)


def _draft_pass(pair: Pair) -> float:
    """Processor seconds of a token that the draft writes for one request."""
    prompt = generate("stories", "validation", 1)[0].prompt
    taken = []
    for _ in range(6):
        began = time.process_time()
        (result,) = pair.generate([prompt], "draft", max_new_tokens=64, **PINNED)
        taken.append((time.process_time() - began) / result.counters.draft_passes)
    return statistics.median(taken)


def on_policy(pair: Pair, name: str, policy: str | Policy, problems: list[Any]) -> dict[str, Any]:
    """Accuracy, and machine time for an answer."""
    prompts = [p.prompt for p in problems]
    wall, processor = time.perf_counter(), time.process_time()
    results = pair.generate(prompts, policy, max_new_tokens=256, **PINNED)
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    right = sum(parse_answer(r.text) == p.answer for r, p in zip(results, problems, strict=True))
    steps = sum(r.counters.steps for r in results)
    accepted = sum(r.counters.accepted_steps for r in results)
    return {
        "policy": name,
        "accuracy": round(right / len(problems), 4),
        "accepted_steps": round(accepted / steps, 4) if steps else None,
        "processor_seconds": round(processor / len(problems), 4),
        "wall_seconds": round(wall / len(problems), 4),
        "target_passes": round(statistics.mean(r.counters.target_passes for r in results), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.5, 0.7, 0.9, 0.95])
    options = parser.parse_args()
    if not (CACHE / "validation.jsonl").exists():
        print(f"skipped: no labelled steps in {CACHE} (recipes/README.md says how to make them)")
        return
    torch.set_num_threads(1)
    pair = stet.load_pair(max_batch=options.batch, max_length=512, compile=False)
    steps, seconds = samples(pair)
    draft_pass = _draft_pass(pair)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {"steps": len(steps), "bad_steps": sum(not s.good for s in steps)}
    for name in steps[0].signals:
        found = quality(name, steps)
        assert found is not None
        row: dict[str, Any] = {
            "reward": name,
            "auroc": round(found.auroc, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
        }
        progress = CACHE / name / "last" / "progress.json"
        if name in seconds:
            row["cost_in_draft_passes"] = round(seconds[name] / draft_pass, 3)
            row["training_tokens"] = json.loads(progress.read_text())["tokens"]
        rows.append(row)
        figures[f"{name.replace('+', '_and_').replace('-', '_')}_auroc"] = row["auroc"]
    # Another seed than that of the labelled steps: the choice is not made on the same problems.
    problems = generate("stories", "validation", options.problems, seed=11)
    runs = [on_policy(pair, name, name, problems) for name in ("target", "exact", "draft")]
    for reward in SHIPPED.values():
        for threshold in options.thresholds:
            policy = RewardGuided(reward=reward, threshold=threshold)
            run = on_policy(pair, f"{reward} {threshold:g}", policy, problems)
            runs.append({"reward": reward, "threshold": threshold, **run})
            print(run, flush=True)
    for run in runs[:3]:
        figures[f"{run['policy']}_accuracy"] = run["accuracy"]
    for reward in SHIPPED.values():
        own = [run for run in runs if run.get("reward") == reward]
        best = max(own, key=lambda run: (run["accuracy"], -run["processor_seconds"]))
        published = next(run for run in own if run["threshold"] == 0.7)
        figures[f"{reward}_accuracy_at_0.7"] = published["accuracy"]
        figures[f"{reward}_seconds_at_0.7"] = published["processor_seconds"]
        figures[f"{reward}_best_threshold"] = best["threshold"]
        figures[f"{reward}_best_accuracy"] = best["accuracy"]
    figures["problems"] = options.problems
    print(write("reward", [*rows, *runs], figures))


if __name__ == "__main__":
    main()
