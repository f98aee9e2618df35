"""SpecGuard against everything that it must be held against, on problems that nothing was tuned on.

    python benchmarks/specguard.py            # all parts, one after the other, then the report
    python benchmarks/specguard.py greedy     # one part; parts may run side by side
    python benchmarks/specguard.py report     # from what there is

Every part is a run of `stet compare`'s machinery: the contenders take turns chunk by chunk, so that
a ratio of times is of one run, and it can be interrupted. Greedy contenders give the same answers
under every seed and run once; those that sample run once for each seed. `exact` is in every part.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from _record import RESULTS, plain_numbers, write
from scipy.stats import rankdata

from stet import load_pair
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.calibration.samples import read, steps_of
from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.paired import Paired, tables_of
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.statistics import Resamples, ratio
from stet.evaluation.summary import Estimate, PolicySummary, Summary
from stet.evaluation.tasks import load_task
from stet.pair import Pair
from stet.policies import SpecGuard
from stet.requests.methods import rows_of
from stet.requests.options import PINNED
from stet.signals import SIGNALS

PART_SEEDS = {
    "greedy": (0,),
    "sampled": (0, 1, 2),
    "signals": (0,),
    "selectors": (0,),
    "latency": (0,),
    "rewards": (0,),
}

RULES = ("ensemble", "confident", "cascade")
"""The plain rules that any gain is held against."""

HEAD_THRESHOLDS, MODEL_THRESHOLDS = (0.7, 0.9, 0.95, 0.98, 0.99), (0.7, 0.95, 0.98)
"""Thresholds of the two rewards: a stricter one is more accurate and slower."""

AS_ACCURATE = 0.01
"""Reward-guided decoding counts as good as `specguard` within so much of its accuracy."""

PRIMARY = {
    "greedy": ["specguard"],
    "sampled": ["specguard as published"],
    "signals": [],
    "selectors": [],
    "latency": ["specguard"],
    "rewards": ["specguard"],
}
"""The comparisons that were declared beforehand."""


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        problems: of the test split.
        few: the first of them, for single signals and parts of the published policy.
        latency_problems: the first of them, one at a time.
        batch: problems at a time, elsewhere.
        folder: of the runs.
        steps: labelled steps of the calibration, for the thresholds of single signals.
    """

    problems: int
    few: int
    latency_problems: int
    batch: int
    folder: Path
    steps: Path


def named(name: str, label: str | None = None, **values: Any) -> Contender:
    return contender(name, values, label=label)


def specguard(policy: SpecGuard, label: str) -> Contender:
    values = {f.name: getattr(policy, f.name) for f in fields(SpecGuard)}
    return contender("specguard", values, label=label)


def plain() -> list[Contender]:
    """The contenders without a step policy."""
    return [
        named("target"),
        named("draft"),
        named("exact"),
        named("ensemble"),
        named("confident"),
        named("cascade"),
    ]


def stepwise() -> list[Contender]:
    """Step by step, greedily."""
    return [
        specguard(SpecGuard.bundled(), "specguard"),
        named("specguard.greedy", "specguard as published, greedy", delimiter="\n"),
        named("reward-guided", "reward-guided"),
        named("spec-reason", "spec-reason"),
    ]


def ablations() -> list[Contender]:
    """The calibrated policy with one part changed."""
    policy = SpecGuard.bundled()
    by_target = replace(policy, scorer="target", signals=(), weights=(), ranges=())
    return [
        specguard(replace(policy, speculate=False), "without inner speculation"),
        specguard(replace(policy, lower=None), "draft's signals alone"),
        specguard(by_target, "target's reading alone"),
    ]


