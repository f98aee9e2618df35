"""The parts of `cospec.py`: what is run, each resumable, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _cospec_overhead import measure_overhead
from _pairs import control_seed, load, task_of
from _progress import go, tell
from _record import RESULTS
from _router import fit as fit_router

from stet.arbiter import DEFAULT, Arbiter, Network
from stet.evaluation import records
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.tasks import load_task
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair
from stet.training.branches import Brancher, Branches
from stet.training.measuring import Measured, Measuring, choose
from stet.training.oracle import Oracle
from stet.training.request import CURVE, Method, TrainRequest
from stet.training.rollout_policy import RolloutPolicy
from stet.training.training import train

SWEEPS: dict[str, list[dict[str, Any]]] = {
    "confident": [{"margin": m} for m in (-0.4, -0.2, 0.0, 0.2, 0.4)],
    "ensemble": [{"weight": w} for w in (0.2, 0.35, 0.5)],
    "cosd": [{"alpha": a, "beta": b} for a in (0.5, 1.0, 1.5) for b in (0.4, 0.6)],
    "typical": [{"epsilon": e, "delta": d} for e in (0.1, 0.3) for d in (0.09, 0.3)],
    "top-k": [{"k": k, "delta": d} for k in (2, 3) for d in (0.3, 1.0)]
    + [{"k": 5, "delta": d} for d in (1.5, 2.0, 2.5)],
    "fly": [{"entropy": e, "window": w} for e in (0.3, 0.6) for w in (3, 6)],
    "fuzzy": [{"threshold": t} for t in (0.02, 0.05, 0.1, 0.2)],
    "speculative-cascade": [
        {"rule": rule, "cost": cost}
        for rule, costs in (
            ("chow", (0.1, 0.3, 0.5)),
            ("difference", (-0.1, 0.0, 0.2)),
            ("optimal", (0.0, 0.2, 0.5)),
        )
        for cost in costs
    ],
}
"""Settings of every neighbouring rule that are tried on validation problems."""

WITH_STATES = (*DEFAULT, "target_hidden", "draft_hidden")
"""Features of an arbiter that can know where in an answer it is."""

BESIDE = {"hidden": "with hidden states", "numbers": "without hidden states"}
"""In tables, arbiters with the other features."""

SEEDS = (0, 1, 2)
WITHIN = 0.005
"""Of settings within so much of the best accuracy, the one with most tokens per pass is taken."""

SHARES = (0, 1)
"""The test problems are dealt to so many runs, which may go on side by side."""

LENGTHS: tuple[int | str, ...] = ("auto", 4, 8, 12, 16, 24)
"""Tokens of a block that `exact` and `cospec` are tried with, one problem at a time."""


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        pair: name of the pair.
        problems: of the test split.
        tuning: validation problems that a rule's setting is chosen on.
        training: questions that an arbiter is trained on.
        oracle: test problems that the oracle searches.
        pace: validation problems on which the length of blocks is tuned.
        speed: test problems that are solved one at a time.
        batch: problems at a time, elsewhere.
        seeds: of the arbiters that the part `train` makes.
        shares: of the test that are run; each is a run of its own.
        warm: whether warm starts are tested beside what policy gradient made of them.
        root: of everything.
        rules: which the part `again` measures.
        method: of improving on the warm start.
    """

    pair: str
    problems: int
    tuning: int
    training: int
    oracle: int
    pace: int
    speed: int
    batch: int
    seeds: Sequence[int]
    shares: Sequence[int]
    warm: bool
    root: Path
    rules: Sequence[str] = ()
    method: Method = "groups"

    @property
    def others(self) -> str:
        """What arbiters with the other features are called, in folders and tables."""
        return "hidden" if control_seed(self.pair) is None else "numbers"

    def features(self, *, others: bool = False) -> tuple[str, ...]:
        """Features of the arbiters, or of those beside them.

        Numbers about two distributions do not tell what kind of step it is; on a control pair all
        hangs on that, so its arbiters also read hidden states.
        """
        return WITH_STATES if (control_seed(self.pair) is None) == others else DEFAULT

    @property
    def folder(self) -> Path:
        """The folder of this pair."""
        return self.root / self.pair

    def task(self, split: str, count: int, seed: int = 0) -> LoadedTask:
        """Problems of the kind that the pair was trained on."""
        return task_of(self.pair, split, count, self.folder, seed)

    def load(self, batch: int | None = None) -> Pair:
        """The pair, with room for a batch."""
        return load(self.pair, max_batch=batch or self.batch)


