"""The view of a batch of drafted blocks that a token policy is given, after the target's pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from stet.core.block import Steps, whole
from stet.core.errors import StetError
from stet.core.needs import Need, undeclared
from stet.core.sampling import Sampler, one_hot
from stet.core.tensors import at
from stet.core.wide import best, log_total, peak

# Slots of the random numbers of one round: no two purposes share one.
DRAFT = 0
"""First slot for drawing drafted tokens."""

ACCEPT = 1 << 16
"""First slot for decisions on drafted tokens, one a position."""

NEXT = 2 << 16
"""First slot for drawing the token after the accepted ones."""

ARBITRATE = 3 << 16
"""First slot for decisions on tokens that the exact rule rejects."""


class Blocks:
    """A batch of drafted blocks after the target's pass over them, as a token policy is given it.

    B blocks of up to K drafted tokens, V tokens in the vocabulary. Position i of the target's
    tensors speaks about the token *after* i drafted ones, so there are K + 1 of them; what is at
    the last one of a block means nothing to a policy that defers the bonus token, unless it has
    `Need.TARGET_AFTER`. Shorter blocks are padded on the right; `present` says where a real token
    is. Every tensor is on the device, and computed the first time it is asked for. A policy can
    read only what it declares in its `needs`, whatever was kept for others of its batch.

    Attributes:
        drafted: [B, K] int64, the drafted tokens.
        lengths: [B] int64, the tokens in each block.
        raw_target_logits: [B, K + 1, V], before any transform.
        all_greedy: True where every request of the batch is at temperature 0.
    """

    def __init__(
        self,
        *,
        drafted: Tensor,
        lengths: Tensor,
        target_logits: Tensor,
        sampler: Sampler,
        uniforms: Callable[[int, int], Tensor],
        full: bool = False,
        draft_probs: Tensor | None = None,
        draft_logits: Tensor | Steps | None = None,
        target_hidden: Tensor | None = None,
        draft_hidden: Tensor | None = None,
        history: Callable[[], Tensor] | None = None,
        needs: frozenset[Need] = frozenset(Need),
    ) -> None:
        self.drafted = drafted
        self.lengths = lengths
        self.raw_target_logits = target_logits
        self.full = full
        self.all_greedy = sampler.all_greedy
        self._target_hidden = target_hidden
        self._draft_hidden = draft_hidden
        self._needs = needs
        self._sampler = sampler
        self._uniforms = uniforms
        self._draft_probs = draft_probs
        self._draft_logits = draft_logits
        self._history = history

    def require(self, need: Need, what: str) -> None:
        """Refuse to hand out tensors that were not declared.

        Raises:
            StetError: the policy does not declare this need.
        """
        if need not in self._needs:
            raise undeclared(what, need)

    @cached_property
    def present(self) -> Tensor:
        """[B, K] bool: where `drafted` holds a token of the block."""
        width = self.drafted.shape[1]
        return torch.arange(width, device=self.drafted.device) < self.lengths[:, None]

    @cached_property
    def target_logits(self) -> Tensor:
        """[B, K + 1, V] float32, after penalty and bias, before temperature and truncation."""
        return self._sampler.edit(self.raw_target_logits, self.drafted)

    @cached_property
    def _best(self) -> tuple[Tensor, Tensor]:
        return peak(self.target_logits)

    @cached_property
    def draft_logits(self) -> Tensor:
        """[B, K, V] float32, the draft's logits after penalty and bias (`Need.DRAFT_LOGPROBS`)."""
        return self._sampler.edit(self.raw_draft_logits, self.drafted[:, :-1])

    def distribution(self, logits: Tensor) -> Tensor:
        """[B, T, V] float32: the distributions that requests would sample from, for given logits.

        Args:
            logits: [B, T, V], a policy's own, made of logits to which penalty and bias have been
                applied (`target_logits`, `draft_logits`): a penalty depends on the sign of a
                logit, so it means something else to a log-probability.
        """
        return self._sampler.probs(logits)

    @property
    def target_tokens(self) -> Tensor:
        """[B, K + 1] int64: the target's most probable token at each position."""
        return self._best[1]

    @property
    def finite(self) -> Tensor:
        """[B] bool: whether the target's logits are numbers (a maximum passes a NaN on)."""
        if self.all_greedy:
            return self._best[0].isfinite().all(1)
        return self.target_logits.amax(-1).isfinite().all(1)

    @cached_property
    def target_probs(self) -> Tensor:
        """[B, K + 1, V] float32: the target's sampling distributions; one-hot when greedy."""
        return self._sampler.probs(self.target_logits)

    @cached_property
    def drafted_probs(self) -> Tensor:
        """[B, K] float32: each drafted token's entry of `draft_probs`, without making all of it."""
        if self._draft_probs is None:
            return torch.ones(self.drafted.shape, device=self.drafted.device)
        return self._draft_probs.gather(2, self.drafted[..., None])[..., 0]

    def draft_share(self, position: Tensor) -> Tensor:
        """[B, V]: `draft_probs` at one position [B] of each block; zero past the end of a block."""
        width = self.drafted.shape[1]
        inside = (position < self.lengths)[:, None]
        size = (len(self.lengths), self.raw_target_logits.shape[-1])
        if not width:
            return torch.zeros(size, device=position.device)
        place = position.clamp(max=width - 1)
        if self._draft_probs is not None:
            return at(self._draft_probs, place).masked_fill_(~inside, 0.0)
        token = self.drafted.gather(1, place[:, None])
        return torch.zeros(size, device=position.device).scatter_(1, token, inside.float())

    def subtract_draft(self, p: Tensor) -> Tensor:
        """[B, K + 1, V]: a copy of `p` less `draft_probs`, where a token was drafted."""
        p = p.clone()
        if self._draft_probs is None:
            p[:, :-1].scatter_add_(2, self.drafted[..., None], -self.present[..., None].float())
        elif self.full:
            p[:, :-1].sub_(self._draft_probs)
        else:
            p[:, :-1].sub_(self._draft_probs.masked_fill(~self.present[..., None], 0.0))
        return p

    @cached_property
    def draft_probs(self) -> Tensor:
        """[B, K, V] float32: the draft's sampling distributions; one-hot when greedy.

        Drafts that were not sampled (greedy ones, text copied from the prompt) have probability 1
        at their tokens. Needs `Need.DRAFT_PROBS`.
        """
        self.require(Need.DRAFT_PROBS, "the draft's probabilities")
        if self._draft_probs is None:
            return one_hot(self.drafted, self.raw_target_logits.shape[-1])
        return self._draft_probs

    @cached_property
    def target_total(self) -> Tensor:
        """[B, K + 1]: the target's raw logits less this are its raw log-probabilities."""
        return log_total(self.raw_target_logits)

    @cached_property
    def draft_total(self) -> Tensor:
        """[B, K]: the draft's raw logits less this are its raw log-probabilities."""
        return log_total(self.raw_draft_logits)

    def target_logprobs_of(self, tokens: Tensor) -> Tensor:
        """[B, K + 1, n]: entries of `target_logprobs`, without computing all of it.

        Args:
            tokens: [B, K + 1, n].
        """
        return self.raw_target_logits.gather(2, tokens) - self.target_total[..., None]

    def draft_logprobs_of(self, tokens: Tensor) -> Tensor:
        """[B, K, n]: entries of `draft_logprobs`, without computing all of it.

        Args:
            tokens: [B, K, n].
        """
        return self.raw_draft_logits.gather(2, tokens) - self.draft_total[..., None]

    def target_best(self, count: int) -> tuple[Tensor, Tensor]:
        """The target's most probable tokens: their raw log-probabilities, and the tokens.

        Args:
            count: n, how many, at most V.

        Returns:
            [B, K + 1, n] each, descending.
        """
        values, tokens = best(self.raw_target_logits, count)
        return values - self.target_total[..., None], tokens

    @cached_property
    def target_logprobs(self) -> Tensor:
        """[B, K + 1, V] float32: the target's raw log-probabilities, before any transform."""
        return self.raw_target_logits.log_softmax(-1)

    @cached_property
    def draft_logprobs(self) -> Tensor:
        """[B, K, V] float32: the draft's raw log-probabilities (`Need.DRAFT_LOGPROBS`)."""
        return self.raw_draft_logits.log_softmax(-1)

    @property
    def raw_draft_logits(self) -> Tensor:
        """[B, K, V]: the draft's raw logits, before any transform (`Need.DRAFT_LOGPROBS`).

        Copied text has log-probability 0 at its tokens, and -inf elsewhere.
        """
        self.require(Need.DRAFT_LOGPROBS, "the draft's log-probabilities")
        if self._draft_logits is None:
            return one_hot(self.drafted, self.raw_target_logits.shape[-1]).log()
        return whole(self._draft_logits)

    def draft_row(self, row: int, place: int) -> Tensor:
        """[V]: the draft's raw logits at one position, without joining those of the others."""
        self.require(Need.DRAFT_LOGPROBS, "the draft's log-probabilities")
        if self._draft_logits is None:
            return one_hot(self.drafted[row, place], self.raw_target_logits.shape[-1]).log()
        if isinstance(self._draft_logits, Steps):
            return self._draft_logits.at(row, place)
        return self._draft_logits[row, place]

    def edited_draft_row(self, row: int, place: int) -> Tensor:
        """[V]: `draft_logits` at one position, without computing those of the others."""
        if self._sampler.edits:
            return self.draft_logits[row, place]
        return self.draft_row(row, place)

    @property
    def reads_draft_logits(self) -> bool:
        """Whether the policy declares that it reads the draft's logits."""
        return Need.DRAFT_LOGPROBS in self._needs

    @property
    def target_hidden(self) -> Tensor:
        """[B, K + 1, D], the target's last hidden states (`Need.TARGET_HIDDEN`)."""
        return self._states(self._target_hidden, Need.TARGET_HIDDEN, "target")

    @property
    def draft_hidden(self) -> Tensor:
        """[B, K, D], the draft's last hidden states (`Need.DRAFT_HIDDEN`)."""
        return self._states(self._draft_hidden, Need.DRAFT_HIDDEN, "draft")

    def _states(self, hidden: Tensor | None, need: Need, model: str) -> Tensor:
        self.require(need, f"the {model}'s hidden states")
        if hidden is None:
            raise StetError(f"There are no hidden states of the {model}: no model wrote this text.")
        return hidden

    @cached_property
    def history(self) -> Tensor:
        """[B, 2] int64: tokens of each answer before the block, and accepted mismatches in them."""
        if self._history is None:
            return self.lengths.new_zeros(len(self.lengths), 2)
        return self._history()

    def uniform(self, slot: int, count: int) -> Tensor:
        """[B, count] float32 in [0, 1), the requests' own random numbers of this round.

        Args:
            slot: `stet.policies.ACCEPT` for decisions on drafted tokens (one slot a position),
                `stet.policies.NEXT` for the choice of the token after them,
                `stet.policies.ARBITRATE` for decisions on tokens that the exact rule rejects.
            count: how many consecutive slots.
        """
        return self._uniforms(slot, count)
