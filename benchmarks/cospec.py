"""CoSpec against everything that it must be held against, on problems that nothing was tuned on.

    python benchmarks/cospec.py               # all parts, one after the other, then the report
    python benchmarks/cospec.py train         # one part; parts that need no other may run alone
    python benchmarks/cospec.py report        # from what there is

Parts: `tune` sweeps the rules' parameters on validation problems; `train` trains arbiters under
several seeds (and one against the target's own answers); `test` runs everything on test problems;
`oracle` finds what could be gained at all, and whose token was right; `transfer` runs the trained
arbiters on held-out templates and on the second family. Every part can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from _record import plain_numbers, write

from stet import load_pair
from stet.arbiter import DEFAULT, Arbiter, Network
from stet.calibration.yardstick import with_own_answers
from stet.evaluation import records
from stet.evaluation.analysis import summarise
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.summary import PolicySummary
from stet.evaluation.tasks import load_task
from stet.pair import Pair
from stet.training.branches import Brancher, Branches
from stet.training.oracle import Oracle
from stet.training.playing import Playing
from stet.training.request import TrainRequest
from stet.training.training import train

SWEEPS: dict[str, list[dict[str, Any]]] = {
    "confident": [{"margin": m} for m in (-0.4, -0.2, 0.0, 0.2, 0.4)],
    "ensemble": [{"weight": w} for w in (0.2, 0.35, 0.5)],
    "cosd": [{"alpha": a, "beta": b} for a in (0.5, 1.0, 1.5) for b in (0.4, 0.6)],
    "typical": [{"epsilon": e, "delta": d} for e in (0.1, 0.3) for d in (0.09, 0.3)],
    "top-k": [{"k": k, "delta": d} for k in (2, 3) for d in (0.3, 1.0)],
    "fly": [{"entropy": e, "window": w} for e in (0.3, 0.6) for w in (3, 6)],
    "fuzzy": [{"threshold": t} for t in (0.02, 0.05, 0.1, 0.2)],
}
"""What is tried of every neighbouring rule, on validation problems."""

SEEDS = (0, 1, 2)
WITHIN = 0.005
"""Of settings within so much of the best accuracy, the one with most tokens per pass is taken."""


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        problems: of the test split.
        tuning: validation problems that a rule's setting is chosen on.
        training: questions that an arbiter is trained on.
        oracle: test problems that the oracle searches.
        batch: problems at a time.
        folder: of everything.
    """

    problems: int
    tuning: int
    training: int
    oracle: int
    batch: int
    folder: Path

    def pair(self) -> Pair:
        """The bundled pair, with room for a training's batches."""
        return load_pair(max_batch=max(self.batch, 32), compile=False)


def named(name: str, label: str | None = None, **values: Any) -> Contender:
    return contender(name, values, label=label)


# Tuning the rules


def rules() -> list[Contender]:
    return [named(name, None, **values) for name, sweep in SWEEPS.items() for values in sweep]


def tune(settings: Settings) -> None:
    """Run every setting of every rule on validation problems."""
    task = load_task("stories", split="validation", count=settings.tuning)
    run("tune", task, [named("exact"), *rules()], settings)


def tuned(settings: Settings) -> list[Contender]:
    """For each rule the setting that did best on validation problems."""
    results = records.read(settings.folder / "tune")
    found: list[Contender] = []
    for name in SWEEPS:
        entries = [p for p in results.run.policies if p.name == name]
        scores = {e.label: score(results, e.label) for e in entries}
        most = max(accuracy for accuracy, _ in scores.values())
        good = [e for e in entries if scores[e.label][0] >= most - WITHIN]
        best = max(good, key=lambda e: scores[e.label][1])
        found.append(named(name, name, **best.parameters))
    return found


def score(results: records.Results, label: str) -> tuple[float, float]:
    """Accuracy and tokens per pass."""
    answers = [a for a in results.answers if a.policy == label]
    tokens = sum(a.counters.emitted_tokens for a in answers)
    passes = sum(a.counters.target_passes for a in answers)
    return sum(bool(a.right) for a in answers) / len(answers), tokens / max(passes, 1)


# Training


def trainings(settings: Settings) -> None:
    """An arbiter under each seed, and one against the target's own answers."""
    pair = settings.pair()
    for seed in SEEDS:
        request = TrainRequest(
            load_task("stories", split="policy_train", count=settings.training, seed=seed),
            load_task("stories", split="validation", count=settings.tuning),
            batch=32,
            seed=seed,
        )
        train(pair, request, settings.folder / f"train-{seed}", tell)
    folder = settings.folder / "autojudge"
    folder.mkdir(parents=True, exist_ok=True)
    task, validation = (
        with_own_answers(
            pair,
            load_task("stories", split=split, count=count),
            folder / f"{split}-own.jsonl",
            32,
            tell,
        )
        for split, count in (
            ("policy_train", settings.training),
            ("validation", settings.tuning),
        )
    )
    request = TrainRequest(task, validation, labels="target", method="none", batch=32)
    train(pair, request, folder, tell)


