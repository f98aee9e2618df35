"""Fitting SpecGuard to a pair and a task: collect, fit, try thresholds, choose."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stet.calibration.choosing import MOST, Point, Wish, choose, with_bounds
from stet.calibration.collect import Collector
from stet.calibration.fitting import Fit, fit, score
from stet.calibration.result import Calibration
from stet.calibration.risk import first_error_kept
from stet.calibration.rollouts import Rollouts
from stet.calibration.samples import steps_of
from stet.errors import OptionError, StetError
from stet.evaluation.contenders import Contender, contender
from stet.evaluation.records import Results
from stet.evaluation.run import Comparison, Plan
from stet.machine import machine, versions
from stet.policies import SpecGuard, parameters
from stet.signals import SIGNALS

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

REFERENCES = ("target", "exact")
Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Request:
    """A calibration to be made.

    Attributes:
        task: graded questions; they are divided into two parts, for fitting and for choosing.
        wish: what the threshold is chosen for.
        base: the policy whose other parameters are kept.
        signals: to choose from.
        thresholds: how many are tried, `MOST` at most.
        fit_share: share of the questions that weights are fitted on.
        batch: questions at a time.
        seed: of the division and of all runs.
        command: the command line, for the record.
    """

    task: LoadedTask
    wish: Wish
    base: SpecGuard
    signals: Sequence[str] = tuple(SIGNALS)
    thresholds: int = 8
    fit_share: float = 0.5
    batch: int = 8
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            OptionError: naming what is wrong.
        """
        if self.task.grader is None or any(q.reference is None for q in self.task.questions):
            raise OptionError(f"Task {self.task.name!r} has no right answers to calibrate on.")
        if not 2 <= self.thresholds <= MOST:
            raise OptionError(f"thresholds is {self.thresholds}; it must be from 2 to {MOST}.")
        if len(self.task.questions) < 20:
            raise OptionError(f"{len(self.task.questions)} questions are too few; take 20 or more.")


