"""May a rule on steps overrule its target? Both models write every step, and a score chooses.

    python benchmarks/step_choice.py [--seeds 0 1 2] [--learn 1500] [--problems 400]

SpecGuard asks of the draft's step alone whether it is good enough; the target's own step stands
unseen. Here, on the control pairs, draft and target both write the next step greedily, and where
they differ a score of both steps says whose stands: a head on hidden states of the draft, of the
target or of both, fitted to steps whose outcomes are known; or the mean log-probability that both
models give a step. Beside them what SpecGuard does: a threshold on the score of the draft's step.
Heads and thresholds are fitted to calibration problems, and all is tried on validation problems:
this is about the method, and the test problems stay unseen. One step at a time, without speed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import numpy as np
import torch
from _pairs import CONTROL_SEEDS, PAIRS, load, task_of
from _progress import tell
from _record import write
from torch import Tensor
from transformers import AutoModelForCausalLM

from stet.calibration.head_fitting import Examples, fit_head
from stet.calibration.quality import auroc
from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.evaluation.statistics import Resamples, gain
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair
from stet.requests.options import PINNED
from stet.rewards.head import HeadNet, padded

LONGEST = 48
"""The most tokens of a step."""

STEPS = 16
"""The most steps of an answer."""

BATCH = 64
SIDES = ("draft", "target")
KINDS = ("draft", "target", "both")
"""Whose hidden states a head reads."""

MARGINS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""By so much the draft's step must be the better one; the best on the calibration problems is
taken."""


@dataclass
class Answer:
    """An answer that is written step by step.

    Attributes:
        prompt: tokens of the question.
        reference: the right answer.
        written: its tokens so far.
        ended: whether it is whole.
    """

    prompt: tuple[int, ...]
    reference: str
    written: tuple[int, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class Choice:
    """A place where the models' next steps differ.

    Attributes:
        answer: the answer so far.
        steps: the draft's next step and the target's, as tokens.
    """

    answer: Answer
    steps: tuple[tuple[int, ...], tuple[int, ...]]


Reading = tuple[Tensor, Tensor, float]
"""Of a step: hidden states of draft and target [T, D], and its mean log-probability."""

Readers = tuple[Any, Any]
"""Draft and target as transformers has them, which tell all hidden states."""

Rule = Callable[[Sequence[Choice]], list[bool]]
"""Whether the draft's step stands, for each choice."""


@dataclass
class Walker:
    """Answers questions step by step, by a rule that chooses between both models' steps."""

    pair: Pair
    task: LoadedTask
    readers: Readers
    ends: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.task = self.task.suited(self.pair)
        self.ends = frozenset(self.pair.end_tokens)

    def start(self) -> list[Answer]:
        """An answer to each question, of which nothing is written."""
        asked = self.task.questions
        return [Answer(prompt_of(self.pair, self.task, q), q.reference or "") for q in asked]

    def walk(self, rule: Rule) -> list[Answer]:
        """Answer all questions."""
        answers = self.start()
        for _ in range(STEPS):
            open_ones = [a for a in answers if not a.ended]
            if not open_ones:
                break
            drafts, targets = (self.next_steps(open_ones, side) for side in SIDES)
            every = zip(open_ones, drafts, targets, strict=True)
            choices = [Choice(a, (d, t)) for a, d, t in every if d != t]
            taken = iter(rule(choices))
            for answer, draft, target in zip(open_ones, drafts, targets, strict=True):
                step = draft if draft != target and next(taken) else target
                answer.written += step
                answer.ended = not step or step[-1] in self.ends
        return answers

    def next_steps(self, answers: Sequence[Answer], side: str) -> list[tuple[int, ...]]:
        """The next step that a model writes of each answer."""
        prompts = [[*a.prompt, *a.written] for a in answers]
        results = self.pair.generate(prompts, side, max_new_tokens=LONGEST, **PINNED)
        return [self._first_line(result.token_ids) for result in results]

    def _first_line(self, tokens: Sequence[int]) -> tuple[int, ...]:
        for place, token in enumerate(tokens):
            if token in self.ends or "\n" in self.pair.tokenizer.decode([token]):
                return tuple(tokens[: place + 1])
        return tuple(tokens)

    def right(self, answers: Sequence[Answer]) -> np.ndarray:
        """Whether each answer is right."""
        grader = self.task.grader
        assert grader is not None
        texts = [
            self.pair.tokenizer.decode(list(a.written), skip_special_tokens=True) for a in answers
        ]
        graded = zip(texts, answers, strict=True)
        return np.array([grader.right(grader.extract(t), a.reference) for t, a in graded])


@torch.no_grad()
def readings(models: Readers, choices: Sequence[Choice], side: int) -> list[Reading]:
    """What both models say of one step of each choice.

    Args:
        models: draft and target.
        choices: whose steps are read.
        side: 0 for the draft's step, 1 for the target's.
    """
    found: list[Reading] = []
    for start in range(0, len(choices), BATCH):
        some = choices[start : start + BATCH]
        texts = [[*c.answer.prompt, *c.answer.written, *c.steps[side]] for c in some]
        longest = max(map(len, texts))
        ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in texts])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        states, logprobs = [], []
        for model in models:
            out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            states.append(out.hidden_states[-1].float())
            logprobs.append(out.logits.float().log_softmax(-1))
        for row, (choice, text) in enumerate(zip(some, texts, strict=True)):
            step = choice.steps[side]
            drawn = slice(len(text) - len(step) - 1, len(text) - 1)
            own = torch.tensor(step)[:, None]
            both = [lp[row, drawn].gather(1, own).mean() for lp in logprobs]
            hidden = (states[0][row, drawn], states[1][row, drawn])
            found.append((*hidden, float(sum(both)) / 2))
    return found


