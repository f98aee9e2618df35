"""The parts of `evidence.py`: what is run on a real pair, each resumable."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import _real
import numpy as np
from _progress import go, tell
from _shared_texts import SharedTexts, Written, read

from stet import load_pair
from stet.arbiter import Arbiter, Network
from stet.calibration.calibrate import calibrate as run_calibration
from stet.calibration.choosing import Wish
from stet.calibration.request import CalibrateRequest
from stet.core.policy import TokenPolicy, values_of
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.run import Comparison, Plan
from stet.evaluation.statistics import detectable, mcnemar_power
from stet.evaluation.tasks.base import LoadedTask
from stet.pair import Pair
from stet.policies import SpecGuard, resolve
from stet.training.branches import FIRST
from stet.training.oracle import Oracle, TargetsOthers, drafts_tokens
from stet.training.request import TrainRequest
from stet.training.training import train as run_training
from stet.tuning import TuneRequest, read_examples
from stet.tuning import tune as run_tuning
from stet.tuning.examples import divide

RULES: dict[str, list[dict[str, Any]]] = {
    "confident": [{"margin": m} for m in (-0.2, 0.0, 0.2, 0.4)],
    "ensemble": [{"weight": w} for w in (0.2, 0.35, 0.5)],
    "speculative-cascade": [
        *({"rule": "chow", "cost": c} for c in (0.1, 0.3)),
        *({"rule": "difference", "cost": c} for c in (-0.1, 0.0, 0.2)),
        *({"rule": "optimal", "cost": c} for c in (0.0, 0.2)),
    ],
}
"""The plain rules, each with the settings that are tried on validation problems."""

WITHIN = 0.005
"""Of a rule's settings within so much of its best accuracy the one that rejects least is taken."""

PRIMARY = ("cospec", "specguard")
"""The comparisons with the target that are declared beforehand: one family, corrected by Holm."""

MARGIN = 0.03
"""The loss of accuracy that is to be excluded."""

CLAIMED = {"cospec": 0.017, "specguard": 0.03}
"""The gains over the target whose power is stated, in right answers per problem."""

HELD_OUT = 0.05
"""The share of worked problems by which the best state of a tuning is chosen."""

UNFITTED = "specguard, nothing fitted"
"""The label of a SpecGuard that compares both models' steps, with nothing calibrated."""

POWER = 0.8
"""Below it a claim is reported as not testable at this size."""


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        pair: name of the pair.
        tuning: worked problems that a draft is tuned on, of each domain.
        validation: problems that rules, thresholds and states are chosen on, of each domain.
        branches: problems that an arbiter learns from, of each domain.
        branched: mismatches of an answer that are followed.
        calibration: problems that SpecGuard is calibrated on, of each domain.
        test: problems of the test, of each domain.
        oracle: of these, problems that the oracle searches.
        latency: problems that are solved one at a time, of all domains.
        noise: problems on which the target's rounding is looked at, of all domains.
        batch: problems at a time, elsewhere.
        seeds: of the arbiters; the first is the primary one.
        root: of everything.
    """

    pair: str
    tuning: int
    validation: int
    branches: int
    branched: int
    calibration: int
    test: int
    oracle: int
    latency: int
    noise: int
    batch: int
    seeds: Sequence[int]
    root: Path

    @property
    def folder(self) -> Path:
        """The folder of this pair."""
        return self.root / self.pair

    def task(self, part: str) -> LoadedTask:
        """Problems of a part of the split."""
        return _real.task_of(self.pair, part, getattr(self, part), self.folder / "problems")

    def load(self, batch: int | None = None) -> Pair:
        """The pair, with room for a batch."""
        return _real.load(self.pair, max_batch=batch or self.batch)

    @property
    def calibrated(self) -> Path:
        """The calibrated policy."""
        return self.folder / "specguard.json"


def named(name: str, label: str | None = None, **values: Any) -> Contender:
    return contender(name, values, label=label)


# The tuned pair


def adapt(settings: Settings) -> None:
    """Tune the draft, and the target beside it, on the same worked problems."""
    if settings.pair != "tuned":
        return
    path = _real.examples(settings.tuning, settings.folder / "problems")
    with _real.load("real", max_batch=1) as pair:
        chat = _real.task_of("tuned", "validation", 1, settings.folder / "problems").chat
        learned, checked = divide(read_examples(pair, path, chat), HELD_OUT)
    for role, base in _real.BASES.items():
        request = TuneRequest(learned, checked, epochs=1.0, batch=8)
        work = settings.folder / f"tuning-{role}"
        found = run_tuning(base, request, work, _real.TUNED[role], tell)
        write(settings.folder / f"tuned-{role}.json", [asdict(check) for check in found.checks])


def tuned_target(settings: Settings) -> None:
    """The obvious objection: the target alone, tuned on what the draft was tuned on."""
    if settings.pair != "tuned":
        return
    target = str(_real.TUNED["target"])
    with load_pair(target, None, max_length=_real.CONTEXT, max_batch=settings.batch) as pair:
        run("tuned-target", settings.task("test"), [named("target")], settings, pair=pair)


# Rules


def tune(settings: Settings) -> None:
    """Run every setting of every rule on validation problems."""
    rules = {
        _label(name, values): resolve(name, values)
        for name, sweep in RULES.items()
        for values in sweep
    }
    share(settings, "validation", {"target": resolve("exact"), **rules}, "tune")


def _label(name: str, values: dict[str, Any]) -> str:
    return f"{name} {json.dumps(values)}"


def tuned(settings: Settings) -> dict[str, TokenPolicy]:
    """For each rule the setting that did best on validation problems."""
    found = read(settings.folder / "tune.jsonl")
    chosen: dict[str, TokenPolicy] = {}
    for name, sweep in RULES.items():
        own = {
            str(values): [w for w in found if w.policy == _label(name, values)] for values in sweep
        }
        right = {key: sum(w.right for w in texts) / len(texts) for key, texts in own.items()}
        most = max(right.values()) - WITHIN - 1e-9
        good = [values for values in sweep if right[str(values)] >= most]
        best = min(good, key=lambda v: sum(w.mismatches - w.accepted for w in own[str(v)]))
        chosen[name] = token_policy(name, best)
    return chosen


def token_policy(name: str, values: dict[str, Any]) -> TokenPolicy:
    policy = resolve(name, values)
    assert isinstance(policy, TokenPolicy)
    return policy


def share(settings: Settings, part: str, policies: dict[str, Any], name: str) -> list[Written]:
    """Write the texts of token policies on a part's problems, or go on with it."""
    task = settings.task(part)
    texts = SharedTexts(settings.load(), task, policies, settings.folder / f"{name}.jsonl")
    total = len(task.questions) * len(policies)
    return texts.run(lambda done: tell(name, done, total))