def named(name: str, label: str | None = None, **values: Any) -> Contender:
    return contender(name, values, label=label)


# Tuning the rules


def tune(settings: Settings) -> None:
    """Run every setting of every rule on validation problems."""
    task = settings.task("validation", settings.tuning)
    rules = [named(name, None, **values) for name, sweep in SWEEPS.items() for values in sweep]
    run("tune", task, [named("exact"), *rules], settings)


def tuned(settings: Settings) -> list[Contender]:
    """For each rule the setting that did best on validation problems."""
    results = records.read(settings.folder / "tune")
    return [named(name, name, **best_of(results, name).parameters) for name in SWEEPS]


def best_of(results: records.Results, name: str) -> records.PolicyEntry:
    """The fastest of a rule's settings that have about the most right answers."""
    entries = [p for p in results.run.policies if p.name == name]
    scores = {e.label: score(results, e.label) for e in entries}
    most = max(accuracy for accuracy, _ in scores.values())
    good = [e for e in entries if scores[e.label][0] >= most - WITHIN - 1e-9]
    return max(good, key=lambda e: scores[e.label][1])


def best_rule(settings: Settings) -> str:
    """The rule that was most accurate on validation problems: the arbiter is compared with it."""
    results = records.read(settings.folder / "tune")
    chosen = {c.label: c.entry.parameters for c in tuned(settings)}
    labels = {
        name: next(
            e.label for e in results.run.policies if e.name == name and e.parameters == values
        )
        for name, values in chosen.items()
    }
    return max(labels, key=lambda name: score(results, labels[name]))


def score(results: records.Results, label: str) -> tuple[float, float]:
    """Accuracy and tokens per pass."""
    answers = [a for a in results.answers if a.policy == label]
    tokens = sum(a.counters.emitted_tokens for a in answers)
    passes = sum(a.counters.target_passes for a in answers)
    return sum(bool(a.right) for a in answers) / len(answers), tokens / max(passes, 1)


# Training


def trainings(settings: Settings) -> None:
    """Train an arbiter under each seed."""
    pair = settings.load()
    for seed in settings.seeds:
        train(pair, request_of(settings, seed), settings.folder / f"train-{seed}", tell)


def others(settings: Settings) -> None:
    """The same with the other features: with hidden states, or on a control pair without them."""
    pair = settings.load()
    for seed in settings.seeds:
        request = replace(request_of(settings, seed), features=settings.features(others=True))
        train(pair, request, settings.folder / f"{settings.others}-{seed}", tell)


def judge(settings: Settings) -> None:
    """Train AutoJudge: an arbiter that is to leave the target's own answers as they are."""
    request = replace(request_of(settings, 0), labels="target", method="none")
    train(settings.load(), request, settings.folder / "autojudge", tell)


def shuffle(settings: Settings) -> None:
    """Train an arbiter as the others are, on labels that are dealt at random."""
    request = replace(request_of(settings, 0), labels="shuffled", method="none")
    train(settings.load(), request, settings.folder / "shuffled", tell)


