"""What can be known of a disagreement when it is decided: all of it is there after the pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stet.errors import OptionError
from stet.needs import Need

if TYPE_CHECKING:
    from stet.policies.arbitration import Choices
    from stet.policies.base import Blocks

TOP = 5
"""Tokens of each model whose overlap is counted."""


@dataclass(eq=False)
class Position:
    """N positions of a batch of blocks, at which the draft's token d stands against the target's t.

    Attributes:
        blocks: the batch.
        found: what each model wants.
        rows: [N] int64, the block of each.
        places: [N] int64, its position in the block.
    """

    blocks: Blocks
    found: Choices
    rows: Tensor
    places: Tensor

    @cached_property
    def draft(self) -> Tensor:
        """[N] int64: d."""
        return self.blocks.drafted[self.rows, self.places]

    @cached_property
    def target(self) -> Tensor:
        """[N] int64: t."""
        return self.found.target[self.rows, self.places]

    @cached_property
    def p(self) -> Reading:
        """What the target makes of the position."""
        return Reading(self._at(self.blocks.raw_target_logits))

    @cached_property
    def q(self) -> Reading:
        """What the draft makes of it."""
        return Reading(self._at(self.blocks.raw_draft_logits))

    @cached_property
    def after(self) -> Reading:
        """What the target makes of the next position if d stands."""
        return Reading(self._at(self.blocks.raw_target_logits, 1))

    def _at(self, values: Tensor, shift: int = 0) -> Tensor:
        """[N, V] of [B, K, V]; selecting whole rows is several times faster than indexing twice."""
        flat = self.rows * values.shape[1] + (self.places + shift)
        return values.flatten(0, 1).index_select(0, flat)


class Reading:
    """A model's raw distributions at N positions, V tokens each, in as few passes over V as can be.

    Args:
        logits: [N, V].
    """

    def __init__(self, logits: Tensor) -> None:
        # A token without any probability has a logit of minus infinity, and 0 times that is no
        # number.
        self.logits = logits.float().clamp(min=-1e30)

    @cached_property
    def _probs(self) -> Tensor:
        return self.logits.softmax(-1)

    @cached_property
    def surest(self) -> Tensor:
        """[N]: the best token's log-probability."""
        return self._probs.amax(-1).log()

    @cached_property
    def _total(self) -> Tensor:
        """[N]: log of the sum of all exponentials; a logarithm of V numbers would cost more."""
        return self.logits.amax(-1) - self.surest

    def of(self, token: Tensor) -> Tensor:
        """[N]: the log-probabilities of tokens [N], no less than -30 nats."""
        return (self.logits.gather(1, token[:, None])[:, 0] - self._total).clamp(min=-30.0)

    def entropy(self) -> Tensor:
        """[N], in nats."""
        mean: Tensor = torch.linalg.vecdot(self._probs, self.logits)
        return self._total - mean

    def rank(self, token: Tensor) -> Tensor:
        """[N]: how many tokens are more probable."""
        return (self.logits > self.logits.gather(1, token[:, None])).sum(-1)

    def best(self, count: int) -> Tensor:
        """[N, count]: the most probable tokens."""
        return self.logits.topk(min(count, self.logits.shape[1]), -1).indices


