"""Drift against calibration: what policies decide about now, and what they were fitted on.

A threshold is worth what its calibration says for requests like those that it was chosen on. How
like they are is seen from the numbers that are decided by, without labels: their spread is held
against the one that the calibration or the training has recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stet.core.result import Result
from stet.core.step_policy import StepPolicy
from stet.policies import Policy
from stet.policies.reference import (
    DECISION_EDGES,
    Decision,
    Fitted,
    Reference,
    fitted_of,
    mismatch_decisions,
    step_decisions,
)
from stet.policies.tally import Numbers, Tally
from stet.serve.logs import Log
from stet.serve.policies import Offer
from stet.serve.stability import Change, compare

MEMORY = 300.0
"""Answers after which one counts 1/e of a new one: what is shown follows the present."""

LEAST = 50.0
"""Answers below which nothing is said: how alike their values are could not be told."""

EVERY = 10
"""Answers of a policy between two looks at whether they have drifted."""

LARGE, SMALL = 0.25, 0.1
"""The index from which on there is a warning, and below which there may be another one."""

LEVEL = 0.001
"""The probability, over all signals of a policy, below which a difference is no chance."""

ACCEPTED = "accepted"
"""Decisions, as a signal beside the others: 1 for accepted, 0 for rejected."""


@dataclass(frozen=True, slots=True)
class Share:
    """The share of accepted decisions.

    Attributes:
        value: the share, 0 to 1.
        error: standard error of its difference from the reference's.
    """

    value: float
    error: float


class Watch:
    """What a policy decides about now, beside what it decided about when it was fitted.

    Args:
        reference: how it was then.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.warned = False
        self.new = 0
        self._known: dict[str, tuple[Numbers, float]] = {}
        self._tallies: dict[str, Tally] = {}
        for name, spread in reference.signals.items():
            self._known[name] = np.asarray(spread.counts, dtype=np.float64), spread.effective
            self._tallies[name] = Tally(spread.deciles, MEMORY)
        decided = np.array([1 - reference.accepted, reference.accepted]) * reference.decisions
        self._known[ACCEPTED] = decided, reference.effective
        self._tallies[ACCEPTED] = Tally(DECISION_EDGES, MEMORY)

    def add(self, decisions: Sequence[Decision], *, signals: bool, accepted: bool) -> None:
        """Count the decisions of an answer.

        Args:
            decisions: the decisions.
            signals: count the numbers that they were made by.
            accepted: count whether they accepted.
        """
        self.new += 1
        for name, tally in self._tallies.items():
            if name == ACCEPTED:
                if accepted:
                    tally.add([float(d.accepted) for d in decisions])
            elif signals:
                tally.add([d.values[name] for d in decisions if name in d.values])

    @property
    def samples(self) -> float:
        """Decisions that count now."""
        return max(tally.total for tally in self._tallies.values())

    @property
    def share(self) -> Share | None:
        """The share of decisions that accepted; None while it is of too few answers."""
        tally = self._tallies[ACCEPTED]
        effective = tally.effective
        known, known_effective = self.reference.accepted, self.reference.effective
        if tally.answers < LEAST or not effective or known_effective <= 0:
            return None
        value = float(tally.counts[1] / tally.total)
        variance = value * (1 - value) / effective + known * (1 - known) / known_effective
        return Share(value, sqrt(variance))

    def changes(self) -> dict[str, Change]:
        """How each signal differs from the reference; those of too few answers are left out."""
        found: dict[str, Change] = {}
        for name, tally in self._tallies.items():
            known, known_effective = self._known[name]
            effective = tally.effective
            if tally.answers >= LEAST and effective and known_effective > 0:
                found[name] = compare(tally.counts, effective, known, known_effective)
        return found