def route(settings: Settings) -> None:
    """Fit a question router to what both models answer right, and let it choose for the test."""
    asked = settings.task("policy_train", settings.training)
    run("route", asked, [named("target"), named("draft")], settings)
    answers = records.read(settings.folder / "route").answers
    right = {(a.policy, a.question): bool(a.right) for a in answers}
    prompts = [q.prompt for q in asked.questions]
    router = fit_router(
        prompts, *([right[name, q.id] for q in asked.questions] for name in ("target", "draft"))
    )
    task = settings.task("test", settings.problems)
    chosen = router.chooses_draft([q.prompt for q in task.questions])
    found = {q.id: "draft" if d else "target" for q, d in zip(task.questions, chosen, strict=True)}
    record = {
        "telling": router.questions,
        "words": len(router.words),
        "strength": router.strength,
        "to_the_draft": sum(chosen) / len(chosen),
        "chosen": found,
    }
    (settings.folder / "router.json").write_text(json.dumps(record) + "\n", encoding="utf-8")


def aim(settings: Settings) -> None:
    """Run AutoJudge at every threshold, graded by right answers as the rules' settings are."""
    task = settings.task("validation", settings.tuning)
    arbiter = str(settings.folder / "autojudge/policy")
    chosen = [
        named("autojudge", f"autojudge at {bar}", arbiter=arbiter, threshold=bar) for bar in CURVE
    ]
    run("aim", task, [named("exact"), *chosen], settings)


def request_of(settings: Settings, seed: int) -> TrainRequest:
    """The request for a training under a seed."""
    return TrainRequest(
        settings.task("policy_train", settings.training, seed),
        settings.task("validation", settings.tuning),
        features=settings.features(),
        method=settings.method,
        batch=settings.batch,
        seed=seed,
        command="python benchmarks/cospec.py train",
    )


# The test


def warm_threshold(folder: Path) -> float:
    """The threshold that the training would have written had it ended with the warm start."""
    record = json.loads((folder / "training.json").read_text())
    return choose([Measured(**entry) for entry in record["warm"]], WITHIN).threshold


def arbiters(settings: Settings) -> list[Contender]:
    """The warm start and arbiter of each seed, and AutoJudge's, where those parts were run."""
    found: list[Contender] = []
    for seed in SEEDS:
        folder = settings.folder / f"train-{seed}"
        if not (folder / "policy").exists():
            continue
        if settings.warm:
            warm = {"arbiter": str(folder / "warm"), "threshold": warm_threshold(folder)}
            found.append(named("cospec", f"warm start {seed}", **warm))
        found.append(named("cospec", f"cospec {seed}", arbiter=str(folder / "policy")))
        beside = settings.folder / f"{settings.others}-{seed}/policy"
        if beside.exists():
            found.append(named("cospec", f"{BESIDE[settings.others]} {seed}", arbiter=str(beside)))
    shuffled = settings.folder / "shuffled/policy"
    if shuffled.exists():
        found.append(named("cospec", "shuffled labels", arbiter=str(shuffled)))
    judge = settings.folder / "autojudge/policy"
    if judge.exists():
        found.append(named("autojudge", "autojudge", arbiter=str(judge)))
    if (settings.folder / "aim").exists():
        aimed = best_of(records.read(settings.folder / "aim"), "autojudge").parameters
        found.append(named("autojudge", "autojudge, tuned", **aimed))
    return found


def accepted_mismatch_rate(settings: Settings) -> float:
    """The accepted-mismatch rate of the first seed's arbiter, on its validation questions."""
    record = json.loads((settings.folder / "train-0" / "training.json").read_text())
    chosen = record["chosen"]
    return float(chosen["accepted_mismatches"] / chosen["mismatches"])


def contenders(settings: Settings) -> list[Contender]:
    """Every contender that decides about tokens."""
    return [
        named("target"),
        named("draft"),
        named("exact"),
        *tuned(settings),
        named("random", "random", rate=round(accepted_mismatch_rate(settings), 3)),
        *arbiters(settings),
    ]


def test(settings: Settings) -> None:
    """Everything on test problems, in batches."""
    task = settings.task("test", settings.problems)
    for share in settings.shares:
        dealt = replace(task, questions=task.questions[share :: len(SHARES)])
        run(f"test-{share}", dealt, contenders(settings), settings)