_told = ""


def tell(what: str, done: int, total: int) -> None:
    global _told
    line = f"{what}: {done} of {total}"
    if line != _told:
        print(line, flush=True)
    _told = line


# The test


def best_threshold(folder: Path, name: str) -> float:
    """Where a curve of the training was highest on its validation questions."""
    curve = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    best = max(curve, key=lambda m: (m["right"], m["tokens_per_pass"]))
    return float(best["threshold"])


def arbiters(settings: Settings) -> list[Contender]:
    """Each seed's warm start and arbiter, and AutoJudge's."""
    found: list[Contender] = []
    for seed in SEEDS:
        folder = settings.folder / f"train-{seed}"
        warm = best_threshold(folder, "warm-start")
        found.append(
            named("cospec", f"warm start {seed}", arbiter=str(folder / "warm"), threshold=warm)
        )
        found.append(named("cospec", f"cospec {seed}", arbiter=str(folder / "policy")))
    found.append(named("autojudge", "autojudge", arbiter=str(settings.folder / "autojudge/policy")))
    return found


def overrule_rate(settings: Settings) -> float:
    """Of the first seed's arbiter, on its validation questions."""
    record = json.loads((settings.folder / "train-0" / "training.json").read_text())
    chosen = record["chosen"]
    return float(chosen["overruled"] / chosen["disputes"])


def contenders(settings: Settings) -> list[Contender]:
    rate = round(overrule_rate(settings), 3)
    return [
        named("target"),
        named("draft"),
        named("exact"),
        *tuned(settings),
        named("random", "random", rate=rate),
        *arbiters(settings),
    ]


def test(settings: Settings) -> None:
    task = load_task("stories", split="test", count=settings.problems)
    run("test", task, contenders(settings), settings)


def transfer(settings: Settings) -> None:
    """The same arbiters where they were not trained."""
    chosen = [
        named("target"),
        named("exact"),
        named("confident"),
        *(c for c in arbiters(settings) if c.label.startswith("cospec")),
    ]
    for name, family, split in (
        ("templates", "stories", "out_of_template"),
        ("units", "units", "test"),
    ):
        task = load_task(family, split=split, count=settings.tuning)
        run(f"transfer-{name}", task, chosen, settings)


def run(part: str, task: Any, chosen: Sequence[Contender], settings: Settings) -> None:
    """Run contenders on a task, or go on with it."""
    plan = Plan(
        task=task,
        contenders=list(chosen),
        reference="target" if any(c.label == "target" for c in chosen) else "exact",
        primary=[c.label for c in chosen if c.label.startswith("cospec")],
        seeds=(0,),
        batch=settings.batch,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )
    comparison = Comparison(settings.pair(), plan, settings.folder / part)
    done = len(comparison.answers)
    chunk = -1

    def tell_chunk(answers: Sequence[records.Answer]) -> None:
        nonlocal done, chunk
        done += len(answers)
        if answers[0].chunk != chunk:
            chunk = answers[0].chunk
            print(f"{part}: {done} of {comparison.total} answers", flush=True)

    comparison.go(tell_chunk)


# What could be gained, and whose token was right


def oracle(settings: Settings) -> None:
    """The oracle's search, and the outcomes of disagreements that the target would finish."""
    path = settings.folder / "oracle.json"
    pair = settings.pair()
    task = load_task("stories", split="test", count=settings.oracle)
    never = Arbiter(Network(len(DEFAULT)).requires_grad_(False), DEFAULT)
    branches = Brancher(pair, task, Playing(never, 1.0), 32).collect(
        settings.folder / "oracle-branches",
        range(len(task.questions)),
        lambda done: tell("oracle, branches", done, len(task.questions)),
    )
    if not path.exists():
        blind = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
        found = Oracle(pair, task, blind, batch=32).search(
            range(len(task.questions)),
            lambda done: tell("oracle, search", done, len(task.questions)),
        )
        path.write_text(json.dumps([asdict(s) for s in found]) + "\n", encoding="utf-8")
    agreement = agreements(branches, settings)
    (settings.folder / "agreement.json").write_text(json.dumps(agreement, indent=1) + "\n")


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
        for name, place in (("warm start", "warm"), ("cospec", "policy")):
            arbiter = Arbiter.load(folder / place)
            bar = best_threshold(folder, "warm-start") if place == "warm" else arbiter.threshold
            picks[f"{name} {seed}"] = arbiter.odds(telling.features).sigmoid() > bar
    return {
        "cells": branches.cells(),
        "disagreements": len(branches),
        "non_tie": len(telling),
        "agreement": {
            name: round(float((pick == draft).float().mean()), 4) for name, pick in picks.items()
        },
    }


# The report


