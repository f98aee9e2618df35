"""The features of a mismatch: all that is known after the target's pass, when it is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stet.arbiter.position import DRAFT, TARGET, Position, Spot
from stet.core.errors import OptionError
from stet.core.needs import Need

TOP = 5
"""Number of each model's most probable tokens of which `overlap` is computed."""


Measure = Callable[[Position], Tensor]


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of a mismatch.

    Attributes:
        name: its name in an arbiter's settings.
        measure: computes it at N positions, [N] or [N, D] float32.
        says: a description for people.
        number: computes it at a single position on a CPU, where that is cheaper; None: no such
            function.
        needs: what the engine must keep of the models' passes for it.
        in_block: whether it depends on where blocks begin and end; the text then does, too.
    """

    name: str
    measure: Measure
    says: str
    needs: frozenset[Need] = frozenset()
    in_block: bool = False
    number: Callable[[Spot], float] | None = None


_DRAFT = frozenset({Need.DRAFT_LOGPROBS})
_TARGET_STATES = frozenset({Need.TARGET_HIDDEN})
_AFTER = frozenset({Need.TARGET_AFTER})


def _overlap(at: Position) -> Tensor:
    """The share of tokens that are among the `TOP` best of both models."""
    mine, theirs = at.both.best(TOP).unbind()
    return (mine[:, :, None] == theirs[:, None, :]).any(2).float().mean(1)


def _earlier(at: Position) -> Tensor:
    """Earlier mismatches in the block; where this one is reached, all of them were accepted."""
    differs = ((~at.mismatches.agree) & at.blocks.present).long()
    return (differs.cumsum(1) - differs)[at.rows, at.places]


def _followed(at: Position) -> Tensor:
    """log(1 + the number of drafted tokens right after this one with which the target agrees)."""
    agrees = at.mismatches.agree & at.blocks.present
    count = torch.zeros_like(at.blocks.drafted)
    running = torch.zeros_like(at.blocks.lengths)
    for place in range(agrees.shape[1] - 1, -1, -1):
        count[:, place] = running
        running = torch.where(agrees[:, place], running + 1, 0)
    return count[at.rows, at.places].float().log1p()


def _states(hidden: Tensor, at: Position, shift: int = 0) -> Tensor:
    return hidden[at.rows, at.places + shift].float()


_ALL = (
    Feature(
        "target_target",
        lambda at: at.models[TARGET].of_target,
        "log p_target(t)",
        number=lambda at: at.target.of_target,
    ),
    Feature(
        "target_draft",
        lambda at: at.models[TARGET].of_draft,
        "log p_target(d)",
        number=lambda at: at.target.of_draft,
    ),
    Feature(
        "draft_draft",
        lambda at: at.models[DRAFT].of_draft,
        "log p_draft(d)",
        _DRAFT,
        number=lambda at: at.draft.of_draft,
    ),
    Feature(
        "draft_target",
        lambda at: at.models[DRAFT].of_target,
        "log p_draft(t)",
        _DRAFT,
        number=lambda at: at.draft.of_target,
    ),
    Feature(
        "target_entropy",
        lambda at: at.models[TARGET].entropy,
        "entropy of the target",
        number=lambda at: at.target.entropy,
    ),
    Feature(
        "draft_entropy",
        lambda at: at.models[DRAFT].entropy,
        "entropy of the draft",
        _DRAFT,
        number=lambda at: at.draft.entropy,
    ),
    Feature(
        "target_rank",
        lambda at: at.both.rank(TARGET, at.draft).float().log1p(),
        "log(1 + rank of d), target",
    ),
    Feature(
        "draft_rank",
        lambda at: at.both.rank(DRAFT, at.target).float().log1p(),
        "log(1 + rank of t), draft",
        _DRAFT,
    ),
    Feature("overlap", _overlap, f"share of {TOP} best tokens in common", _DRAFT),
    Feature(
        "entropy_after",
        lambda at: at.after.entropy()[TARGET],
        "entropy of the target after d",
        _AFTER,
    ),
    Feature(
        "surest_after",
        lambda at: at.after.surest[TARGET],
        "the target's best log p after d",
        _AFTER,
    ),
    Feature(
        "answered",
        lambda at: at.blocks.history[at.rows, 0] + at.places,
        "tokens of the answer so far",
    ),
    Feature(
        "accepted_mismatches",
        lambda at: at.blocks.history[at.rows, 1] + _earlier(at),
        "accepted mismatches in the answer so far",
    ),
    Feature("place", lambda at: at.places, "position in the block", in_block=True),
    Feature(
        "accepted_mismatches_in_block",
        _earlier,
        "accepted mismatches in this block so far",
        in_block=True,
    ),
    Feature(
        "followed",
        _followed,
        "log(1 + drafted tokens right after d that the target agrees with)",
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
        _TARGET_STATES | _AFTER,
    ),
    Feature(
        "draft_hidden",
        lambda at: _states(at.blocks.draft_hidden, at),
        "the draft's last hidden state before d",
        frozenset({Need.DRAFT_HIDDEN}),
    ),
)

FEATURES: dict[str, Feature] = {feature.name: feature for feature in _ALL}
"""All features, by name."""

DEFAULT = (
    "target_target",
    "target_draft",
    "draft_draft",
    "draft_target",
    "target_entropy",
    "draft_entropy",
)
"""The default features of an arbiter: numbers that mean the same for every pair and are cheap.

Ranks and the overlap are not among them, as sorting and counting over a vocabulary are expensive.
Nor are counts over the answer so far: in training, rollouts start at any decision of an answer, and
counting starts there.
"""


def named(names: Iterable[str]) -> tuple[Feature, ...]:
    """The features of these names.

    Raises:
        OptionError: a name is unknown; the message lists the known ones.
    """
    found: list[Feature] = []
    for name in names:
        if name not in FEATURES:
            raise OptionError(
                f"There is no feature {name!r} of a mismatch; choose from {', '.join(FEATURES)}."
            )
        found.append(FEATURES[name])
    return tuple(found)


def needs_of(names: Iterable[str]) -> frozenset[Need]:
    """What the engine must keep of the models' passes for the features of these names."""
    return frozenset[Need]().union(*(feature.needs for feature in named(names)))


def measure(at: Position, names: Sequence[str]) -> Tensor:
    """Compute features in this order, [N, F] float32: one column each, D for a hidden state."""
    columns = [feature.measure(at).float() for feature in named(names)]
    if all(column.dim() == 1 for column in columns):
        return torch.stack(columns, 1)
    return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], 1)
