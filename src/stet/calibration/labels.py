"""Whether a step that the draft proposed is good, by one of two tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stet.calibration.rollouts import Prefix, Rollouts
from stet.core.steps import Delimiter, ends_of, normalised
from stet.requests.options import PINNED

if TYPE_CHECKING:
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Proposal:
    """A step that the draft proposed.

    Attributes:
        before: what stood before it.
        tokens: its tokens.
        text: what it says.
    """

    before: Prefix
    tokens: tuple[int, ...]
    text: str

    @property
    def after(self) -> Prefix:
        """What stands after it, if it does."""
        before = self.before
        return Prefix(before.prompt, before.written + self.tokens, before.reference)


class Labeller(Protocol):
    """Tells good steps from bad."""

    @property
    def words(self) -> str:
        """When a step is good, as a sentence without its end."""
        ...

    def label(self, proposals: Sequence[Proposal]) -> list[bool | None]:
        """Whether each step is good; None where nothing can be said of it."""
        ...


@dataclass(frozen=True)
class ByAnswer:
    """A step is good if the target still gets from it to the reference.

    Where it could not before the step either, the step is to blame for nothing: None.

    Attributes:
        rollouts: the target's completions.
    """

    rollouts: Rollouts

    @property
    def words(self) -> str:
        """When a step is good."""
        if self.rollouts.samples:
            return (
                f"at least half of {self.rollouts.samples} sampled completions by the target give "
                "the reference answer"
            )
        return "the target's greedy completion of the step gives the reference answer"

    def label(self, proposals: Sequence[Proposal]) -> list[bool | None]:
        """Whether each step is good."""
        sound = self.rollouts.sound([p.before for p in proposals])
        # After a prefix that is lost already no step is to blame.
        checked = [p.after for p, ok in zip(proposals, sound, strict=True) if ok]
        good = iter(self.rollouts.sound(checked))
        return [next(good) if ok else None for ok in sound]


@dataclass(frozen=True)
class ByStep:
    """A step is good if the target, writing greedily from the same prefix, writes the same.

    Case and white space do not count, wording does.

    Attributes:
        pair: whose target writes.
        delimiter: what ends a step.
    """

    pair: Pair
    delimiter: Delimiter

    @property
    def words(self) -> str:
        """When a step is good."""
        return "the target writes the same step from the same prefix"

    def label(self, proposals: Sequence[Proposal]) -> list[bool | None]:
        """Whether each step is good."""
        found: list[bool | None] = [None] * len(proposals)
        # Prompts of one call share their limits, so those of equal length so far go together.
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
                found[place] = result.error is None and same
        return found

    def _same(self, proposal: Proposal, text: str, ids: Sequence[int]) -> bool:
        ends = ends_of(self.delimiter)
        end = ends(proposal.text)
        if end is not None:
            own = ends(text)
            return own is not None and normalised(text[:own]) == normalised(proposal.text[:end])
        if proposal.tokens and proposal.tokens[-1] not in self.pair.end_tokens:
            # Cut off at the limit of a step: the same as far as it goes.
            kept = list(ids[: len(proposal.tokens)])
            text = self.pair.tokenizer.decode(kept, skip_special_tokens=True)
        return normalised(text) == normalised(proposal.text)


def _room(length: int) -> int:
    # The target's step is the same only if it is about as long; in coarse portions.
    return -(-(length + 4) // 16) * 16