# Methods


def train(settings: Settings) -> None:
    """Train an arbiter under each seed; all learn from the same branches."""
    pair = settings.load()
    first = settings.folder / f"train-{settings.seeds[0]}" / FIRST
    for seed in settings.seeds:
        own = settings.folder / f"train-{seed}" / FIRST
        if first.exists() and not own.exists():
            shutil.copytree(first, own)
        request = TrainRequest(
            settings.task("branches"),
            settings.task("validation"),
            method="none",
            branched=settings.branched,
            sweeps=1,
            batch=settings.batch,
            seed=seed,
            command=f"python benchmarks/evidence.py --pair {settings.pair} train",
        )
        run_training(pair, request, settings.folder / f"train-{seed}", tell)


def calibrate(settings: Settings) -> None:
    """Calibrate SpecGuard, with a trained signal."""
    request = CalibrateRequest(
        settings.task("calibration"),
        Wish("accuracy"),
        SpecGuard.overruling(delimiter="\n", lower=0.0),
        head=True,
        thresholds=5,
        batch=settings.batch,
        command=f"python benchmarks/evidence.py --pair {settings.pair} calibrate",
    )
    found = run_calibration(settings.load(), request, settings.folder / "calibration", tell)
    found.save(settings.calibrated)


def declare(settings: Settings) -> None:
    """Write down what will be tested, and what a test of this size can show."""
    texts = read(settings.folder / "tune.jsonl")
    target = {w.question: w.right for w in texts if w.policy == "target"}
    record = json.loads((settings.folder / f"train-{settings.seeds[0]}/training.json").read_text())
    own = dict(zip(target, record["chosen"]["outcomes"], strict=True))
    differing = {
        "cospec": float(np.mean([target[q] != (own[q] == "1") for q in target])),
        "specguard": _differing_steps(settings),
    }
    count = settings.test * len(_real.DOMAINS[settings.pair])
    found = {
        "primary": list(PRIMARY),
        "correction": "Holm",
        "margin": MARGIN,
        "problems": count,
        "differing_grades": {name: round(value, 4) for name, value in differing.items()},
        "power": {
            name: round(power(CLAIMED[name], value, count), 3) for name, value in differing.items()
        },
        "detectable": {name: detectable(value, count) for name, value in differing.items()},
        "claimed": CLAIMED,
        "seeds": list(settings.seeds),
        "rules": {name: asdict(policy) for name, policy in tuned(settings).items()},  # type: ignore[call-overload]
    }
    write(settings.folder / "declared.json", found)


def power(gain: float, differing: float, count: int) -> float:
    """The power to find a gain where grades differ for this share of the problems."""
    return mcnemar_power(gain, max(gain, differing), count) if differing else math.nan


