"""The parts of `specguard.py`: what is run, each resumable, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _pairs import STUDY, control_seed, load, task_of
from _progress import go, tell
from scipy.stats import rankdata

from stet.calibration.calibrate import calibrate
from stet.calibration.choosing import Wish
from stet.calibration.request import CalibrateRequest
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.calibration.samples import read, steps_of
from stet.core.policy import values_of
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.tasks.base import LoadedTask
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

UNTRAINED = "calibration-untrained"
"""Folder of a calibration without a trained signal."""

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
        root: of the runs of all pairs.
        steps: labelled steps of the bundled pair's calibration, for the thresholds of single
            signals.
        pair: name of the pair.
        calibration: problems that its policy is calibrated on; the bundled pair's ships.
    """

    problems: int
    few: int
    latency_problems: int
    batch: int
    root: Path
    steps: Path
    pair: str
    calibration: int

    @property
    def folder(self) -> Path:
        """The folder of this pair."""
        return self.root if self.pair == "bundled" else self.root / self.pair

    @property
    def result(self) -> str:
        """The name of its result file."""
        return "specguard" if self.pair == "bundled" else f"specguard_{self.pair}"

    @property
    def calibrated(self) -> Path:
        """The calibration of this pair, where it has one of its own."""
        return self.folder / "calibration"

    @property
    def labelled(self) -> Path:
        """The labelled steps of its calibration."""
        return self.steps if self.pair == "bundled" else self.calibrated / "steps.jsonl"

    @property
    def head(self) -> str:
        """The reward on its draft's hidden states."""
        seed = control_seed(self.pair)
        return (
            "head" if seed is None else str(STUDY / "control" / f"rewards-{seed}" / "reward_head")
        )

    @property
    def thresholds(self) -> dict[str, tuple[float, ...]]:
        """The thresholds that each reward is tried with."""
        own = {self.head: HEAD_THRESHOLDS}
        return own | {"bundled": MODEL_THRESHOLDS} if self.pair == "bundled" else own

    def policy(self) -> SpecGuard:
        """The calibrated policy; a control pair's also has a trained signal."""
        if self.pair == "bundled":
            return SpecGuard.bundled()
        return SpecGuard.load(self.calibrated / "policy.json")

    def untrained(self) -> SpecGuard | None:
        """The policy that was calibrated without a trained signal, where there is one beside it."""
        path = self.folder / UNTRAINED / "policy.json"
        return SpecGuard.load(path) if path.exists() else None

    def task(self, split: str, count: int) -> LoadedTask:
        """Problems of the kind that the pair was trained on."""
        return task_of(self.pair, split, count, self.folder, family="bundled")


def named(name: str, label: str | None = None, **values: Any) -> Contender:
    return contender(name, values, label=label)


def specguard(policy: SpecGuard, label: str) -> Contender:
    values = values_of(policy)
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


def stepwise(settings: Settings) -> list[Contender]:
    """Step by step, greedily."""
    return [
        specguard(settings.policy(), "specguard"),
        named("specguard.greedy", "specguard as published, greedy", delimiter="\n"),
        named("specguard.overruling", "specguard, nothing fitted"),
        named("reward-guided", "reward-guided", reward=settings.head),
        named("spec-reason", "spec-reason"),
    ]


def ablations(settings: Settings) -> list[Contender]:
    """The calibrated policy with one part changed."""
    policy = settings.policy()
    by_target = replace(policy, scorer="target", signals=(), weights=(), ranges=(), overrule=None)
    untrained = settings.untrained()
    beside = [] if untrained is None else [specguard(untrained, "without the trained signal")]
    if policy.compares:
        beside.append(specguard(replace(policy, overrule=None), "without overruling"))
    return [
        *beside,
        specguard(replace(policy, speculate=False), "without inner speculation"),
        specguard(replace(policy, lower=None, overrule=None), "draft's signals alone"),
        specguard(by_target, "target's reading alone"),
    ]


def single_signals(settings: Settings) -> list[Contender]:
    """Every signal by itself, at the threshold that accepts half of the calibration's steps."""
    policy = settings.policy()
    labelled = steps_of(read(settings.labelled))
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