def calibrate(pair: Pair, request: Request, folder: Path, report: Report) -> Calibration:
    """Make a calibration; started again in the same folder, it goes on where it stopped.

    Args:
        pair: the models.
        request: what is wanted.
        folder: where labelled steps and runs are kept.
        report: told about progress.

    Raises:
        StetError: the folder holds another calibration, nothing can be learnt from these problems,
            or no threshold does what was asked.
    """
    fitting, choosing = _divided(request)
    _claim_folder(folder, pair, request, fitting)
    fitted = _fitted(pair, request, fitting, folder, report)
    policy = replace(
        request.base,
        signals=fitted[0].signals,
        weights=fitted[0].weights,
        ranges=fitted[0].ranges,
        lower=None,
        pair=pair.fingerprint,
    )
    policies = {t: replace(policy, threshold=t) for t in fitted[1]}
    results = _run(pair, request, choosing, policies, folder / "runs", report)
    points = _points(pair, request, choosing, results, policies, report)
    if request.wish.goal == "risk":
        points = with_bounds(points, request.wish.value)
    chosen = choose(points, request.wish)
    assert pair.draft is not None
    return Calibration(
        policy=SpecGuard.name,
        parameters={f.name: getattr(policies[chosen.threshold], f.name) for f in fields(SpecGuard)},
        wish=request.wish,
        chosen=chosen,
        points=points,
        references={name: _point(results, name, 0.0) for name in REFERENCES},
        qualities=fitted[0].qualities,
        wrong_way=fitted[0].wrong_way,
        score=fitted[0].score,
        claim=_claim(request.wish, chosen, points),
        task={
            "name": request.task.name,
            "fitted_on": len(fitting.questions),
            "chosen_on": len(choosing.questions),
            "labels": "the target's greedy completion of the step gives the right answer",
        },
        target=pair.target.identity,
        draft=pair.draft.identity,
        seed=request.seed,
        machine=machine(),
        versions=versions(),
        command=request.command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _claim_folder(folder: Path, pair: Pair, request: Request, fitting: LoadedTask) -> None:
    """Go on in a folder only with what it was begun with.

    Steps labelled for another division may be of problems that the threshold is now chosen on: no
    bound would hold.
    """
    path = folder / "settings.json"
    settings = json.dumps(
        {
            "pair": pair.fingerprint,
            "task": request.task.name,
            "questions": [q.id for q in fitting.questions],
            "policy": parameters(request.base),
            "signals": list(request.signals),
            "seed": request.seed,
        },
        indent=1,
    )
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(settings + "\n", encoding="utf-8")
    elif path.read_text(encoding="utf-8") != settings + "\n":
        raise StetError(
            f"{folder} holds another calibration; choose another folder, or delete that one."
        )


def _divided(request: Request) -> tuple[LoadedTask, LoadedTask]:
    """Two disjoint parts of the questions, by problem."""
    questions = list(request.task.questions)
    random.Random(request.seed).shuffle(questions)
    cut = round(request.fit_share * len(questions))
    return (
        replace(request.task, questions=questions[:cut]),
        replace(request.task, questions=questions[cut:]),
    )


def _fitted(
    pair: Pair, request: Request, task: LoadedTask, folder: Path, report: Report
) -> tuple[Fit, list[float]]:
    """The fit and the thresholds to try."""
    names = _usable(request)
    # All signals are measured; the base policy's own decide what stands meanwhile.
    own = dict.fromkeys(request.base.signals, 1.0)
    own |= dict(zip(request.base.signals, request.base.weights, strict=False))
    ranges = dict(zip(request.base.signals, request.base.ranges, strict=False))
    collecting = replace(
        request.base,
        signals=tuple(names),
        weights=tuple(own.get(name, 0.0) for name in names),
        ranges=tuple(ranges[n] for n in names) if len(ranges) == len(names) else (),
        pair=None,
    )
    collector = Collector(pair, task, collecting, request.batch, request.seed)
    done = 0

    def tell(_: object) -> None:
        nonlocal done
        done += 1
        report("labelling steps", done, len(task.questions))

    steps = steps_of(collector.collect(folder / "steps.jsonl", tell))
    fitted = fit(steps, names, seed=request.seed)
    return fitted, _grid([score(fitted, s) for s in steps], request.thresholds)


def _usable(request: Request) -> list[str]:
    """Signals that can differ: candidates agree with themselves where there is one."""
    names = [n for n in request.signals if n != "agreement" or request.base.candidates > 1]
    return [*names, *(n for n in request.base.signals if n not in names)]


def _grid(scores: Sequence[float], count: int) -> list[float]:
    """Thresholds at even shares of the steps, fixed before anything is run with them."""
    shares = np.linspace(0.0, 1.0, count + 2)[1:-1]
    return sorted({round(float(q), 3) for q in np.quantile(scores, shares)})


def _run(
    pair: Pair,
    request: Request,
    task: LoadedTask,
    policies: dict[float, SpecGuard],
    folder: Path,
    report: Report,
) -> Results:
    contenders = [contender(name) for name in REFERENCES]
    contenders += [_as_contender(p) for p in policies.values()]
    options: dict[str, Any] = {"max_new_tokens": task.max_new_tokens, "stop": list(task.stop)}
    plan = Plan(
        task=task,
        contenders=contenders,
        seeds=[request.seed],
        batch=request.batch,
        options=options,
        command=request.command,
    )
    comparison = Comparison(pair, plan, folder)
    done = len(comparison.answers)

    def tell(answers: Sequence[object]) -> None:
        nonlocal done
        done += len(answers)
        report("trying thresholds", done, comparison.total)

    return comparison.go(tell)


def _as_contender(policy: SpecGuard) -> Contender:
    values = {f.name: getattr(policy, f.name) for f in fields(policy)}
    return contender(SpecGuard.name, values, label=_label(policy.threshold))


def _label(threshold: float) -> str:
    return f"threshold {threshold:g}"


def _points(
    pair: Pair,
    request: Request,
    task: LoadedTask,
    results: Results,
    policies: dict[float, SpecGuard],
    report: Report,
) -> list[Point]:
    points = [_point(results, _label(t), t) for t in policies]
    if request.wish.goal != "risk":
        return points
    assert task.grader is not None
    rollouts = Rollouts(pair, task.grader, task.max_new_tokens, task.stop)
    lost = first_error_kept(pair, task, results, rollouts, report)
    return [replace(p, losses=lost[_label(p.threshold)]) for p in points]


def _point(results: Results, label: str, threshold: float) -> Point:
    answers = [a for a in results.answers if a.policy == label]
    chunks = {a.chunk: a.chunk_seconds for a in answers}
    steps = sum(a.counters.steps for a in answers)
    return Point(
        threshold=threshold,
        problems=len(answers),
        right=sum(bool(a.right) for a in answers),
        seconds=sum(chunks.values()) / len(answers),
        kept=sum(a.counters.kept_steps for a in answers) / steps if steps else 0.0,
    )


def _claim(wish: Wish, chosen: Point, points: Sequence[Point]) -> str:
    """What may be said, and no more."""
    if wish.goal == "risk":
        return (
            f"With probability {1 - wish.delta:.0%} over the draw of the {chosen.problems} "
            f"problems, at most {wish.value:.1%} of new problems from this distribution get their "
            f"first error from a kept draft step (exact binomial tests, corrected for "
            f"{len(points)} thresholds)."
        )
    return (
        f"On the {chosen.problems} problems that it was chosen on, this threshold answered "
        f"{chosen.accuracy:.1%} rightly and kept {chosen.kept:.1%} of the steps; on new problems "
        "expect a little less, as it is the best of several."
    )
