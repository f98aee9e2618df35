"""Sampling: from logits to distributions to tokens.

Every policy of Stet sees the distributions *after* these transforms, the draft's and the target's
alike, so a sampled request is verified against exactly what the target alone would sample from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from stet.core.errors import OptionError
from stet.core.tensors import upload
from stet.core.wide import LARGE, MORE, Cuts, peak, truncate, truncate_few, truncate_sorted
from stet.core.wide import draw as draw


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen from a model's logits.

    Attributes:
        temperature: 0 takes the most probable token; above 0 samples.
        top_k: keep the k most probable tokens (0: all).
        top_p: keep the smallest set of tokens with at least this probability (1: all).
        min_p: keep tokens with at least this share of the best token's probability (0: all).
        repetition_penalty: divides positive and multiplies negative logits of tokens that are
            already in the prompt or the answer (1: off; Keskar et al., 2019).
        frequency_penalty: subtracted from a token's logit for each time that it is in the answer so
            far, from -2 to 2 (0: off).
        presence_penalty: subtracted once from the logits of tokens that are in the answer so far,
            from -2 to 2 (0: off).
        logit_bias: added to the logits of single tokens, by id.
        seed: randomness of this request; the same seed gives the same text.

    The repetition penalty counts the prompt as well, as in transformers and vLLM. The other two
    count the answer alone, as in OpenAI's API and vLLM; transformers has neither. They follow the
    repetition penalty, and both models' logits are penalised alike, each time for the very tokens
    before that place, those of the block among them.

    Source: OpenAI API reference, `frequency_penalty` and `presence_penalty` of completions.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
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
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty", "between -2 and 2"),
            (-2 <= self.presence_penalty <= 2, "presence_penalty", "between -2 and 2"),
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
        """Whether logits change before the temperature (a penalty or bias)."""
        return self.repetition_penalty != 1 or self.counts_answer or bool(self.logit_bias)

    @property
    def counts_answer(self) -> bool:
        """Whether logits depend on how often tokens are in the answer."""
        return self.frequency_penalty != 0 or self.presence_penalty != 0


class Sampler:
    """The sampling transforms of a batch of requests, as tensors.

    Built once per round; everything stays on the device.

    Args:
        params: sampling parameters, one per row.
        histories: the tokens so far of each row (prompt and answer); read only for rows with a
            repetition penalty.
        vocab_size: V, the width of the logits.
        device: where the logits live.
        answers: the tokens so far of each row's answer; read only for rows with a frequency or
            presence penalty. None: there are none yet.
    """

    def __init__(
        self,
        params: Sequence[SamplingParams],
        histories: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.params = params
        self.vocab_size = vocab_size
        self.device = device
        self.all_greedy = all(p.greedy for p in params)
        self.edits = any(p.edits_logits for p in params)
        self._truncates = any(p.truncates for p in params)
        self._biases: tuple[Tensor, Tensor, Tensor] | None = None
        self._seen: Tensor | None = None
        self._answered: Tensor | None = None
        if self.edits:
            self._prepare_edits(histories)
        if any(p.counts_answer for p in params):
            self._prepare_counts(answers or [()] * len(params))
        if not self.all_greedy:
            self._prepare_sampling()

    def _prepare_edits(self, histories: Sequence[Sequence[int]]) -> None:
        biases = [
            (row, token, value)
            for row, p in enumerate(self.params)
            for token, value in p.logit_bias.items()
        ]
        for _, token, _ in biases:
            if token >= self.vocab_size:
                raise OptionError(
                    f"logit_bias names token {token}, but the vocabulary has "
                    f"{self.vocab_size} tokens."
                )
        if biases:
            rows, tokens, values = zip(*biases, strict=True)
            self._biases = (
                upload(rows, self.device),
                upload(tokens, self.device),
                upload(values, self.device, torch.float32),
            )
        penalties = [p.repetition_penalty for p in self.params]
        if any(value != 1 for value in penalties):
            # Tokens that were written, padded with a row's own first one.
            written = [
                list(history) if value != 1 else list(history[:1])
                for history, value in zip(histories, penalties, strict=True)
            ]
            longest = max(map(len, written))
            self._seen = upload(
                [tokens + (tokens[:1] or [0]) * (longest - len(tokens)) for tokens in written],
                self.device,
                torch.long,
            )
            # Nothing was written yet where a history is empty, and nothing is penalised.
            some = [p if w else 1.0 for p, w in zip(penalties, written, strict=True)]
            self._factor = upload(some, self.device, torch.float32)[:, None].expand(-1, longest)
            self._penalty = upload(penalties, self.device, torch.float32)[:, None]

    def _prepare_counts(self, answers: Sequence[Sequence[int]]) -> None:
        counts = [
            list(Counter(answer).items()) if p.counts_answer else []
            for p, answer in zip(self.params, answers, strict=True)
        ]
        # Padded with a row's own first one, or a token that was not written.
        longest = max(1, *map(len, counts))
        padded = [row + (row[:1] or [(0, 0)]) * (longest - len(row)) for row in counts]
        self._answered = upload([[t for t, _ in row] for row in padded], self.device)
        self._counts = upload([[n for _, n in row] for row in padded], self.device, torch.float32)
        self._frequency = self._column([p.frequency_penalty for p in self.params])
        self._presence = self._column([p.presence_penalty for p in self.params])

    def _column(self, values: list[float]) -> Tensor:
        return upload(values, self.device, torch.float32)[:, None, None]

    def _prepare_sampling(self) -> None:
        column = self._column
        certain = [row for row, p in enumerate(self.params) if p.greedy]
        self._certain = upload(certain, self.device) if certain else None
        self._scales = any(p.temperature != 1 for p in self.params)
        # Far below any difference that matters, and no logit divided by it leaves float32.
        self._temperature = column([max(p.temperature, 1e-6) for p in self.params])
        if self._truncates:
            full = self.vocab_size
            self._cuts = Cuts(
                column([min(p.top_k or full, full) for p in self.params]),
                # All of them, also where rounding makes their sum 1 before the last.
                column([p.top_p if p.top_p < 1 else math.inf for p in self.params]),
                column([p.min_p for p in self.params]),
            )

    def edit(self, logits: Tensor, block: Tensor | None = None) -> Tensor:
        """Apply bias and penalties, in the order of transformers and vLLM.

        Args:
            logits: [B, T, V] raw logits, where position t follows the first t tokens of `block`.
            block: [B, T - 1] tokens after the history, or None where T is 1 and the block is empty.

        Returns:
            [B, T, V] logits; the argument itself where there is nothing to do.
        """
        if not self.edits:
            return logits
        # Only at the tokens concerned, for a vocabulary is large.
        logits = logits.clone()
        if self._biases is not None:
            rows, tokens, values = self._biases
            logits[rows, :, tokens] += values[:, None]
        if self._seen is not None:
            self._penalise(logits, block)
        if self._answered is not None:
            self._subtract(logits, block, self._answered)
        return logits

    def _penalise(self, logits: Tensor, block: Tensor | None) -> None:
        """Penalise, in place, the tokens that each position has seen."""
        assert self._seen is not None
        first = logits if block is None else logits[:, :1]
        width = first.shape[1]
        _penalise(first, self._seen[:, None].expand(-1, width, -1), self._factor[:, None])
        if block is None or not block.shape[1]:
            return
        # Position t has also seen the block's first t tokens. Those it has not seen yet are
        # replaced by the first, which all of these positions have seen.
        count = block.shape[1]
        earlier = torch.ones(count, count, dtype=torch.bool, device=block.device).tril()
        shown = torch.where(earlier, block[:, None, :], block[:, None, :1])
        seen = torch.cat([self._seen[:, None].expand(-1, count, -1), shown], 2)
        factor = torch.cat([self._factor, self._penalty.expand(-1, count)], 1)
        _penalise(logits[:, 1:], seen, factor[:, None])

    def _subtract(self, logits: Tensor, block: Tensor | None, tokens: Tensor) -> None:
        """Subtract, in place, the penalties of tokens that each position's answer holds.

        Args:
            logits: as for `edit`.
            block: as for `edit`.
            tokens: [B, n] those that the answers hold without the block.
        """
        counts = self._counts[:, None]
        if block is not None and block.shape[1]:
            counts = torch.cat([self._counts, self._count(block, tokens)], 1)[:, None]
            tokens = torch.cat([tokens, block], 1)
            # Position t has also seen the block's first t tokens. A token that is named twice has
            # the same count each time.
            same = (block[:, :, None] == tokens[:, None]).float()
            counts = counts + pad(same.cumsum(1), (0, 0, 1, 0))
        tokens = tokens[:, None].expand(-1, logits.shape[1], -1)
        own = logits.gather(2, tokens) - self._frequency * counts
        logits.scatter_(2, tokens, own - self._presence * (counts > 0))

    def _count(self, tokens: Tensor, answered: Tensor) -> Tensor:
        """How often each of some tokens [B, k] is among those that were answered, as [B, k]."""
        same = answered[:, None] == tokens[..., None]
        return (same * self._counts[:, None]).amax(-1)

    def probs(self, logits: Tensor) -> Tensor:
        """The distributions that tokens are drawn from.

        Args:
            logits: [B, T, V] after `edit`.

        Returns:
            [B, T, V] float32 probabilities; rows at temperature 0 are one-hot.
        """
        if self.all_greedy:
            return one_hot(peak(logits)[1], self.vocab_size)
        scaled = logits / self._temperature if self._scales else logits
        probs = scaled.softmax(-1)
        if self._truncates:
            probs = self._truncate(probs)
        if self._certain is not None:
            probs[self._certain] = one_hot(peak(logits[self._certain])[1], self.vocab_size)
        return probs

    def _truncate(self, probs: Tensor) -> Tensor:
        if self.device.type != "cpu":
            return truncate_sorted(probs, self._cuts)
        owners = [row for row, p in enumerate(self.params) if p.truncates and not p.greedy]
        every = len(owners) == len(self.params)
        own = probs.contiguous() if every else probs[owners]
        flat = own.flatten(0, 1)
        cuts = self._cuts.of(owners).flat(probs.shape[1])
        left = (~truncate_few(flat, cuts)).nonzero()[:, 0]
        if len(left):
            flat[left] = self._truncate_many(flat[left], cuts.of(left))
        if every:
            return own
        probs[owners] = own
        return probs

    def _truncate_many(self, probs: Tensor, cuts: Cuts) -> Tensor:
        """Cut distributions [N, V] of which many tokens may remain."""
        if self.vocab_size < LARGE:
            return truncate_sorted(probs, cuts)
        done = truncate_few(probs, cuts, MORE)
        for place in (~done).nonzero()[:, 0].tolist():
            top_k, top_p, min_p = map(float, cuts.of(place))
            truncate(probs[place], int(top_k), min(top_p, 1.0), min_p)
        return probs

    def mark_written(self, tokens: Tensor) -> None:
        """Count tokens [B] as written, so that the next position's penalties include them."""
        if self._seen is not None:
            self._seen = torch.cat([self._seen, tokens[:, None]], 1)
            self._factor = torch.cat([self._factor, self._penalty], 1)
        if self._answered is not None:
            tokens = tokens[:, None]
            count = self._count(tokens, self._answered) + 1
            self._counts = torch.where(self._answered == tokens, count, self._counts)
            self._answered = torch.cat([self._answered, tokens], 1)
            self._counts = torch.cat([self._counts, count], 1)


def _penalise(logits: Tensor, tokens: Tensor, factor: Tensor) -> None:
    """Penalise tokens [B, T, n] in logits [B, T, V], in place; a token named twice only once."""
    own = logits.gather(2, tokens)
    logits.scatter_(2, tokens, torch.where(own > 0, own / factor, own * factor))


def one_hot(tokens: Tensor, vocab_size: int) -> Tensor:
    """One-hot distributions: tokens [...] to float32 [..., V]."""
    shape = (*tokens.shape, vocab_size)
    return torch.zeros(shape, device=tokens.device).scatter_(-1, tokens[..., None], 1.0)
