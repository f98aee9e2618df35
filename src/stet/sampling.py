"""From logits to distributions to tokens.

Every rule of Stet sees the distributions *after* these transforms, the draft's and the target's
alike, so a sampled request is verified against exactly what the target alone would sample from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stet.errors import OptionError
from stet.tensors import moved, upload


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen from a model's logits.

    Attributes:
        temperature: 0 takes the most probable token; above 0 samples.
        top_k: keep the k most probable tokens (0: all).
        top_p: keep the smallest set of tokens with at least this probability (1: all).
        min_p: keep tokens with at least this share of the best token's probability (0: all).
        repetition_penalty: divides positive and multiplies negative logits of tokens that already
            stand in the prompt or the answer (1: off; Keskar et al., 2019).
        logit_bias: added to the logits of single tokens, by id.
        seed: randomness of this request; the same seed gives the same text.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            OptionError: naming the option, its value and what is allowed.
        """
        checks = (
            (math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "0 or more"),
            (self.top_k >= 0, "top_k", "0 (off) or a positive number of tokens"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
            (0 <= self.min_p <= 1, "min_p", "between 0 and 1"),
            (
                math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
                "repetition_penalty",
                "above 0",
            ),
            (-(2**63) <= self.seed < 2**63, "seed", "a 64-bit integer"),
        )
        for fine, name, allowed in checks:
            if not fine:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        for token, bias in self.logit_bias.items():
            if token < 0 or not bias < math.inf:
                raise OptionError(f"logit_bias has {token}: {bias}; give token ids and numbers.")

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0

    @property
    def truncates(self) -> bool:
        """Whether some tokens may be cut from the distribution."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    @property
    def edits_logits(self) -> bool:
        """Whether logits change before the temperature (penalty or bias)."""
        return self.repetition_penalty != 1 or bool(self.logit_bias)


class Sampler:
    """The transforms of a batch of requests, as tensors.

    Built once per round; everything stays on the device.

    Args:
        params: one per row.
        histories: the tokens so far of each row (prompt and answer); read only for rows with a
            repetition penalty.
        vocab_size: V, the width of the logits.
        device: where the logits live.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        histories: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.params = params
        self.vocab_size = vocab_size
        self.device = device
        self.all_greedy = all(p.greedy for p in params)
        self.edits = any(p.edits_logits for p in params)
        self._truncates = any(p.truncates for p in params)
        self._bias: Tensor | None = None
        self._seen: Tensor | None = None
        if self.edits:
            self._prepare_edits(histories)
        if not self.all_greedy:
            self._prepare_sampling()

    def _prepare_edits(self, histories: Sequence[Sequence[int]]) -> None:
        rows = len(self.params)
        penalties = [p.repetition_penalty for p in self.params]
        self._penalty = upload(penalties, self.device)[:, None, None]
        if any(p.logit_bias for p in self.params):
            bias = torch.zeros(rows, 1, self.vocab_size)
            for row, p in enumerate(self.params):
                for token, value in p.logit_bias.items():
                    if token >= self.vocab_size:
                        raise OptionError(
                            f"logit_bias names token {token}, but the vocabulary has "
                            f"{self.vocab_size} tokens."
                        )
                    bias[row, 0, token] = value
            self._bias = moved(bias, self.device)
        if any(value != 1 for value in penalties):
            seen = torch.zeros(rows, self.vocab_size, dtype=torch.bool)
            for row, value in enumerate(penalties):
                if value != 1:
                    seen[row, torch.tensor(list(histories[row]), dtype=torch.long)] = True
            self._seen = moved(seen, self.device)

    def _prepare_sampling(self) -> None:
        def column(values: list[float]) -> Tensor:
            return upload(values, self.device, torch.float32)[:, None, None]

        self._greedy = upload([p.greedy for p in self.params], self.device)
        self._mixed = any(p.greedy for p in self.params)
        # Far below any difference that matters, and no logit divided by it leaves float32.
        self._temperature = column([max(p.temperature, 1e-6) for p in self.params])
        if self._truncates:
            full = self.vocab_size
            self._top_k = column([min(p.top_k or full, full) for p in self.params])
            self._top_p = column([p.top_p for p in self.params])
            self._min_p = column([p.min_p for p in self.params])

    def edit(self, logits: Tensor, block: Tensor | None = None) -> Tensor:
        """Apply bias and penalty, in the order of transformers and vLLM.

        Args:
            logits: [B, T, V] raw logits, where position t follows the first t tokens of `block`.
            block: [B, T - 1] tokens after the history, or None where T is 1 and the block is empty.

        Returns:
            [B, T, V] logits; the argument itself where there is nothing to do.
        """
        if not self.edits:
            return logits
        if self._bias is not None:
            logits = logits + self._bias
        if self._seen is not None:
            seen = self._seen[:, None, :]
            if block is not None and block.shape[1]:
                # Position t has also seen the block's first t tokens: a running union.
                written = torch.zeros(
                    block.shape[0], block.shape[1] + 1, self.vocab_size, device=self.device
                )
                written[:, 1:].scatter_(2, block[:, :, None], 1.0)
                seen = seen | written.cummax(1).values.bool()
            penalised = torch.where(logits > 0, logits / self._penalty, logits * self._penalty)
            logits = torch.where(seen, penalised, logits)
        return logits

    def probs(self, logits: Tensor) -> Tensor:
        """The distribution that a token is drawn from.

        Args:
            logits: [B, T, V] after `edit`.

        Returns:
            [B, T, V] float32 probabilities; rows at temperature 0 are one-hot.
        """
        if self.all_greedy:
            return one_hot(logits.argmax(-1), self.vocab_size)
        scaled = logits / self._temperature
        probs = scaled.softmax(-1)
        if self._truncates:
            probs = self._truncate(probs)
        if self._mixed:
            greedy = one_hot(logits.argmax(-1), self.vocab_size)
            probs = torch.where(self._greedy[:, None, None], greedy, probs)
        return probs

    def _truncate(self, probs: Tensor) -> Tensor:
        ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
        rank = torch.arange(self.vocab_size, device=self.device)
        # In this order, as in transformers: each cut works on what the one before it left.
        keep = rank < self._top_k
        ranked = ranked * keep
        ranked = ranked / ranked.sum(-1, keepdim=True)
        before = ranked.cumsum(-1) - ranked
        keep = (before < self._top_p) & (ranked >= self._min_p * ranked[..., :1])
        keep = keep & (ranked > 0)
        keep[..., 0] = True
        ranked = ranked * keep
        ranked = ranked / ranked.sum(-1, keepdim=True)
        return torch.zeros_like(probs).scatter_(-1, order, ranked)

    def wrote(self, tokens: Tensor) -> None:
        """Count tokens [B] as written, so that the next position's penalty knows them."""
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)


def one_hot(tokens: Tensor, vocab_size: int) -> Tensor:
    """Certainty as a distribution: tokens [...] to float32 [..., V]."""
    shape = (*tokens.shape, vocab_size)
    return torch.zeros(shape, device=tokens.device).scatter_(-1, tokens[..., None], 1.0)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inversion of the cumulative sum.

    Args:
        weights: [B, V] non-negative, not necessarily normalised, each row with a positive sum.
        uniforms: [B] in [0, 1).

    Returns:
        [B] int64 tokens, never one of weight zero.
    """
    # Double precision: at a vocabulary of 150,000, float32 sums drift by more than a rare token.
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, uniforms.double()[:, None] * total, right=True)
    # Rounding may push the product onto the total itself: then the last token of weight is meant.
    last = (cumulative < total).sum(-1, keepdim=True)
    return torch.minimum(chosen, last).squeeze(1)