@dataclass(frozen=True)
class Scores:
    """Heads by whose states they read."""

    heads: dict[str, HeadNet]

    def of(self, kind: str, reading: Reading) -> float:
        """The score of a step; `kind` names a head, or "log-probability"."""
        if kind == "log-probability":
            return reading[2]
        with torch.no_grad():
            return float(self.heads[kind](*padded([states_of(kind, reading)]))[0])


def states_of(kind: str, reading: Reading) -> Tensor:
    """[T, D] of the draft, of the target, or of both side by side."""
    draft, target, _ = reading
    return {"draft": draft, "target": target, "both": torch.cat([draft, target], 1)}[kind]


def prefix_of(choice: Choice, side: int) -> Prefix:
    """The answer with one of both steps."""
    answer = choice.answer
    return Prefix(answer.prompt, answer.written + choice.steps[side], answer.reference)


def learn(walker: Walker, seed: int) -> tuple[Scores, dict[str, Any], list[dict[str, Any]]]:
    """Fit heads to steps at which the models differ, met by answers with steps drawn at random.

    Returns:
        The heads; what is known of them; and of each choice the scores of both steps, of which each
        is by heads that have not seen its question, with their outcomes.
    """
    chance, met = random.Random(seed), []

    def either(choices: Sequence[Choice]) -> list[bool]:
        for choice in choices:  # a copy, for its answer goes on
            met.append(replace(choice, answer=replace(choice.answer)))
        return [chance.random() < 0.5 for _ in choices]

    walker.walk(either)
    assert walker.task.grader is not None
    rollouts = Rollouts(walker.pair, walker.task.grader, walker.task.max_new_tokens)
    sides = [readings(walker.readers, met, side) for side in (0, 1)]
    good: list[list[bool]] = [[], []]
    for start in range(0, len(met), 4 * BATCH):
        some = met[start : start + 4 * BATCH]
        for side in (0, 1):
            good[side] += rollouts.sound([prefix_of(choice, side) for choice in some])
        tell(f"seed {seed}, outcomes", start + len(some), len(met))
    problem = [str(c.answer.prompt) for c in met]
    heads, rated = {}, {}
    for kind in KINDS:
        every = [states_of(kind, r) for side in sides for r in side]
        net, logits = fit_head(Examples(every, [*good[0], *good[1]], [*problem, *problem]), seed)
        heads[kind], rated[kind] = net, (logits[: len(met)], logits[len(met) :])
    rated["log-probability"] = tuple([r[2] for r in side] for side in sides)
    open_ones = [i for i in range(len(met)) if good[0][i] != good[1][i]]
    about: dict[str, Any] = {
        "choices": len(met),
        "draft only": sum(good[0][i] for i in open_ones),
        "target only": sum(good[1][i] for i in open_ones),
    }
    for kind, (draft, target) in rated.items():
        apart = np.array([draft[i] - target[i] for i in open_ones])
        mine = np.array([good[0][i] for i in open_ones])
        # Of a choice at which one step alone is right: does the score of both tell whose?
        about[f"auroc of the difference, {kind}"] = auroc(apart[mine], apart[~mine])
        alone = np.array([draft[i] for i in open_ones])
        about[f"auroc of the draft's step, {kind}"] = auroc(alone[mine], alone[~mine])
    known = [
        {"good": (good[0][i], good[1][i]), **{k: (d[i], t[i]) for k, (d, t) in rated.items()}}
        for i in range(len(met))
    ]
    return Scores(heads), about, known


