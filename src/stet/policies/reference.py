"""What a policy was fitted on, in a few numbers, so that drift away from it can be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

from stet.core.errors import OptionError
from stet.core.parsing import first_problem
from stet.core.policy import Policy, values_of
from stet.core.sampling import SamplingParams
from stet.core.step_policy import StepPolicy
from stet.core.trace import BlockRecord, StepRecord
from stet.core.upgrades import upgrade
from stet.policies.tally import Tally

P = TypeVar("P", bound=Policy)

SCORE, PROBABILITY = "score", "probability"
"""What was compared with the threshold: of a step, and of a mismatch that an arbiter decided."""

BINS = 10

DECISION_EDGES = (0.5,)
"""The edges of bins of decisions, which are 0 or 1."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of a policy.

    Attributes:
        values: the numbers that it was made by, by name.
        accepted: whether the draft's text was accepted, or in a shadow run would have been.
    """

    values: Mapping[str, float]
    accepted: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one signal were spread.

    Attributes:
        deciles: nine values, ascending: a tenth of all values are up to the first, and so on.
            Some are equal where many values are.
        counts: values up to the first decile, above it and up to the second, and so on: ten.
        effective: the number of independent values that they are worth.
    """

    deciles: tuple[float, ...]
    counts: tuple[int, ...]
    effective: float

    @classmethod
    def of(cls, answers: Sequence[Sequence[float]]) -> Spread:
        """The spread of the values of answers, at least one value in all."""
        values = sorted(value for answer in answers for value in answer)
        # Values that occurred, rounded so that a file can be read; counts are by what is written.
        places = [-(-part * len(values) // BINS) - 1 for part in range(1, BINS)]
        deciles = tuple(float(f"{values[max(place, 0)]:.6g}") for place in places)
        tally = _tally(deciles, answers)
        return cls(deciles, tuple(int(c) for c in tally.counts), round(tally.effective, 1))


@dataclass(frozen=True, slots=True)
class Reference:
    """The decisions of a policy on the problems that its threshold was chosen on.

    Attributes:
        answers: the answers to these problems.
        decisions: the decisions in them.
        accepted: the share of decisions that accepted the draft's text.
        effective: the number of independent decisions that they are worth.
        signals: spreads of the numbers that decisions were made by, by name.
    """

    answers: int
    decisions: int
    accepted: float
    effective: float
    signals: dict[str, Spread] = field(default_factory=dict[str, Spread])

    @classmethod
    def of(cls, answers: Sequence[Sequence[Decision]], names: Iterable[str]) -> Reference | None:
        """The reference of the decisions in answers; None where there are none.

        Args:
            answers: the decisions of each answer.
            names: the numbers that are recorded, where decisions have them.
        """
        decided = [[float(d.accepted) for d in answer] for answer in answers]
        tally = _tally(DECISION_EDGES, decided)
        if not tally.total:
            return None
        found: dict[str, Spread] = {}
        for name in names:
            values = [[d.values[name] for d in answer if name in d.values] for answer in answers]
            if any(values):
                found[name] = Spread.of(values)
        return cls(
            answers=len(answers),
            decisions=int(tally.total),
            accepted=float(tally.counts[1] / tally.total),
            effective=round(tally.effective, 1),
            signals=found,
        )

    @classmethod
    def read(cls, record: Any, place: str) -> Reference:
        """Read a reference, as parsed from JSON.

        Args:
            record: what should be one.
            place: where it was found, for the message.

        Raises:
            OptionError: it is none.
        """
        from pydantic import ValidationError

        try:
            found: Reference = _adapter().validate_python(record)
        except ValidationError as error:
            problem = first_problem(error, "the reference")
            raise OptionError(f"{place}: no reference ({problem}).") from error
        if not 0 <= found.accepted <= 1:
            raise OptionError(f"{place}: no reference (accepted is no share).")
        for name, spread in found.signals.items():
            shape = len(spread.deciles), len(spread.counts)
            ascends = list(spread.deciles) == sorted(spread.deciles)
            counted = min(spread.counts, default=0) >= 0 and sum(spread.counts) > 0
            if shape != (BINS - 1, BINS) or not ascends or not counted:
                raise OptionError(f"{place}: signal {name!r} has no nine deciles with ten counts.")
        return found


@dataclass(frozen=True, slots=True)
class Fitted:
    """A policy as it was fitted: what drift is measured from.

    Attributes:
        parameters: the values of its parameters; those that are not among them have no effect.
        reference: what its decisions were then.
    """

    parameters: Mapping[str, Any]
    reference: Reference

    def compare(self, policy: Policy) -> tuple[bool, bool]:
        """Whether a policy's numbers, and its decisions, may be held against the reference.

        Both may where it is as it was fitted. Under another threshold the same numbers are
        decided otherwise; whatever changes what is drafted changes the numbers, too.

        Args:
            policy: the policy, with the parameters of a request.
        """
        usual = replace(policy, **self.parameters)  # type: ignore[type-var]
        before = values_of(usual)
        changed = {name for name, value in values_of(policy).items() if value != before[name]}
        changed -= _WITHOUT_EFFECT
        # Where hopeless steps are broken off, theirs are numbers of their beginnings.
        early, as_early = _ends_early(policy), _ends_early(usual)
        same_ends = early == as_early and not (early and "threshold" in changed)
        return changed <= _DECIDING and same_ends, not changed


_FITTED = "fitted"
"""The field, or the property, that says what is known of a policy as it was fitted."""

_WITHOUT_EFFECT = frozenset({"shadow", "whole", "loop_after", "speculate"})
"""Parameters without effect on numbers of whole steps, or on decisions."""

_DECIDING = frozenset(
    {"threshold", "lower", "target_threshold", "overrule", "target_candidates", "inner"}
)
"""Parameters with effect on decisions and on what the target writes, not on the numbers."""


def fitted_of(policy: object) -> Fitted | None:
    """What is known of a policy as it was fitted; None where it was not, or nothing is known."""
    found = getattr(policy, _FITTED, None)
    return found if isinstance(found, Fitted) else None


def with_fitted(policy: P, record: Mapping[str, Any], place: str) -> P:
    """A policy that knows what its file says of it as it was fitted.

    Args:
        policy: the policy, as it is in the file.
        record: the file of a calibration, as parsed from JSON.
        place: the file's name, for messages.

    Raises:
        OptionError: the file has a reference that cannot be read.
    """
    if not any(f.name == _FITTED for f in fields(policy)):  # type: ignore[arg-type]
        return policy
    reference = None
    if (found := record.get("reference")) is not None:
        reference = Reference.read(found, place)
    else:
        match record.get("chosen"):
            case {"kept": float() | int() as kept, "problems": int() as problems} if problems > 0:
                # From before there were references. The number of steps is not in the file; there
                # was one in each answer at least.
                reference = Reference(problems, problems, float(kept), problems)
            case _:
                return policy
    return replace(policy, fitted=Fitted(values_of(policy), reference))  # type: ignore[type-var]


def reference_of(trained: Mapping[str, Any], place: str) -> tuple[Reference | None, float | None]:
    """What an arbiter's record of its training says of its decisions, and at which threshold.

    Args:
        trained: the record.
        place: the arbiter's name, for messages.

    Raises:
        OptionError: it has a reference that cannot be read.
    """
    validation = upgrade(trained.get("validation"))
    threshold = validation.get("threshold") if isinstance(validation, dict) else None
    if (found := trained.get("reference")) is not None:
        return Reference.read(found, place), threshold
    match validation:
        case {
            "mismatches": int() as mismatches,
            "accepted_mismatches": int() as accepted,
            "questions": int() as questions,
        } if questions > 0:
            if not mismatches:
                return None, threshold
            # From before there were references. How alike the decisions of an answer are is not
            # in the file; at worst they are worth one.
            worth = min(questions, mismatches)
            return Reference(questions, mismatches, accepted / mismatches, worth), threshold
        case _:
            return None, threshold


def fitted_as(policy: P, other: Policy) -> P:
    """A policy that knows of itself what another one does, of which it was made."""
    found = fitted_of(other)
    return policy if found is None else replace(policy, fitted=found)  # type: ignore[type-var]


def step_decisions(steps: Iterable[StepRecord]) -> list[Decision]:
    """The decisions about an answer's steps."""
    return [
        Decision(
            step.signals if step.score is None else {**step.signals, SCORE: step.score},
            step.decision == "accepted",
        )
        for step in steps
    ]


def mismatch_decisions(blocks: Iterable[BlockRecord], length: int) -> list[Decision]:
    """An arbiter's decisions in the blocks of an answer; those after its end do not count.

    Args:
        blocks: the answer's blocks.
        length: its tokens.
    """
    return [
        Decision({PROBABILITY: mismatch.score}, mismatch.accepted)
        for block in blocks
        for mismatch in block.mismatches
        if block.position + mismatch.at < length
    ]


def _ends_early(policy: Policy) -> bool:
    """Whether candidates may be broken off."""
    return isinstance(policy, StepPolicy) and policy.doubt(SamplingParams()) is not None


def _tally(edges: Sequence[float], answers: Iterable[Sequence[float]]) -> Tally:
    tally = Tally(edges)
    for values in answers:
        tally.add(values)
    return tally


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Reference)