def _differing_steps(settings: Settings) -> float:
    """The share of the calibration's problems that SpecGuard and the target grade differently."""
    from stet.evaluation import records

    threshold = json.loads(settings.calibrated.read_text())["parameters"]["threshold"]
    answers = records.read(settings.folder / "calibration/runs").answers
    right = {(a.policy, a.question): bool(a.right) for a in answers}
    asked = {a.question for a in answers}
    mine = f"threshold {threshold:g}"
    return float(np.mean([right[mine, q] != right["target", q] for q in asked]))


# The test


def token_policies(settings: Settings) -> dict[str, TokenPolicy]:
    """The target and all that decides about tokens."""
    found: dict[str, TokenPolicy] = {"target": token_policy("exact", {}), **tuned(settings)}
    for seed in settings.seeds:
        folder = settings.folder / f"train-{seed}/policy"
        found[f"cospec {seed}"] = token_policy("cospec", {"arbiter": str(folder)})
    return found


def tokens(settings: Settings) -> None:
    """The texts of all token policies on the test problems."""
    share(settings, "test", token_policies(settings), "test")


def stepwise(settings: Settings) -> list[Contender]:
    """The draft alone, and all that decides about steps."""
    policy = SpecGuard.load(settings.calibrated)
    values = values_of(policy)
    return [
        named("draft"),
        contender("specguard", values, label="specguard"),
        named("specguard.overruling", UNFITTED, delimiter="\n"),
        named("spec-reason", "spec-reason"),
        named("reward-guided", "reward-guided", reward=str(settings.folder / "calibration/head")),
    ]


def steps(settings: Settings) -> None:
    """The draft alone and all step policies on the test problems."""
    task = settings.task("test")
    run("steps", task, stepwise(settings), settings, reference="draft")


def run(
    part: str,
    task: LoadedTask,
    chosen: Sequence[Contender],
    settings: Settings,
    *,
    reference: str = "target",
    batch: int | None = None,
    pair: Pair | None = None,
) -> None:
    """Run contenders on a task, or go on with it."""
    plan = Plan(
        task=task,
        contenders=list(chosen),
        reference=reference,
        batch=batch or settings.batch,
        options={"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)},
    )
    pair = pair or settings.load(plan.batch)
    # Times count only where problems are solved one at a time: there every prompt is read.
    with pair.keeping_texts() if plan.batch > 1 else nullcontext():
        go(Comparison(pair, plan, settings.folder / part), part)


def noise(settings: Settings) -> None:
    """What rounding alone changes: the target in bfloat16, by itself and with a lossless draft.

    Passes of other widths add up in another order; no comparison is better than this.
    """
    if settings.pair != "real":
        return
    task = settings.task("test")
    few = replace(task, questions=task.questions[:: max(1, len(task.questions) // settings.noise)])
    target, draft = (_real.BASES[role] for role in ("target", "draft"))
    with load_pair(target, draft, max_length=_real.CONTEXT, max_batch=settings.batch) as pair:
        chosen = [named("target"), contender("exact", label="exact", options={"draft_length": 4})]
        run("noise", few, chosen, settings, pair=pair)


def latency(settings: Settings) -> None:
    """One problem at a time, in turns; on a machine that does nothing else."""
    task = settings.task("test")
    every = math.ceil(len(task.questions) / settings.latency)
    few = replace(task, questions=task.questions[::every])
    rules = tuned(settings)
    chosen = [
        named("target"),
        named("exact"),
        *(contender(name, asdict(policy), label=name) for name, policy in rules.items()),  # type: ignore[call-overload]
        named(
            "cospec",
            "cospec",
            arbiter=str(settings.folder / f"train-{settings.seeds[0]}/policy"),
        ),
        *stepwise(settings)[1:],
    ]
    run("latency", few, chosen, settings, batch=1)


def oracle(settings: Settings) -> None:
    """What could be gained: up to three accepted mismatches, and as many other tokens."""
    pair = settings.load()
    task = settings.task("test").suited(pair)
    every = max(1, len(task.questions) // settings.oracle)
    places = range(0, len(task.questions), every)[: settings.oracle]
    blind = Arbiter(Network(2).requires_grad_(False), ("target_target", "draft_draft"))
    found: dict[str, Any] = {"problems": len(places)}
    for name, others in (("draft", drafts_tokens), ("others", TargetsOthers(pair))):
        path = settings.folder / f"oracle-{name}.json"
        if not path.exists():
            oracle = Oracle(pair, task, blind, width=2, batch=settings.batch, alternatives=others)
            with pair.keeping_texts():
                search = oracle.search(
                    places, lambda done, name=name: tell(f"oracle, {name}", done, len(places))
                )
            write(path, [asdict(s) for s in search])
        saved = json.loads(path.read_text())
        found["target"] = sum(s["accepted_mismatches"] == [] for s in saved) / len(saved)
        found[name] = sum(s["accepted_mismatches"] is not None for s in saved) / len(saved)
    found["room"] = found["draft"] - found["others"]
    write(settings.folder / "oracle.json", found)


def write(path: Path, record: Any) -> None:
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
