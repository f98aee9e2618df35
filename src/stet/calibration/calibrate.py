"""Calibrating SpecGuard for a pair and a task: collect, fit, try thresholds, choose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stet.calibration.choosing import ThresholdPoint, Wish, choose, with_bounds
from stet.calibration.label_source import (
    ANSWERS,
    TARGETS_TEXT,
    LabelSource,
    with_own_answers,
)
from stet.calibration.labels import Labelling, LabellingByAnswer, LabellingByStep
from stet.calibration.learning import Report, learn
from stet.calibration.reliability import reliability
from stet.calibration.request import CalibrateRequest
from stet.calibration.result import Calibration
from stet.calibration.risk import first_error_kept
from stet.calibration.rollouts import Rolling, fitted
from stet.core.errors import TokenizerMismatch
from stet.core.folders import PROFILE, claim_folder
from stet.core.machine import machine, versions
from stet.core.policy import values_of
from stet.core.trace import StepRecord
from stet.evaluation import records
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.records import Results
from stet.evaluation.run import Comparison, Plan
from stet.executors.base import Executor, PairFacts, facts_of
from stet.executors.local import executor_of
from stet.policies import SpecGuard, parameters
from stet.policies.reference import SCORE, Reference, step_decisions
from stet.signals import HEAD

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

REFERENCES = ("target", "exact")

LABELS = 2
"""Version of the labels' meaning: since 2 steps that save an answer are good."""


def calibrate(
    where: Pair | Executor, request: CalibrateRequest, folder: Path, report: Report
) -> Calibration:
    """Run a calibration; in the folder of an interrupted one, resume it.

    Args:
        where: the models, or what has workers with them: these collect, and this process fits.
        request: the settings of the calibration.
        folder: where labelled steps and runs are written.
        report: called with the progress.

    Raises:
        StetError: the folder holds another calibration, no score can be fitted on these problems,
            or no threshold fulfils the request.
        TokenizerMismatch: the models have different vocabularies, so the target cannot continue
            from the draft's tokens.
    """
    executor = executor_of(where)
    pair = executor.call(facts_of)
    if pair.difference is not None:
        raise TokenizerMismatch(
            f"{pair.difference}; in a calibration the target continues from the draft's tokens: "
            "calibrate with a draft of the target's family, or give specguard its parameters."
        )
    request = replace(request, task=executor.call(partial(fitted, task=request.task)))
    fitting, choosing = _divide(request)
    claim_folder(folder, _settings(pair, request, fitting), "calibration")
    with executor.costs_of_run(folder / PROFILE):
        return _calibrate(executor, pair, request, fitting, choosing, folder, report)


def _calibrate(
    executor: Executor,
    pair: PairFacts,
    request: CalibrateRequest,
    fitting: LoadedTask,
    choosing: LoadedTask,
    folder: Path,
    report: Report,
) -> Calibration:
    label_source = request.label_source
    if label_source is not ANSWERS:
        own = folder / "own.jsonl"
        fitting, choosing = (
            with_own_answers(executor, part, own, request.batch, report)
            for part in (fitting, choosing)
        )
    labelling = _labelling(request, fitting)
    with executor.keeping_texts():
        learnt = learn(
            executor,
            fitting,
            request.base,
            folder / "steps.jsonl",
            report,
            signals=request.signals,
            batch=request.batch,
            seed=request.seed,
            labelling=labelling,
            head=folder / HEAD if request.head else None,
        )
    grid = learnt.thresholds(request.thresholds)
    policies = {t: replace(learnt.policy, threshold=t) for t in grid}
    results = _run(executor, request, choosing, policies, folder / "runs", report)
    points = _points(executor, request, choosing, results, policies, report)
    if request.wish.goal == "risk":
        points = with_bounds(points, request.wish.value)
    chosen = choose(points, request.wish, label_source)
    assert pair.draft is not None
    return Calibration(
        policy=SpecGuard.name,
        parameters=values_of(policies[chosen.threshold]),
        wish=request.wish,
        label_source=label_source.name,
        chosen=chosen,
        points=points,
        references={name: _point(results, name, 0.0) for name in REFERENCES},
        qualities=learnt.fit.qualities + ([learnt.reading] if learnt.reading else []),
        wrong_way=learnt.fit.wrong_way,
        overruling=learnt.overruling,
        score=learnt.fit.score,
        reliability=reliability(learnt.steps, learnt.scores),
        claim=_claim(request.wish, chosen, points, label_source),
        task={
            "name": request.task.name,
            "fitted_on": len(fitting.questions),
            "chosen_on": len(choosing.questions),
            "steps": len(learnt.steps),
            "saving": sum(s.saves for s in learnt.steps),
            "misleading": sum(not s.good for s in learnt.steps),
            "labels": labelling.words,
            "note": request.task.note,
        },
        target=pair.target,
        draft=pair.draft,
        seed=request.seed,
        machine=machine(),
        versions=versions(),
        command=request.command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        reference=_reference(results, policies[chosen.threshold]),
    )