def single_signals(steps: Path) -> list[Contender]:
    """Every signal by itself, at the threshold that accepts half of the calibration's steps."""
    policy = SpecGuard.bundled()
    labelled = steps_of(read(steps))
    found = [named("exact")]
    for name, signal in SIGNALS.items():
        if not labelled or name not in labelled[0].signals:
            continue
        values = np.array([s.signals[name] for s in labelled])
        low, high = (float(x) for x in np.quantile(values, [0.02, 0.98]))
        if low == high:
            continue
        ends = (low, high) if signal.sign > 0 else (high, low)
        middle = float(np.quantile(values, 0.5))
        threshold = min(max((middle - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
        alone = replace(
            policy, signals=(name,), weights=(1.0,), ranges=(ends,), threshold=threshold, lower=None
        )
        found.append(specguard(alone, f"{name} alone"))
    return found


def sampled(candidates: int) -> list[Contender]:
    """The contenders that draw answers or candidates."""
    paper: dict[str, Any] = {
        "delimiter": "\n",
        "candidates": candidates,
        "target_candidates": candidates,
    }
    title = "specguard as published"
    return [
        named("exact"),
        named("majority", "target majority of 5"),
        named("majority", "draft majority of 5", of="draft"),
        named("specguard.paper", title, **paper),
    ]


def selectors(candidates: int) -> list[Contender]:
    """The published policy with one part changed."""
    paper: dict[str, Any] = {
        "delimiter": "\n",
        "candidates": candidates,
        "target_candidates": candidates,
    }
    title = "specguard as published"
    return [
        named("exact"),
        named("specguard.paper", f"{title}, first candidate", **paper | {"selector": "first"}),
        named("specguard.paper", f"{title}, vote", **paper | {"selector": "vote"}),
        named("specguard.paper", f"{title}, one of the target", **paper | {"target_candidates": 1}),
    ]


def rewards() -> list[Contender]:
    """Reward-guided decoding from its published threshold to the strictest."""
    found = [named("exact"), specguard(SpecGuard.bundled(), "specguard")]
    for reward, thresholds in (("head", HEAD_THRESHOLDS), ("bundled", MODEL_THRESHOLDS)):
        title = "head" if reward == "head" else "reward model"
        found += [
            named("reward-guided", f"{title} at {t:g}", reward=reward, threshold=t)
            for t in thresholds
        ]
    return found


def latency() -> list[Contender]:
    return [*plain(), *stepwise()]


def plan(part: str, settings: Settings, candidates: int) -> Plan:
    """The plan of a part."""
    few = {"latency": settings.latency_problems, "signals": settings.few, "selectors": settings.few}
    count = few.get(part, settings.problems)
    task = load_task("bundled", split="test", count=count)
    contenders = {
        "greedy": lambda: [*plain(), *stepwise(), *ablations()],
        "sampled": lambda: sampled(candidates),
        "signals": lambda: single_signals(settings.steps),
        "selectors": lambda: selectors(candidates),
        "latency": latency,
        "rewards": rewards,
    }[part]()
    return Plan(
        task=task,
        contenders=contenders,
        reference="exact",
        primary=PRIMARY[part],
        seeds=PART_SEEDS[part],
        batch=1 if part == "latency" else settings.batch,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )


def pair_for(plan: Plan) -> Pair:
    """A pair with room for all candidates and samples."""
    rows = max(rows_of(c.policy) * c.samples for c in plan.contenders) * plan.batch
    most = plan.batch * max(c.samples for c in plan.contenders)
    return load_pair(max_batch=most, max_rows=min(rows, 160), compile=False)


def run(part: str, settings: Settings, candidates: int) -> None:
    """Run a part, or go on with it."""
    chosen = plan(part, settings, candidates)
    comparison = Comparison(pair_for(chosen), chosen, settings.folder / part)
    done = len(comparison.answers)
    chunk = 0

    def tell(answers: Sequence[records.Answer]) -> None:
        nonlocal done, chunk
        done += len(answers)
        if answers[0].chunk != chunk:
            chunk = answers[0].chunk
            print(f"{part}: {done} of {comparison.total} answers", flush=True)

    comparison.go(tell)


# What limits accuracy


def limit(settings: Settings) -> None:
    """How often a step of the draft would have saved an answer that the target gets wrong.

    The target writes every answer and the draft's candidates for its steps are recorded. Where the
    answer is wrong, each candidate is tried in the place of the target's step, and the target
    writes on from there. No step policy with one candidate of this draft can gain more than that
    at a single step. How well each signal tells those steps from the others is recorded, too:
    a policy that is to gain something has to tell them.
    """
    path = settings.folder / "limit.json"
    if path.exists():
        return
    task = load_task("bundled", split="test", count=settings.problems)
    assert task.grader is not None
    pair = load_pair(max_batch=settings.batch, compile=False)
    rollouts = Rollouts(pair, task.grader, task.max_new_tokens, task.stop)
    policy = replace(SpecGuard.bundled(), shadow=True)
    wrong = saved = 0
    signals: list[dict[str, float]] = []
    saves: list[bool] = []
    for start in range(0, len(task.questions), settings.batch):
        questions = task.questions[start : start + settings.batch]
        prompts = [prompt_of(pair, task, q) for q in questions]
        results = pair.generate(prompts, policy, max_new_tokens=task.max_new_tokens, **PINNED)
        for question, prompt, result in zip(questions, prompts, results, strict=True):
            reference = question.reference or ""
            if task.grader.right(task.grader.extract(result.text), reference):
                continue
            swaps = [
                Prefix(
                    prompt,
                    (*result.token_ids[: s.position], *s.candidates[s.chosen].ids),
                    reference,
                )
                for s in result.trace.steps
            ]
            sound = rollouts.sound(swaps)
            wrong, saved = wrong + 1, saved + any(sound)
            saves += sound
            signals += [step.signals for step in result.trace.steps]
        print(f"limit: {start + len(questions)} of {len(task.questions)} problems", flush=True)
    found = {
        "wrong": wrong,
        "saved": saved,
        "steps": len(saves),
        "saving": sum(saves),
        "auroc": telling(signals, saves),
    }
    settings.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")


def telling(signals: Sequence[dict[str, float]], saves: Sequence[bool]) -> dict[str, float]:
    """For each signal that all steps have, the probability that a saving step has more of it."""
    names = set(signals[0]).intersection(*signals) if signals else set()
    right, found = np.array(saves), {}
    if right.all() or not right.any():
        return {}
    for name in sorted(names):
        ranks = rankdata([step[name] for step in signals])
        count = int(right.sum())
        above = ranks[right].sum() - count * (count + 1) / 2
        found[name] = round(float(above / (count * (~right).sum())), 3)
    return found


# The report


def seconds_ratio(results: records.Results, ours: str, theirs: str, *, whole: bool) -> Estimate:
    """Our seconds over theirs, on the same questions; of whole chunks where they share a batch."""
    run = replace(results.run, reference=theirs, primary=[])
    both = replace(results, run=run)
    entry = next(p for p in run.policies if p.label == ours)
    paired = Paired.of(run, entry, tables_of(both), {})
    resamples = Resamples(2_000, 0)
    if whole:
        return ratio(
            paired.per_chunk(lambda mine, _: mine.seconds),
            paired.per_chunk(lambda _, other: other.seconds),
            resamples,
        )
    return ratio(
        paired.per_question(lambda p: p.mine.seconds, paired.timed),
        paired.per_question(lambda p: p.reference.seconds, paired.timed),
        resamples,
    )


def row(part: str, policy: PolicySummary, results: records.Results) -> dict[str, Any]:
    """The row of a contender in a part."""
    answers = [a for a in results.answers if a.policy == policy.label]
    steps = sum(a.counters.steps for a in answers)
    accepted = sum(a.counters.accepted_steps for a in answers)
    difference = policy.difference
    batch_speed = policy.speed.throughput_speedup
    one_speed = policy.speed.latency_speedup
    return {
        "part": part,
        "policy": policy.label,
        "parameters": policy.parameters,
        "accuracy": plain_numbers(policy.accuracy),
        "gain_over_exact": None if difference is None else plain_numbers(difference.gain),
        "p_values": None if difference is None else difference.p_values,
        "speed_over_exact": plain_numbers(one_speed if part == "latency" else batch_speed),
        "target_passes": round(policy.work.target_passes, 3),
        "target_tokens": round(policy.work.target_tokens, 2),
        "draft_passes": round(policy.work.draft_passes, 2),
        "accepted_steps": round(accepted / steps, 4) if steps else None,
    }


def report(settings: Settings) -> None:
    """Write the result file from the runs that there are; parts that are not stay as they were."""
    old = read_json(RESULTS / "specguard.json") or {}
    runs = {
        part: records.read(settings.folder / part)
        for part in PART_SEEDS
        if (settings.folder / part).exists()
    }
    summaries = {part: summarise(results, bootstrap=2_000) for part, results in runs.items()}
    rows = [r for r in old.get("rows", []) if r["part"] not in runs]
    rows += [
        row(part, policy, runs[part])
        for part, summary in summaries.items()
        for policy in summary.policies
    ]
    rows.sort(key=lambda r: list(PART_SEEDS).index(r["part"]))
    figures: dict[str, float] = old.get("figures", {})
    best = old.get("best_plain_rule", "")
    if "greedy" in runs:
        best = max(RULES, key=lambda label: accuracy(summaries["greedy"], label))
        figures |= of_greedy(runs, summaries, rows, best, settings)
    if "sampled" in runs:
        figures |= {
            "accuracy_specguard_paper": accuracy(summaries["sampled"], "specguard as published"),
            "accuracy_target_majority": accuracy(summaries["sampled"], "target majority of 5"),
            "accuracy_draft_majority": accuracy(summaries["sampled"], "draft majority of 5"),
            "seeds": whole_seeds(runs["sampled"]),
        }
    if "rewards" in runs:
        figures |= against_rewards(runs["rewards"], summaries["rewards"].policies)
    limits = read_json(settings.folder / "limit.json") or old.get("limit")
    if limits is not None:
        figures["saved_by_a_draft_step"] = round(limits["saved"] / figures["problems"], 4)
    signals = read_json(RESULTS / "signals.json")
    if signals is not None:
        figures["signal_overhead"] = signals["figures"]["signal_overhead_bundled"]
    told = {note.split(":")[0]: note for note in [*old.get("notes", []), *notes(runs)]}
    more = {"best_plain_rule": best, "limit": limits, "notes": list(told.values())}
    print(write("specguard", rows, figures, **more))


def of_greedy(
    runs: dict[str, records.Results],
    summaries: dict[str, Summary],
    rows: list[dict[str, Any]],
    best: str,
    settings: Settings,
) -> dict[str, float]:
    """Accuracy without sampling, and time beside others."""
    summary = summaries["greedy"]
    guarded, exact = found(summary, "specguard"), accuracy(summary, "exact")
    assert guarded.difference is not None
    ours = next(r for r in rows if r["policy"] == "specguard" and r["part"] == "greedy")
    figures: dict[str, float] = {
        "accuracy_target": accuracy(summary, "target"),
        "accuracy_draft": accuracy(summary, "draft"),
        "accuracy_exact": exact,
        "accuracy_rsd": accuracy(summary, "reward-guided"),
        "accuracy_spec_reason": accuracy(summary, "spec-reason"),
        "accuracy_specguard": accuracy(summary, "specguard"),
        "accuracy_specguard_greedy": accuracy(summary, "specguard as published, greedy"),
        "relative_gain_over_exact": round(accuracy(summary, "specguard") / exact - 1, 4),
        "p_value_over_exact": round(guarded.difference.p_values[0], 4),
        "accuracy_best_plain_rule": accuracy(summary, best),
        "target_step_share": round(1 - ours["accepted_steps"], 4),
        "problems": summary.questions,
    }
    others = {
        "rsd": "reward-guided",
        "exact": "exact",
        "target": "target",
        "best_plain_rule": best,
        "no_inner_speculation": "without inner speculation",
    }
    for name, other in others.items():
        many = seconds_ratio(runs["greedy"], "specguard", other, whole=True)
        figures[f"latency_ratio_to_{name}_batch_{settings.batch}"] = round(many.value, 4)
        if "latency" in runs and other in {p.label for p in runs["latency"].run.policies}:
            one = seconds_ratio(runs["latency"], "specguard", other, whole=False)
            figures[f"latency_ratio_to_{name}"] = round(one.value, 4)
    return figures


def found(summary: Summary, label: str) -> PolicySummary:
    """What a part says of a contender."""
    return next(p for p in summary.policies if p.label == label)


def accuracy(summary: Summary, label: str) -> float:
    value = found(summary, label).accuracy
    assert value is not None
    return round(value.value, 4)


def against_rewards(
    results: records.Results, policies: Sequence[PolicySummary]
) -> dict[str, float]:
    """Our seconds over those of the fastest reward-guided setting that is about as accurate.

    The setting is picked on the very problems that are reported: in its favour, not in ours. Where
    none is as accurate, the most accurate one is taken.
    """
    right = {p.label: p.accuracy.value for p in policies if p.accuracy is not None}
    seconds = {
        label: seconds_ratio(results, "specguard", label, whole=True).value
        for label in right
        if " at " in label
    }
    good = [name for name in seconds if right[name] >= right["specguard"] - AS_ACCURATE]
    # The largest of our ratios is of the fastest opponent.
    chosen = max(good or [max(seconds, key=right.__getitem__)], key=seconds.__getitem__)
    return {
        "accuracy_rsd_strict": round(right[chosen], 4),
        "accuracy_lost_by_rsd_strict": round(right["specguard"] - right[chosen], 4),
        "latency_ratio_to_rsd_strict": round(seconds[chosen], 4),
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """A file of another part, if it was run."""
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return found


def whole_seeds(results: records.Results) -> int:
    """Seeds under which every contender answered every question."""
    run = results.run
    found = {(a.policy, a.question, a.seed) for a in results.answers}
    return sum(
        all((p.label, q.id, seed) in found for p in run.policies for q in run.questions)
        for seed in run.seeds
    )


def notes(runs: dict[str, records.Results]) -> list[str]:
    return [
        f"{part}: {len(results.run.questions)} problems, batch {results.run.batch}, seeds "
        f"{results.run.seeds}, {whole_seeds(results)} of them complete"
        for part, results in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=[*PART_SEEDS, "limit", "report"])
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--latency-problems", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=16, help="of the published setting")
    parser.add_argument("--folder", type=Path, default=Path(".cache/specguard"))
    parser.add_argument("--steps", type=Path, default=Path(".cache/calibration/steps.jsonl"))
    given = parser.parse_args()
    settings = Settings(
        given.problems, given.few, given.latency_problems, given.batch, given.folder, given.steps
    )
    for part in [given.part] if given.part else [*PART_SEEDS, "limit", "report"]:
        if part == "limit":
            limit(settings)
        elif part == "report":
            report(settings)
        else:
            run(part, settings, given.candidates)


if __name__ == "__main__":
    main()
