"""Training an arbiter: branches, warm start, policy gradient, and the choice of a threshold.

All results are written to a folder as they are computed, and a training that is started again in
the same folder is resumed: branches batch by batch, policy gradient round by round.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stet.arbiter import Arbiter, Network
from stet.calibration.label_source import with_own_answers
from stet.calibration.rollouts import fitted
from stet.core.errors import StetError, TokenizerMismatch
from stet.core.folders import PROFILE, claim_folder
from stet.core.machine import machine, versions
from stet.core.writing import drop_torn_line, json_line, write_text
from stet.executors.base import Executor, facts_of
from stet.executors.local import executor_of
from stet.policies.reference import Reference
from stet.requests.seeds import mixed
from stet.training.branches import Brancher, Branches
from stet.training.fitting import fit
from stet.training.importance import importance
from stet.training.improving import LOG, Improvement, Report, add_to_log
from stet.training.measuring import Measured, Measuring, choose, read_measured
from stet.training.outlook import Outlook, outlook
from stet.training.request import CURVE, TrainRequest
from stet.training.rollout_policy import RolloutPolicy

if TYPE_CHECKING:
    from stet.pair import Pair

RESULT = "training.json"
WARM, POLICY = "warm", "policy"


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        arbiter: the arbiter, with its threshold.
        cells: outcomes of the branches of each sweep.
        warm: results of the warm start on the validation questions, at several thresholds.
        final: results of the final arbiter on them, at the same thresholds.
        target: results of the target alone on them.
        rounds: the log of policy gradient, round by round.
        outlook: what the first branches said was to be expected; None from too few questions, or
            where labels are not the right answers.
        record: all of this as JSON.
    """

    arbiter: Arbiter
    cells: list[dict[str, int]]
    warm: list[Measured]
    final: list[Measured]
    target: Measured
    rounds: list[dict[str, Any]]
    outlook: Outlook | None
    record: dict[str, Any]


def train(where: Pair | Executor, request: TrainRequest, folder: Path, report: Report) -> Trained:
    """Train an arbiter; in the folder of an interrupted training, resume it.

    Args:
        where: the models, or what has workers with them: these collect, and this process fits.
        request: the settings of the training.
        folder: where all results are written.
        report: called with the progress.

    Raises:
        StetError: the folder holds another training, there were no mismatches, or the target's own
            answers are asked for and cannot be read.
        TokenizerMismatch: the models have different vocabularies.
    """
    executor = executor_of(where)
    pair = executor.call(facts_of)
    if pair.difference is not None:
        raise TokenizerMismatch(
            f"{pair.difference}; an arbiter chooses between two tokens of one vocabulary: train "
            "with a draft of the target's family."
        )
    request = replace(
        request,
        task=executor.call(partial(fitted, task=request.task)),
        validation=executor.call(partial(fitted, task=request.validation)),
    )
    claim_folder(folder, request.settings(pair.fingerprint), "training")
    with executor.costs_of_run(folder / PROFILE), executor.keeping_texts():
        if request.labels == "target":
            request = _with_own_answers(executor, request, folder, report)
        return Trainer(executor, request, folder, report).run()


def _with_own_answers(
    executor: Executor, request: TrainRequest, folder: Path, report: Report
) -> TrainRequest:
    """The request with the target's own answers in place of the right ones."""
    task, validation = (
        with_own_answers(executor, part, folder / f"{name}-own.jsonl", request.batch, report)
        for name, part in (("task", request.task), ("validation", request.validation))
    )
    return replace(request, task=task, validation=validation)