def _reference(results: Results, policy: SpecGuard) -> Reference | None:
    """The decisions of the chosen threshold, as its run has recorded them."""
    assert results.folder is not None
    label = _label(policy.threshold)
    steps = [
        [StepRecord(**step) for step in line["trace"]["steps"]]
        for line in records.read_traces(results.folder)
        if line["policy"] == label
    ]
    return Reference.of([step_decisions(answer) for answer in steps], (*policy.signals, SCORE))


def _labelling(request: CalibrateRequest, task: LoadedTask) -> Labelling:
    """By answers where the label source has any; else by the target's own steps."""
    if request.label_source is TARGETS_TEXT:
        return LabellingByStep(request.base.delimiter)
    return LabellingByAnswer(_rolling(request, task))


def _rolling(request: CalibrateRequest, task: LoadedTask) -> Rolling:
    assert task.grader is not None
    return Rolling(task.grader, task.max_new_tokens, task.stop, request.rollouts, request.seed)


def _settings(pair: PairFacts, request: CalibrateRequest, fitting: LoadedTask) -> dict[str, Any]:
    """All settings that a folder's results depend on.

    The questions to fit on are among them: steps that were labelled for another division may be
    from problems on which the threshold is now chosen, and the bound on risk would not hold.
    """
    return {
        "pair": pair.fingerprint,
        "task": request.task.name,
        "questions": [q.id for q in fitting.questions],
        "chat": None if request.task.chat is None else asdict(request.task.chat),
        "max_new_tokens": request.task.max_new_tokens,
        "policy": parameters(request.base),
        "signals": list(request.signals),
        "yardstick": request.label_source.name,
        "rollouts": request.rollouts,
        "seed": request.seed,
        "labels": LABELS,
        **({"head": True} if request.head else {}),
        # Labelled steps of before lack the comparison.
        **({"compared": True} if request.base.compares else {}),
    }


def _divide(request: CalibrateRequest) -> tuple[LoadedTask, LoadedTask]:
    """Divide the questions into two disjoint parts, for fitting and for choosing."""
    questions = list(request.task.questions)
    random.Random(request.seed).shuffle(questions)
    cut = round(request.fit_share * len(questions))
    return (
        replace(request.task, questions=questions[:cut]),
        replace(request.task, questions=questions[cut:]),
    )


def _run(
    executor: Executor,
    request: CalibrateRequest,
    task: LoadedTask,
    policies: dict[float, SpecGuard],
    folder: Path,
    report: Report,
) -> Results:
    contenders = [contender(name) for name in REFERENCES]
    contenders += [_as_contender(p) for p in policies.values()]
    options: dict[str, Any] = {
        "max_new_tokens": task.max_new_tokens,
        "fit": True,
        "stop": list(task.stop),
    }
    plan = Plan(
        task=task,
        contenders=contenders,
        seeds=[request.seed],
        batch=request.batch,
        options=options,
        command=request.command,
    )
    comparison = Comparison(executor, plan, folder)
    done = len(comparison.answers)

    def tell(answers: Sequence[object]) -> None:
        nonlocal done
        done += len(answers)
        report("trying thresholds", done, comparison.total)

    return comparison.go(tell)


def _as_contender(policy: SpecGuard) -> Contender:
    return contender(SpecGuard.name, values_of(policy), label=_label(policy.threshold))


def _label(threshold: float) -> str:
    return f"threshold {threshold:g}"


def _points(
    executor: Executor,
    request: CalibrateRequest,
    task: LoadedTask,
    results: Results,
    policies: dict[float, SpecGuard],
    report: Report,
) -> list[ThresholdPoint]:
    points = [_point(results, _label(t), t) for t in policies]
    if request.wish.goal != "risk":
        return points
    lost = first_error_kept(executor, task, results, _rolling(request, task), report)
    return [replace(p, losses=lost[_label(p.threshold)]) for p in points]


def _point(results: Results, label: str, threshold: float) -> ThresholdPoint:
    answers = [a for a in results.answers if a.policy == label]
    chunks = {a.chunk: a.chunk_seconds for a in answers}
    steps = sum(a.counters.steps for a in answers)
    return ThresholdPoint(
        threshold=threshold,
        problems=len(answers),
        right=sum(bool(a.right) for a in answers),
        seconds=sum(chunks.values()) / len(answers),
        kept=sum(a.counters.accepted_steps for a in answers) / steps if steps else 0.0,
    )


def _claim(
    wish: Wish, chosen: ThresholdPoint, points: Sequence[ThresholdPoint], label_source: LabelSource
) -> str:
    """The claim that the results support about the chosen threshold."""
    if wish.goal == "risk":
        return (
            f"With probability {1 - wish.delta:.0%} over the draw of the {chosen.problems} "
            f"problems, at most {wish.value:.1%} of new problems from this distribution "
            f"{label_source.risk} (exact binomial tests, corrected for {len(points)} thresholds)."
        )
    share = label_source.share.format(f"{chosen.accuracy:.1%}")
    return (
        f"On the {chosen.problems} problems that it was chosen on, this threshold {share} and "
        f"accepted {chosen.kept:.1%} of the steps; on new problems expect a little less, as it is "
        "the best of several."
    )