PUBLISHED = "specguard as published"


def published(candidates: int) -> dict[str, Any]:
    """What the published policy takes on these problems, whose steps are lines."""
    return {"delimiter": "\n", "candidates": candidates, "target_candidates": candidates}


def sampled(candidates: int) -> list[Contender]:
    """The contenders that draw answers or candidates."""
    paper = published(candidates)
    return [
        named("exact"),
        named("majority", "target majority of 5"),
        named("majority", "draft majority of 5", of="draft"),
        named("specguard.paper", PUBLISHED, **paper),
    ]


def selectors(candidates: int) -> list[Contender]:
    """The published policy with one part changed."""
    paper = published(candidates)
    return [
        named("exact"),
        named("specguard.paper", f"{PUBLISHED}, first candidate", **paper | {"selector": "first"}),
        named("specguard.paper", f"{PUBLISHED}, vote", **paper | {"selector": "vote"}),
        named(
            "specguard.paper", f"{PUBLISHED}, one of the target", **paper | {"target_candidates": 1}
        ),
    ]


def rewards(settings: Settings) -> list[Contender]:
    """Reward-guided decoding from its published threshold to the strictest."""
    found = [named("exact"), specguard(settings.policy(), "specguard")]
    for reward, thresholds in settings.thresholds.items():
        title = "reward model" if reward == "bundled" else "head"
        found += [
            named("reward-guided", f"{title} at {t:g}", reward=reward, threshold=t)
            for t in thresholds
        ]
    return found


def latency(settings: Settings) -> list[Contender]:
    return [*plain(), *stepwise(settings)]


def plan(part: str, settings: Settings, candidates: int) -> Plan:
    """The plan of a part."""
    few = {"latency": settings.latency_problems, "signals": settings.few, "selectors": settings.few}
    count = few.get(part, settings.problems)
    task = settings.task("test", count)
    contenders = {
        "greedy": lambda: [*plain(), *stepwise(settings), *ablations(settings)],
        "sampled": lambda: sampled(candidates),
        "signals": lambda: single_signals(settings),
        "selectors": lambda: selectors(candidates),
        "latency": lambda: latency(settings),
        "rewards": lambda: rewards(settings),
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


def pair_for(plan: Plan, settings: Settings) -> Pair:
    """A pair with room for all candidates and samples."""
    rows = max(rows_of(c.policy) * c.samples for c in plan.contenders) * plan.batch
    most = plan.batch * max(c.samples for c in plan.contenders)
    return load(settings.pair, max_batch=most, max_rows=min(rows, 160))


def run(part: str, settings: Settings, candidates: int) -> None:
    """Run a part, or go on with it."""
    chosen = plan(part, settings, candidates)
    go(Comparison(pair_for(chosen, settings), chosen, settings.folder / part), part)


# The calibration of a pair that ships none


def calibration(settings: Settings) -> None:
    """Calibrate the policy on problems of the pair, for its accuracy; the bundled one ships.

    Once with a trained signal, which is the head that `reward-guided` goes by, and once without.
    What is rejected may overrule its target.
    """
    if settings.pair == "bundled":
        return
    base = SpecGuard.overruling(delimiter="\n", lower=0.0)
    for folder, head in ((settings.calibrated, settings.head), (settings.folder / UNTRAINED, None)):
        request = CalibrateRequest(
            settings.task("calibration", settings.calibration),
            Wish("accuracy"),
            replace(base, head=head),
            batch=settings.batch,
            command=f"python benchmarks/specguard.py --pair {settings.pair} calibrate",
        )
        found = calibrate(load(settings.pair, max_batch=settings.batch), request, folder, tell)
        found.save(folder / "policy.json")


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
    pair = load(settings.pair, max_batch=settings.batch)
    task = settings.task("test", settings.problems).suited(pair)
    assert task.grader is not None
    rollouts = Rollouts(pair, task.grader, task.max_new_tokens, task.stop)
    policy = replace(settings.policy(), shadow=True)
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