class Trainer:
    """A training and its folder, which is claimed for it."""

    def __init__(
        self, executor: Executor, request: TrainRequest, folder: Path, report: Report
    ) -> None:
        self.executor, self.request = executor, request
        self.folder, self.report = folder, report
        self._pair = executor.call(facts_of)
        drop_torn_line(folder / LOG)

    def run(self) -> Trained:
        """Run all stages; results that are in the folder already are read from it."""
        sweeps = self._collect_sweeps()
        warm = self._fit_warm_start(sweeps)
        measuring = self._measuring(warm)
        target = self._measure("target alone", measuring, (1.0,))[0]
        warm_curve = self._measure("warm start", measuring, CURVE)
        rounds: list[dict[str, Any]] = []
        arbiter, final, measured = warm, warm_curve, measuring
        if self.request.method != "none" and self.request.rounds:
            improvement = Improvement(self.executor, self.request, self.folder, self.report, warm)
            network, rounds = improvement.run(self._choose(warm_curve), sweeps)
            arbiter = self._arbiter(network)
            measured = self._measuring(arbiter)
            final = self._measure("arbiter", measured, CURVE)
        chosen = self._choose(final)
        reference = measured.reference(chosen.threshold)
        trained = self._describe(chosen, reference)
        arbiter = replace(arbiter, threshold=chosen.threshold, trained=trained)
        arbiter.save(self.folder / POLICY)
        cells = [s.cells() for s in sweeps]
        expected = None
        if self.request.labels == "answers":
            self.report("outlook", 0, 1)
            expected = outlook(sweeps[0], self.request.seed)
            self.report("outlook", 1, 1)
        record: dict[str, Any] = {
            "cells": cells,
            "outlook": None if expected is None else asdict(expected),
            "target": asdict(target),
            "warm": [asdict(m) for m in warm_curve],
            "final": [asdict(m) for m in final],
            "chosen": asdict(chosen),
            "rounds": rounds,
            "importance": self._importance(warm, sweeps),
            "settings": self.request.settings(self._pair.fingerprint),
            "notes": {
                part: task.note
                for part, task in (
                    ("task", self.request.task),
                    ("validation", self.request.validation),
                )
                if task.note
            },
            "machine": machine(),
            "versions": versions(),
            "command": self.request.command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_text(self.folder / RESULT, json_line(record, indent=1) + "\n")
        return Trained(arbiter, cells, warm_curve, final, target, rounds, expected, record)

    def _choose(self, curve: Sequence[Measured]) -> Measured:
        return choose(curve, self.request.within, self.request.error)

    # Branches and the warm start

    def _collect_sweeps(self) -> list[Branches]:
        """Collect the branches of every sweep; each sweep has its own questions."""
        count = len(self.request.task.questions)
        places = list(range(count))
        random.Random(self.request.seed).shuffle(places)
        sweeps: list[Branches] = []
        policy = RolloutPolicy(self._blank(), 1.0)
        for number in range(self.request.sweeps):
            if sweeps:
                fitted = self._fit(sweeps)
                policy = RolloutPolicy(self._arbiter(fitted), 0.5)
            chosen = places[number :: self.request.sweeps]
            brancher = Brancher(
                self.executor, self.request.task, policy, self.request.batch, self.request.branched
            )
            title = f"branches, sweep {number + 1} of {self.request.sweeps}"

            def tell(done: int, title: str = title, total: int = len(chosen)) -> None:
                self.report(title, done, total)

            found = brancher.collect(self.folder / f"sweep-{number}", chosen, tell)
            add_to_log(self.folder, stage="branches", sweep=number, **found.cells())
            if self.request.labels == "shuffled":
                found = found.shuffled(mixed(self.request.seed, number))
            sweeps.append(found)
        return sweeps

    def _fit_warm_start(self, sweeps: Sequence[Branches]) -> Arbiter:
        """Fit the warm start to the branches, or read it from the folder."""
        path = self.folder / WARM
        if not (path / "arbiter.json").exists():
            self._arbiter(self._fit(sweeps)).save(path)
        return Arbiter.load(path)

    def _fit(self, sweeps: Sequence[Branches]) -> Network:
        """Fit a network to all branches so far, with early stopping on held-out questions."""
        found = Branches.join(sweeps)
        if not len(found):
            raise StetError("The models have no mismatches on these questions to learn from.")
        held = set(
            random.Random(self.request.seed).sample(
                sorted(set(found.question.tolist())),
                max(1, round(self.request.held_out * len(set(found.question.tolist())))),
            )
        )
        validating = torch.tensor([q in held for q in found.question.tolist()])
        settings = replace(self.request.fit, seed=self.request.seed)
        return fit(found.where(~validating), found.where(validating), settings)

    def _importance(self, warm: Arbiter, sweeps: Sequence[Branches]) -> dict[str, float]:
        found = importance(
            warm.network,
            Branches.join(sweeps),
            self._sizes(),
            self.request.fit.cost,
            self.request.seed,
        )
        return dict(zip(self.request.features, (round(v, 4) for v in found), strict=True))

    def _blank(self) -> Arbiter:
        """An untrained arbiter, which records features before one is fitted."""
        return self._arbiter(Network(sum(self._sizes())))

    def _sizes(self) -> list[int]:
        """The size of each feature for this pair: 1, or that of a hidden state."""
        return self.executor.call(partial(_sizes, self.request.features))

    def _arbiter(self, network: Network) -> Arbiter:
        return Arbiter(
            network.requires_grad_(False).eval(), self.request.features, self._pair.fingerprint
        )

    def _measuring(self, arbiter: Arbiter) -> Measuring:
        return Measuring(self.executor, self.request.validation, arbiter, self.request.batch)

    def _measure(
        self, title: str, measuring: Measuring, thresholds: Sequence[float]
    ) -> list[Measured]:
        """Measure at each threshold; results that are in the folder already are read from it."""
        path = self.folder / f"{title.replace(' ', '-')}.json"
        known: list[Measured] = []
        if path.exists():
            known = read_measured(path)
        for done, threshold in enumerate(thresholds):
            if done < len(known):
                continue
            self.report(f"validation, {title}", done, len(thresholds))
            known.append(measuring.at(threshold))
            write_text(path, json_line([asdict(m) for m in known]) + "\n")
        self.report(f"validation, {title}", len(thresholds), len(thresholds))
        return known

    def _describe(self, chosen: Measured, reference: Reference | None) -> dict[str, Any]:
        """How the arbiter was trained, for its settings."""
        request = self.request
        return {
            "task": request.task.name,
            "labels": request.labels,
            "questions": len(request.task.questions),
            "validation": asdict(chosen),
            "method": request.method,
            "seed": request.seed,
            "target": self._pair.target,
            "draft": self._pair.draft,
            "versions": versions(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **({} if reference is None else {"reference": asdict(reference)}),
        }


def _sizes(features: Sequence[str], pair: Pair) -> list[int]:
    """The size of each feature for a pair: 1, or that of a hidden state."""
    wide: dict[str, Any] = {
        "target_hidden": pair.target,
        "target_hidden_after": pair.target,
        "draft_hidden": pair.draft,
    }
    return [
        wide[name].model.config.get_text_config().hidden_size if name in wide else 1
        for name in features
    ]