def row(part: str, policy: PolicySummary, results: records.Results) -> dict[str, Any]:
    answers = [a for a in results.answers if a.policy == policy.label]
    kept = sum(a.counters.kept_tokens for a in answers)
    tokens = sum(a.counters.emitted_tokens for a in answers)
    passes = sum(a.counters.target_passes for a in answers)
    difference = policy.difference
    return {
        "part": part,
        "policy": policy.label,
        "parameters": policy.parameters,
        "accuracy": plain_numbers(policy.accuracy),
        "gain_over_reference": None if difference is None else plain_numbers(difference.gain),
        "p_values": None if difference is None else difference.p_values,
        "speed_over_reference": plain_numbers(policy.speed.throughput_speedup),
        "tokens_per_pass": round(tokens / passes, 3) if passes else None,
        "kept_share": round(kept / tokens, 4) if tokens else None,
    }


def report(settings: Settings) -> None:
    """Write the result file from the parts that there are."""
    rows: list[dict[str, Any]] = []
    for folder in sorted(p for p in settings.folder.iterdir() if (p / "run.json").exists()):
        results = records.read(folder)
        summary = summarise(results, bootstrap=2_000)
        rows += [row(folder.name, policy, results) for policy in summary.policies]
    tests = {r["policy"]: r for r in rows if r["part"] == "test"}
    figures: dict[str, float] = {}
    if tests:
        ours = [r for name, r in tests.items() if name.startswith("cospec")]
        plain = max(
            (tests[name] for name in SWEEPS), key=lambda r: (r["accuracy"]["value"], r["policy"])
        )
        figures |= {
            "accuracy_target": tests["target"]["accuracy"]["value"],
            "accuracy_draft": tests["draft"]["accuracy"]["value"],
            "accuracy_cospec": mean(r["accuracy"]["value"] for r in ours),
            "accuracy_warm_start": mean(
                r["accuracy"]["value"] for n, r in tests.items() if n.startswith("warm")
            ),
            "accuracy_random": tests["random"]["accuracy"]["value"],
            "accuracy_autojudge": tests["autojudge"]["accuracy"]["value"],
            "gain_points": 100 * mean(r["gain_over_reference"]["value"] for r in ours),
            "p_value": max(r["p_values"][0] for r in ours),
            "tokens_per_pass_exact": tests["exact"]["tokens_per_pass"],
            "tokens_per_pass_cospec": mean(r["tokens_per_pass"] for r in ours),
            "speedup_vs_target": mean(r["speed_over_reference"]["value"] for r in ours),
            "wall_clock_vs_exact": mean(r["speed_over_reference"]["value"] for r in ours)
            / tests["exact"]["speed_over_reference"]["value"],
            "accuracy_best_plain_rule": plain["accuracy"]["value"],
            "gain_over_best_plain_rule_points": 100
            * (mean(r["accuracy"]["value"] for r in ours) - plain["accuracy"]["value"]),
            "tokens_per_pass_best_plain_rule": plain["tokens_per_pass"],
            "overrule_rate": overrule_rate(settings),
            "problems": len({a.question for a in records.read(settings.folder / "test").answers}),
            "seeds": len(ours),
        }
    more: dict[str, Any] = {}
    if (settings.folder / "agreement.json").exists():
        agreement = json.loads((settings.folder / "agreement.json").read_text())
        found = agreement["agreement"]
        saved = json.loads((settings.folder / "oracle.json").read_text())
        figures |= {
            "accuracy_oracle": mean(s["overrules"] is not None for s in saved),
            "oracle_agreement_non_tie": mean(
                v for name, v in found.items() if name.startswith("cospec")
            ),
            "always_target_agreement_non_tie": found["always target"],
            "confident_agreement_non_tie": found["confident"],
        }
        more["agreement"] = agreement
    transfers = [r for r in rows if r["part"].startswith("transfer")]
    gains = [r["gain_over_reference"]["value"] for r in transfers if "cospec" in r["policy"]]
    if gains:
        figures["transfer_gain_points"] = 100 * mean(gains)
    print(write("cospec", rows, {k: round(float(v), 4) for k, v in figures.items()}, **more))


def mean(values: Any) -> float:
    return float(np.mean([float(v) for v in values]))


PARTS = {
    "tune": tune,
    "train": trainings,
    "test": test,
    "oracle": oracle,
    "transfer": transfer,
    "report": report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--tuning", type=int, default=400)
    parser.add_argument("--training", type=int, default=1000)
    parser.add_argument("--oracle", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, default=Path(".cache/cospec"))
    given = parser.parse_args()
    settings = Settings(
        given.problems, given.tuning, given.training, given.oracle, given.batch, given.folder
    )
    settings.folder.mkdir(parents=True, exist_ok=True)
    for part in [given.part] if given.part else PARTS:
        PARTS[part](settings)


if __name__ == "__main__":
    main()
