"""Labelling the steps that the draft proposed as good or bad, by one of two tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stet.calibration.rollouts import Prefix, Rolling, Rollouts
from stet.core.steps import Delimiter, ends_of, normalise
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Proposal:
    """A step that the draft proposed.

    Attributes:
        before: the answer before the step.
        tokens: the step's tokens.
        text: the step's text.
    """

    before: Prefix
    tokens: tuple[int, ...]
    text: str

    @property
    def after(self) -> Prefix:
        """The answer after the step, if it is accepted."""
        before = self.before
        return Prefix(before.prompt, before.written + self.tokens, before.reference)


class Label(NamedTuple):
    """What is known of a step.

    Attributes:
        good: whether it is good; None where that cannot be told.
        saves: whether it is good where the target's own step is not.
    """

    good: bool | None
    saves: bool = False


class Labeller(Protocol):
    """Labels steps as good or bad."""

    def label(self, proposals: Sequence[Proposal]) -> list[Label]:
        """Label each step."""
        ...


@dataclass(frozen=True)
class ByAnswer:
    """Labels a step as good if the target's rollout from it reaches the reference answer.

    If the rollout from before the step does not reach it, the step saves the answer. Where neither
    reaches it, no step is to blame, and the label is None.

    Attributes:
        rollouts: the target's rollouts.
    """

    rollouts: Rollouts

    def label(self, proposals: Sequence[Proposal]) -> list[Label]:
        """Label each step, see `Labeller`."""
        before = self.rollouts.sound([p.before for p in proposals])
        after = self.rollouts.sound([p.after for p in proposals])
        return [
            Label(True if good else False if sound else None, good and not sound)
            for sound, good in zip(before, after, strict=True)
        ]


@dataclass(frozen=True)
class ByStep:
    """Labels a step as good if the target's greedy step from the same prefix is the same.

    Steps are compared by their texts, case and white space aside.

    Attributes:
        pair: the pair whose target writes.
        delimiter: the text that ends a step, several of them, or "sentence".
    """

    pair: Pair
    delimiter: Delimiter

    def label(self, proposals: Sequence[Proposal]) -> list[Label]:
        """Label each step, see `Labeller`."""
        found = [Label(None)] * len(proposals)
        # Prompts of one call share their limits, so proposals of equal room are grouped.
        groups: dict[int, list[int]] = defaultdict(list)
        for place, proposal in enumerate(proposals):
            before = proposal.before
            fits = self.pair.max_length - len(before.prompt) - len(before.written)
            groups[min(_room(len(proposal.tokens)), fits)].append(place)
        for room, places in groups.items():
            prompts = [[*proposals[i].before.prompt, *proposals[i].before.written] for i in places]
            results = self.pair.generate(prompts, "exact", max_new_tokens=room, fit=True, **PINNED)
            for place, result in zip(places, results, strict=True):
                same = self._same(proposals[place], result.text, result.token_ids)
                found[place] = Label(result.error is None and same)
        return found

    def _same(self, proposal: Proposal, text: str, ids: Sequence[int]) -> bool:
        ends = ends_of(self.delimiter)
        end = ends(proposal.text)
        if end is not None:
            own = ends(text)
            return own is not None and normalise(text[:own]) == normalise(proposal.text[:end])
        if proposal.tokens and proposal.tokens[-1] not in self.pair.end_tokens:
            # Cut at the limit of a step: the target's text is compared up to the same length.
            kept = list(ids[: len(proposal.tokens)])
            text = self.pair.tokenizer.decode(kept, skip_special_tokens=True)
        return normalise(text) == normalise(proposal.text)


class Labelling(Protocol):
    """How steps are labelled, for whoever has the pair."""

    @property
    def words(self) -> str:
        """The condition under which a step is good, as a clause."""
        ...

    def of(self, pair: Pair, chunk: int) -> Labeller:
        """The labeller of a chunk of questions, which is told by a number."""
        ...


@dataclass(frozen=True, slots=True)
class LabellingByAnswer:
    """Labels as `ByAnswer` does.

    Attributes:
        rolling: settings of the target's rollouts.
    """

    rolling: Rolling

    @property
    def words(self) -> str:
        """The condition under which a step is good, as a clause."""
        if self.rolling.samples:
            return (
                f"at least half of {self.rolling.samples} sampled completions by the target give "
                "the reference answer"
            )
        return "the target's greedy completion of the step gives the reference answer"

    def of(self, pair: Pair, chunk: int) -> Labeller:
        """See `Labelling`."""
        return ByAnswer(self.rolling.of(pair, chunk))


@dataclass(frozen=True, slots=True)
class LabellingByStep:
    """Labels as `ByStep` does.

    Attributes:
        delimiter: the text that ends a step, several of them, or "sentence".
    """

    delimiter: Delimiter

    @property
    def words(self) -> str:
        """The condition under which a step is good, as a clause."""
        return "the target writes the same step from the same prefix"

    def of(self, pair: Pair, chunk: int) -> Labeller:
        """See `Labelling`."""
        del chunk
        return ByStep(pair, self.delimiter)


def _room(length: int) -> int:
    # The target's step can be the same only if it is about as long; rounded up to share calls.
    return -(-(length + 4) // 16) * 16