class Drift(Collector):
    """Holds what policies decide about against what they were fitted on, and warns.

    Args:
        offers: the server's policies; those of which nothing is known are passed over.
        log: where warnings go.
        labels: labels of all gauges.
    """

    def __init__(self, offers: Iterable[Offer], log: Log, labels: Mapping[str, str]) -> None:
        self._log = log
        self._labels = dict(labels)
        self._lock = threading.Lock()  # numbers are asked for in another thread than they come in
        self._watches: dict[str, Watch] = {}
        self._comparable: dict[str, tuple[bool, bool]] = {}
        for offer in offers:
            fitted = fitted_of(offer.policy)
            if fitted is not None and isinstance(offer.policy, Policy):
                self._watches[offer.name] = Watch(fitted.reference)
                self._comparable[offer.name] = fitted.compare(offer.policy)

    def watch(self, name: str) -> Watch | None:
        """What is known of a policy; None where it has no reference."""
        return self._watches.get(name)

    def ended(self, offer: Offer, policy: str | Policy, result: Result) -> None:
        """Count the decisions in an answer, and warn where they have drifted.

        Args:
            offer: the policy that was chosen.
            policy: the same, with the request's parameters.
            result: the answer.
        """
        watch = self._watches.get(offer.name)
        if watch is None or isinstance(policy, str):
            return
        if policy is offer.policy:
            signals, accepted = self._comparable[offer.name]
        else:
            fitted = fitted_of(policy)
            assert isinstance(fitted, Fitted)  # as the offer's
            signals, accepted = fitted.compare(policy)
        if not (signals or accepted):
            return
        if isinstance(policy, StepPolicy):
            decisions = step_decisions(result.steps)
        else:
            decisions = mismatch_decisions(result.blocks, len(result.token_ids))
        if not decisions:
            return
        with self._lock:
            watch.add(decisions, signals=signals, accepted=accepted)
            if watch.new >= EVERY:
                watch.new = 0
                self._look(offer, watch)

    def _look(self, offer: Offer, watch: Watch) -> None:
        """Warn if a policy has drifted, and not again before that has passed."""
        changes = watch.changes()
        if not changes:
            return
        if watch.warned:
            watch.warned = any(change.psi >= SMALL for change in changes.values())
            return
        level = LEVEL / len(changes)
        drifted = {n: c for n, c in changes.items() if c.psi > LARGE and c.p_value < level}
        if not drifted:
            return
        watch.warned = True
        signal = max(drifted, key=lambda name: drifted[name].psi)
        share = watch.share
        self._log.write(
            "drift",
            policy=offer.name,
            signal=signal,
            psi=round(drifted[signal].psi, 3),
            accepted_share=None if share is None else round(share.value, 4),
            accepted_share_error=None if share is None else round(share.error, 4),
            reference_accepted_share=round(watch.reference.accepted, 4),
            samples=round(watch.samples),
            message=_advice(offer),
        )

    def collect(self) -> Iterable[Metric]:
        """The gauges; of what too few answers are known of, there is none."""
        names = [*self._labels, "policy"]
        psi = GaugeMetricFamily(
            "stet:drift_psi",
            "Population stability index of a signal against the calibration, corrected for chance.",
            labels=[*names, "signal"],
        )
        share = GaugeMetricFamily(
            "stet:drift_accepted_share", "Share of the decisions that accepted.", labels=names
        )
        error = GaugeMetricFamily(
            "stet:drift_accepted_share_error",
            "Standard error of that share's difference from the reference's.",
            labels=names,
        )
        known = GaugeMetricFamily(
            "stet:reference_accepted_share", "The same share in the calibration.", labels=names
        )
        samples = GaugeMetricFamily(
            "stet:drift_samples", "Decisions that count, older ones in part.", labels=names
        )
        with self._lock:
            for name, watch in self._watches.items():
                labels = [*self._labels.values(), name]
                for signal, change in watch.changes().items():
                    psi.add_metric([*labels, signal], change.psi)
                if (found := watch.share) is not None:
                    share.add_metric(labels, found.value)
                    error.add_metric(labels, found.error)
                known.add_metric(labels, watch.reference.accepted)
                samples.add_metric(labels, watch.samples)
        return [psi, share, error, known, samples]


def _advice(offer: Offer) -> str:
    """What to do about a policy that has drifted."""
    isa_step = isinstance(offer.policy, StepPolicy)
    command = "stet calibrate" if isa_step else "stet train"
    fitted = "calibrated" if isa_step else "trained"
    return (
        f"Requests under {offer.name!r} are unlike the problems that it was {fitted} on, so that "
        f"what was measured there need not hold; run `{command}` on prompts of your own (--task)."
    )