def again(settings: Settings) -> None:
    """Rules that have changed, tuned and tested anew beside the target; others stay as recorded."""
    task = settings.task("validation", settings.tuning)
    swept = [name for name in settings.rules if name in SWEEPS]
    tried = [named(name, None, **values) for name in swept for values in SWEEPS[name]]
    run("again-tune", task, [named("exact"), *tried], settings)
    results = records.read(settings.folder / "again-tune")
    chosen = [named(name, name, **best_of(results, name).parameters) for name in swept]
    rest = [name for name in settings.rules if name not in SWEEPS]
    chosen += [named(name, name, **recorded(settings.pair, name)) for name in rest]
    task = settings.task("test", settings.problems)
    run("again-test", task, [named("target"), named("exact"), *chosen], settings)


def recorded(pair: str, name: str) -> dict[str, Any]:
    """The parameters that a rule was tested with."""
    rows = json.loads((RESULTS / "cospec.json").read_text(encoding="utf-8"))["rows"]
    places = (pair, "test", name)
    row = next(r for r in rows if (r["pair"], r["part"], r["policy"]) == places)
    return dict(row["parameters"])


def inside(settings: Settings) -> None:
    """SpecGuard, which was calibrated on the bundled pair, and an arbiter in what it rewrites."""
    if settings.pair == "bundled":
        task = settings.task("test", settings.oracle)
        chosen = [
            named("target"),
            named("exact"),
            named("cospec", "cospec 0", arbiter=str(settings.folder / "train-0/policy")),
            named("specguard.bundled", "specguard"),
            named("specguard.bundled", "specguard with cospec inside", inner="cospec"),
        ]
        run("inside", task, chosen, settings)


def transfer(settings: Settings) -> None:
    """Run the arbiters on problems unlike those that they were trained on."""
    if control_seed(settings.pair) is not None:
        return  # whose problems are of one kind
    chosen = [
        named("target"),
        named("exact"),
        *(c for c in tuned(settings) if c.label == best_rule(settings)),
        *(c for c in arbiters(settings) if c.label.startswith("cospec")),
    ]
    for name, family, split in (
        ("templates", "stories", "out_of_template"),
        ("units", "units", "test"),
    ):
        task = load_task(family, split=split, count=settings.tuning)
        run(f"transfer-{name}", task, chosen, settings)


def run(
    part: str,
    task: LoadedTask,
    chosen: Sequence[Contender],
    settings: Settings,
    batch: int | None = None,
) -> None:
    """Run contenders on a task, or go on with it."""
    labels = [c.label for c in chosen]
    plan = Plan(
        task=task,
        contenders=list(chosen),
        reference="target" if "target" in labels else "exact",
        primary=[label for label in labels if label.startswith("cospec")],
        batch=batch or settings.batch,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )
    go(Comparison(settings.load(plan.batch), plan, settings.folder / part), part)


# Speed, one problem at a time


def pace(settings: Settings) -> None:
    """The length of blocks that suits each policy, on validation problems."""
    task = settings.task("validation", settings.pace)
    ours = str(settings.folder / "train-0/policy")
    chosen = [
        contender(name, values, label=f"{name} at {length}", options={"draft_length": length})
        for name, values in (("exact", {}), ("cospec", {"arbiter": ours}))
        for length in LENGTHS
    ]
    run("pace", task, [named("target"), *chosen], settings, batch=1)


def length_for(settings: Settings, name: str) -> int | str:
    """The length with most tokens per second."""
    results = records.read(settings.folder / "pace")

    def rate(length: int | str) -> float:
        answers = [a for a in results.answers if a.policy == f"{name} at {length}"]
        return sum(a.counters.emitted_tokens for a in answers) / sum(a.seconds for a in answers)

    return max(LENGTHS, key=rate)


def speed(settings: Settings) -> None:
    """Everything, one problem at a time, with blocks as long as suits each."""
    task = settings.task("test", settings.speed)
    lengths = {name: length_for(settings, name) for name in ("exact", "cospec")}
    chosen = [
        named("target"),
        named("draft"),
        contender("exact", label="exact", options={"draft_length": lengths["exact"]}),
        *tuned(settings),
        *(
            replace(c, options=(own := {"draft_length": lengths["cospec"]}), entry=with_(c, own))
            for c in arbiters(settings)
            if c.label.startswith("cospec")
        ),
    ]
    run("speed", task, chosen, settings, batch=1)