def best_margin(known: Sequence[dict[str, Any]], kind: str, *, alone: bool) -> float:
    """The margin of the score at which most choices are right; `alone`: of the draft's step's."""

    def value(entry: dict[str, Any]) -> float:
        draft, target = entry[kind]
        return float(draft if alone else draft - target)

    values = [value(k) for k in known]
    spread = float(np.std(values))
    tried = (
        [float(np.quantile(values, q)) for q in np.linspace(0.02, 0.98, 25)]
        if alone
        else [m * spread for m in MARGINS]
    )

    def right(margin: float) -> int:
        return sum(k["good"][0 if v >= margin else 1] for k, v in zip(known, values, strict=True))

    return max(tried, key=right)


def rules(models: Readers, scores: Scores, known: Sequence[dict[str, Any]]) -> dict[str, Rule]:
    """Every rule that is tried."""

    def by(kind: str, *, alone: bool) -> Rule:
        margin = best_margin(known, kind, alone=alone)

        def rule(choices: Sequence[Choice]) -> list[bool]:
            drafts, targets = (readings(models, choices, side) for side in (0, 1))
            found = []
            for draft, target in zip(drafts, targets, strict=True):
                value = scores.of(kind, draft)
                found.append((value if alone else value - scores.of(kind, target)) >= margin)
            return found

        return rule

    found: dict[str, Rule] = {
        "target": lambda choices: [False] * len(choices),
        "draft": lambda choices: [True] * len(choices),
    }
    for kind in (*KINDS, "log-probability"):
        named = kind if kind == "log-probability" else f"head on states of {kind}"
        found[f"draft's step alone, {named}"] = by(kind, alone=True)
        found[f"better of both, {named}"] = by(kind, alone=False)
    return found


def main() -> None:
    """Try every rule on every pair, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=CONTROL_SEEDS)
    parser.add_argument("--learn", type=int, default=1500, help="calibration problems")
    parser.add_argument("--problems", type=int, default=400, help="validation problems")
    parser.add_argument("--root", type=Path, default=Path(".cache/step_choice"))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    learnt: dict[str, Any] = {}
    for seed in options.seeds:
        name = f"control-{seed}"
        pair = load(name, max_batch=BATCH)
        draft, target = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            for folder in reversed(PAIRS[name])
        )
        readers = (draft, target)
        splits = {"calibration": options.learn, "validation": options.problems}
        taught, tried = (
            Walker(pair, task_of(name, split, count, options.root / name), readers)
            for split, count in splits.items()
        )
        scores, learnt[name], known = learn(taught, seed)
        every = rules(readers, scores, known)
        right: dict[str, np.ndarray] = {}
        for number, (label, rule) in enumerate(every.items(), 1):
            right[label] = tried.right(tried.walk(rule))
            tell(f"seed {seed}, rules", number, len(every))
        rows += rows_of(name, right)
    print(write("step_choice", rows, figures_of(rows), learnt=learnt))


def rows_of(pair: str, right: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each rule: its accuracy, and that of a choice over the same score of one step."""
    rows: list[dict[str, Any]] = []
    for label, own in right.items():
        row: dict[str, Any] = {
            "pair": pair,
            "policy": label,
            "accuracy": round(float(own.mean()), 4),
        }
        other = label.replace("better of both", "draft's step alone")
        if other != label:
            base = right[other]
            ones = np.ones(len(own))
            found = gain(own & ~base, base & ~own, ones, Resamples(10_000))
            row["over_one_step"] = {
                "points": round(100 * found.value, 2),
                "low": None if found.low is None else round(100 * found.low, 2),
                "high": None if found.high is None else round(100 * found.high, 2),
            }
        rows.append(row)
    return rows


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean over the pairs of each rule's accuracy."""
    labels = dict.fromkeys(row["policy"] for row in rows)
    return {
        label: round(float(np.mean([r["accuracy"] for r in rows if r["policy"] == label])), 4)
        for label in labels
    }


if __name__ == "__main__":
    main()