Measure = Callable[[Position], Tensor]


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that is known of a disagreement.

    Attributes:
        name: what it is called in an arbiter's settings.
        measure: [N] or [N, D] float32 of N positions.
        says: what it is, for people.
        needs: what the engine must keep for it.
        in_block: whether it depends on where blocks begin and end; text then does, too.
    """

    name: str
    measure: Measure
    says: str
    needs: frozenset[Need] = frozenset()
    in_block: bool = False


_DRAFT = frozenset({Need.DRAFT_LOGPROBS})
_TARGET_STATES = frozenset({Need.TARGET_HIDDEN})


def _overlap(at: Position) -> Tensor:
    mine, theirs = at.p.best(TOP), at.q.best(TOP)
    return (mine[:, :, None] == theirs[:, None, :]).any(2).float().mean(1)


def _earlier(at: Position) -> Tensor:
    """Disagreements before in the block: where this one is reached, all of them were overruled."""
    differs = ((~at.found.agree) & at.blocks.present).long()
    return (differs.cumsum(1) - differs)[at.rows, at.places]


def _followed(at: Position) -> Tensor:
    """Drafted tokens right behind this one with which the target agrees."""
    agrees = at.found.agree & at.blocks.present
    count = torch.zeros_like(at.blocks.drafted)
    running = torch.zeros_like(at.blocks.lengths)
    for place in range(agrees.shape[1] - 1, -1, -1):
        count[:, place] = running
        running = torch.where(agrees[:, place], running + 1, 0)
    return count[at.rows, at.places].float().log1p()


def _states(hidden: Tensor | None, at: Position, shift: int = 0) -> Tensor:
    if hidden is None:
        raise RuntimeError("declare the feature's `needs` in the policy to read hidden states")
    return hidden[at.rows, at.places + shift].float()


_ALL = (
    Feature("target_target", lambda at: at.p.of(at.target), "log p_target(t)"),
    Feature("target_draft", lambda at: at.p.of(at.draft), "log p_target(d)"),
    Feature("draft_draft", lambda at: at.q.of(at.draft), "log p_draft(d)", _DRAFT),
    Feature("draft_target", lambda at: at.q.of(at.target), "log p_draft(t)", _DRAFT),
    Feature("target_entropy", lambda at: at.p.entropy(), "entropy of the target"),
    Feature("draft_entropy", lambda at: at.q.entropy(), "entropy of the draft", _DRAFT),
    Feature(
        "target_rank", lambda at: at.p.rank(at.draft).float().log1p(), "log(1 + rank of d), target"
    ),
    Feature(
        "draft_rank",
        lambda at: at.q.rank(at.target).float().log1p(),
        "log(1 + rank of t), draft",
        _DRAFT,
    ),
    Feature("overlap", _overlap, f"share of {TOP} best tokens in common", _DRAFT),
    Feature("entropy_after", lambda at: at.after.entropy(), "entropy of the target behind d"),
    Feature("surest_after", lambda at: at.after.surest, "the target's best log p behind d"),
    Feature(
        "answered",
        lambda at: at.blocks.history[at.rows, 0] + at.places,
        "tokens of the answer so far",
    ),
    Feature(
        "overruled",
        lambda at: at.blocks.history[at.rows, 1] + _earlier(at),
        "drafted tokens that stand against the target's so far",
    ),
    Feature("place", lambda at: at.places, "position in the block", in_block=True),
    Feature("overruled_in_block", _earlier, "the same in this block", in_block=True),
    Feature(
        "followed",
        _followed,
        "log(1 + drafted tokens right behind d that the target agrees with)",
        in_block=True,
    ),
    Feature(
        "target_hidden",
        lambda at: _states(at.blocks.target_hidden, at),
        "the target's last hidden state before d",
        _TARGET_STATES,
    ),
    Feature(
        "target_hidden_after",
        lambda at: _states(at.blocks.target_hidden, at, 1),
        "the target's last hidden state at d",
        _TARGET_STATES,
    ),
    Feature(
        "draft_hidden",
        lambda at: _states(at.blocks.draft_hidden, at),
        "the draft's last hidden state before d",
        frozenset({Need.DRAFT_HIDDEN}),
    ),
)

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}
"""Every feature by name."""

DEFAULT = (
    "target_target",
    "target_draft",
    "draft_draft",
    "draft_target",
    "target_entropy",
    "draft_entropy",
)
"""What an arbiter looks at unless told otherwise: numbers that mean the same for every pair, and
cost little. Sorting or counting over a vocabulary, as ranks and the overlap need, does not.

What came before in the answer is none of them: in training, an answer is gone on with from any of
its decisions, and counting begins anew there.
"""


def named(names: Iterable[str]) -> tuple[Feature, ...]:
    """Features by name.

    Raises:
        OptionError: for an unknown name, listing the known ones.
    """
    found: list[Feature] = []
    for name in names:
        if name not in FEATURES:
            raise OptionError(
                f"There is no feature {name!r} of a disagreement; choose from "
                f"{', '.join(FEATURES)}."
            )
        found.append(FEATURES[name])
    return tuple(found)


def needs_of(names: Iterable[str]) -> frozenset[Need]:
    """What the engine must keep for these features."""
    return frozenset[Need]().union(*(feature.needs for feature in named(names)))


def measure(at: Position, names: Sequence[str]) -> Tensor:
    """[N, F] float32: the features in this order, one column each, or D for a hidden state."""
    columns = [feature.measure(at).float() for feature in named(names)]
    return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], 1)