def with_(item: Contender, options: dict[str, Any]) -> records.PolicyEntry:
    return replace(item.entry, options=options)


# What could be gained, and whose token was right


def oracle(settings: Settings) -> None:
    """Run the oracle's search, and follow mismatches that the target finishes."""
    path = settings.folder / "oracle.json"
    pair = settings.load()
    task = settings.task("test", settings.oracle).suited(pair)
    places = range(len(task.questions))
    assert pair.draft is not None
    states = [m.model.config.get_text_config().hidden_size for m in (pair.target, pair.draft)]
    never = Arbiter(Network(len(DEFAULT) + sum(states)).requires_grad_(False), WITH_STATES)
    branches = Brancher(pair, task, RolloutPolicy(never, 1.0), settings.batch).collect(
        settings.folder / "oracle-branches",
        places,
        lambda done: tell("oracle, branches", done, len(places)),
    )
    if not path.exists():
        blind = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
        found = Oracle(pair, task, blind, batch=settings.batch).search(
            places, lambda done: tell("oracle, search", done, len(places))
        )
        path.write_text(json.dumps([asdict(s) for s in found]) + "\n", encoding="utf-8")
    found = agreements(branches, settings)
    (settings.folder / "agreement.json").write_text(json.dumps(found, indent=1) + "\n")


def agreements(branches: Branches, settings: Settings) -> dict[str, Any]:
    """How often each policy picks the token that leads to a right answer, where only one does.

    The target finishes both branches, so this is about single decisions in the target's own text.
    """
    telling = branches.where(branches.with_draft != branches.with_target)
    draft = telling.with_draft
    columns = {name: telling.features[:, i] for i, name in enumerate(DEFAULT)}
    picks = {
        "always target": torch.zeros_like(draft),
        "always draft": torch.ones_like(draft),
        "confident": columns["draft_draft"] > columns["target_target"],
    }
    for seed in SEEDS:
        folder = settings.folder / f"train-{seed}"
        for name, path in (
            ("warm start", folder / "warm"),
            ("cospec", folder / "policy"),
            (BESIDE[settings.others], settings.folder / f"{settings.others}-{seed}/policy"),
        ):
            if not path.exists():
                continue
            arbiter = Arbiter.load(path)
            bar = warm_threshold(folder) if path.name == "warm" else arbiter.threshold
            known = telling.features[:, : arbiter.network.inputs]  # the states come last
            picks[f"{name} {seed}"] = arbiter.logits_of(known).sigmoid() > bar
    return {
        "finished_by": "the target",
        "cells": branches.cells(),
        "disagreements": len(branches),
        "non_tie": len(telling),
        "agreement": {
            name: round(float((pick == draft).float().mean()), 4) for name, pick in picks.items()
        },
    }


# The curve over the threshold, and the cost of deciding


def curve(settings: Settings) -> None:
    """Measure the first seed's warm start and arbiter at every threshold, on test problems."""
    pair = settings.load()
    task = settings.task("test", settings.oracle).suited(pair)
    found: dict[str, Any] = {}
    for name, place in (("warm start", "warm"), ("cospec", "policy")):
        arbiter = Arbiter.load(settings.folder / "train-0" / place)
        measuring = Measuring(pair, task, arbiter, settings.batch)
        found[name] = []
        for number, threshold in enumerate((*CURVE, 1.0), 1):
            found[name].append(asdict(measuring.at(threshold)))
            tell(f"curve, {name}", number, len(CURVE) + 1)
    (settings.folder / "curve.json").write_text(json.dumps(found, indent=1) + "\n")


def overhead(settings: Settings) -> None:
    """Measure what arbiter inference costs, on the bundled pair and a wide random one."""
    (settings.folder / "overhead.json").write_text(json.dumps(measure_overhead(), indent=1) + "\n")
