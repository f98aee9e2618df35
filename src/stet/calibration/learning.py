"""Learning a score: a policy is run on problems, its steps are labelled, weights are fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stet.calibration.collect import Collector
from stet.calibration.fitting import Fit, fit, score, trust
from stet.calibration.head_fitting import Examples, fit_head
from stet.calibration.labels import Labelling
from stet.calibration.overruling import Overruling, fit_overruling
from stet.calibration.quality import Quality, quality
from stet.calibration.samples import StepSample, steps_of
from stet.calibration.states import States, states_of
from stet.calibration.states import load as load_states
from stet.executors.base import Executor, facts_of
from stet.executors.local import executor_of
from stet.policies import SpecGuard
from stet.policies.specguard import TARGET_MARGIN
from stet.rewards.head import RewardHead
from stet.signals import HEAD, SIGNALS

if TYPE_CHECKING:
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair

Report = Callable[[str, int, int], None]
"""A progress callback: it is called with a title, the number done, and the total."""


@dataclass(frozen=True)
class Learnt:
    """The result of learning a score.

    Attributes:
        fit: weights and ranges, with the quality of each signal.
        policy: SpecGuard with the score, for this pair alone.
        steps: the labelled steps that the score was fitted on.
        reading: quality of the target's own reading of steps, where the policy uses it.
        overruling: what comparing both models' steps is worth, where the policy compares them.
    """

    fit: Fit
    policy: SpecGuard
    steps: list[StepSample]
    reading: Quality | None = None
    overruling: Overruling | None = None

    @property
    def scores(self) -> list[float]:
        """The scores of the steps."""
        return [score(self.fit, s) for s in self.steps]

    def thresholds(self, count: int) -> list[float]:
        """Thresholds at even quantiles of the scores, fixed before any of them is run."""
        shares = np.linspace(0.0, 1.0, count + 2)[1:-1]
        return sorted({round(float(q), 3) for q in np.quantile(self.scores, shares)})


def learn(
    where: Pair | Executor,
    task: LoadedTask,
    base: SpecGuard,
    path: Path,
    report: Report,
    *,
    signals: Sequence[str] = tuple(SIGNALS),
    batch: int = 8,
    seed: int = 0,
    labelling: Labelling | None = None,
    head: Path | None = None,
) -> Learnt:
    """Run the policy, label the steps that its draft proposes, and fit a score to the labels.

    Args:
        where: the models, or what has workers with them.
        task: the problems.
        base: the policy that is run on them, deciding by its own signals; its other parameters are
            kept.
        path: file of labelled steps; those that it holds are not labelled again.
        report: called with the progress.
        signals: names of the signals to choose from.
        batch: problems at a time.
        seed: seed of the runs and of the intervals.
        labelling: how steps are labelled; by default by the target's greedy completions.
        head: folder for the trained signal "head", which is fitted to the same steps; None: it is
            not trained.

    Raises:
        StetError: no score can be fitted on these problems.
    """
    executor = executor_of(where)
    names = _usable(signals, base)
    # All signals are measured; steps are accepted by those of the base policy.
    own = dict.fromkeys(base.signals, 1.0)
    own |= dict(zip(base.signals, base.weights, strict=False))
    ranges = dict(zip(base.signals, base.ranges, strict=False))
    collecting = replace(
        base,
        signals=tuple(names),
        weights=tuple(own.get(name, 0.0) for name in names),
        ranges=tuple(ranges[n] for n in names) if len(ranges) == len(names) else (),
        whole=True,
        pair=None,
    )
    if base.lower is not None or base.compares:
        # What the policy does with some steps, the target's reading and the comparison of both
        # models' steps, is here done with all, to measure it too.
        lower = None if base.lower is None else 0.0
        collecting = replace(collecting, threshold=1.0, lower=lower)
    states = None if head is None else path.parent / "states"
    collector = Collector(executor, task, collecting, batch, seed, labelling, states)
    done = 0

    def tell(_: object) -> None:
        nonlocal done
        done += 1
        report("labelling steps", done, len(task.questions))

    steps = steps_of(collector.collect(path, tell))
    fingerprint = executor.call(facts_of).fingerprint
    if head is not None and states is not None:
        steps = _train(fingerprint, steps, load_states(states), head, seed, report)
        names = [*names, *([HEAD] if HEAD not in names else [])]
    fitted = fit(steps, names, seed=seed)
    policy = replace(
        base,
        signals=fitted.signals,
        weights=fitted.weights,
        ranges=fitted.ranges,
        head=base.head if head is None else str(head),
        pair=fingerprint,
    )
    if HEAD not in fitted.signals:
        policy = replace(policy, head=None)
    found = Learnt(fitted, policy, steps)
    if base.lower is not None:
        reading = [s for s in steps if TARGET_MARGIN in s.signals]
        policy = replace(found.policy, lower=0.0, target_threshold=trust(reading))
        found = replace(found, policy=policy, reading=quality(TARGET_MARGIN, reading, seed))
    if base.compares:
        overruling = fit_overruling(steps, seed)
        policy = replace(found.policy, overrule=overruling.margin)
        found = replace(found, policy=policy, overruling=overruling)
    return found


def _train(
    fingerprint: str,
    steps: list[StepSample],
    states: States,
    folder: Path,
    seed: int,
    report: Report,
) -> list[StepSample]:
    """Train the signal; returns the steps with what heads that have not seen them say."""
    examples = Examples(
        states_of(steps, states), [bool(s.good) for s in steps], [s.problem for s in steps]
    )
    net, logits = fit_head(examples, seed, lambda done, total: report("training", done, total))
    RewardHead(net, fingerprint).save(folder)
    return [
        replace(step, signals={**step.signals, HEAD: logit})
        for step, logit in zip(steps, logits, strict=True)
    ]


def _usable(signals: Sequence[str], base: SpecGuard) -> list[str]:
    """The signals that can differ: agreement is constant where there is one candidate.

    A trained signal that the policy has already is one of them.
    """
    names = [n for n in signals if n != "agreement" or base.candidates > 1]
    own = base.signals if base.head is None else (*base.signals, HEAD)
    return list(dict.fromkeys([*names, *own]))
