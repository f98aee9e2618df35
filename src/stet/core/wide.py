"""Operations on distributions over a large vocabulary, in few passes over it and few copies of it.

On a CPU `argmax`, `topk`, `sort` and `nonzero` over 150,000 numbers take ten to a thousand times as
long as `amax` and `sum` do, which are vectorised. So a vocabulary is divided into groups, and only
the few groups that can hold the result, by their maxima or sums, are searched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

LARGE = 4096
"""The smallest vocabulary for which groups pay; below it they cost more than they save."""

FEW = 64
"""Tokens among which those that remain of a distribution are looked for at first."""

MORE = 512
"""Tokens among which they are looked for where they were not among those."""

_GROUP = 64
_SUMMED = 256
_AT_ONCE = 16
"""Rows that are copied at a time."""


def peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry of [..., V] and its index, [...] each; the first of equals, NaN before all.

    The result is that of `max`, which on a CPU goes over a vocabulary one number at a time.
    """
    size = values.shape[-1]
    if size < LARGE or values.device.type != "cpu":
        found = values.max(-1)
        return found.values, found.indices
    group = _peaks(values).argmax(-1, keepdim=True)
    places = (group * _GROUP + torch.arange(_GROUP)).clamp_(max=size - 1)
    found = values.gather(-1, places).max(-1)
    return found.values, places.gather(-1, found.indices[..., None])[..., 0]


def best(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest entries of [..., V], descending, and their indices: [..., count] each."""
    size = values.shape[-1]
    if size < max(LARGE, 4 * count * _GROUP) or values.device.type != "cpu":
        found = values.topk(count, -1)
        return found.values, found.indices
    groups = _peaks(values).topk(count, -1).indices
    places = (groups[..., None] * _GROUP + torch.arange(_GROUP)).flatten(-2)
    # The last group may be shorter.
    among = values.gather(-1, places.clamp(max=size - 1)).masked_fill(places >= size, -torch.inf)
    found = among.topk(count, -1)
    return found.values, places.gather(-1, found.indices)


def log_total(logits: Tensor) -> Tensor:
    """Log of the sum of the exponentials of logits [..., V], as [...].

    A token's log-probability is its logit less this, as `log_softmax` computes it for every token.
    """
    if logits.dim() == 1 or logits.numel() <= _AT_ONCE * logits.shape[-1]:
        return logits.logsumexp(-1)
    rows = logits.flatten(0, -2)
    return torch.cat([part.logsumexp(-1) for part in rows.split(_AT_ONCE)]).view(logits.shape[:-1])


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [..., n] of tokens [..., n], from logits [..., V]."""
    return logits.gather(-1, tokens) - log_total(logits)[..., None]


def ranks_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Ranks [...] of tokens [...]: 1 and the number of those with a larger logit of [..., V]."""
    own = logits.gather(-1, tokens[..., None]).flatten(0, -2)
    parts = zip(logits.flatten(0, -2).split(_AT_ONCE), own.split(_AT_ONCE), strict=True)
    return 1 + torch.cat([(part > value).sum(-1) for part, value in parts]).view(tokens.shape)


def entropy(logits: Tensor) -> Tensor:
    """Entropies [...], in nats, of distributions given by logits [..., V]."""
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    # Impossible tokens add 0, not 0 times infinity. In place: these are as large as the logits.
    logprobs.clamp_(min=torch.finfo(logprobs.dtype).min)
    return -probs.mul_(logprobs).sum(-1)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inversion of the cumulative sum.

    Args:
        weights: [B, V] non-negative, not necessarily normalised, each row with a positive sum.
        uniforms: [B] in [0, 1).

    Returns:
        [B] int64 tokens, never one of weight zero.
    """
    size = weights.shape[-1]
    if size < LARGE:
        return _invert(weights.double(), uniforms.double())[0]
    # First a group by its sum, then a token by its share of the group.
    whole = size // _SUMMED * _SUMMED
    sums = weights[:, :whole].unflatten(-1, (-1, _SUMMED)).sum(-1)
    if whole < size:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], 1)
    group, share = _invert(sums.double(), uniforms.double())
    places = group[:, None] * _SUMMED + torch.arange(_SUMMED, device=weights.device)
    among = weights.gather(1, places.clamp(max=size - 1)).masked_fill(places >= size, 0.0)
    token, _ = _invert(among.double(), share)
    return places.gather(1, token[:, None])[:, 0]


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the cumulative sums of [B, N]: indices [B], and places in their weights [B], 0 .. 1.

    Weights are in double precision: float32 sums drift by more than a rare token's probability.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    sought = uniforms[:, None] * total
    chosen = torch.searchsorted(cumulative, sought, right=True)
    # Rounding may push the product onto the total itself: then take the last of any weight.
    last = (cumulative < total).sum(-1, keepdim=True)
    chosen = torch.minimum(chosen, last)
    own = weights.gather(1, chosen)
    share = (sought - (cumulative.gather(1, chosen) - own)) / own
    return chosen[:, 0], share.clamp(0.0, 1.0)[:, 0]


class Cuts(NamedTuple):
    """What is left of distributions: for each the most probable tokens.

    Attributes:
        top_k: [..., 1] keep so many tokens; V for all.
        top_p: [..., 1] then the smallest set of at least this probability; inf for all.
        min_p: [..., 1] then those of at least this share of the best one's probability; 0 for all.
    """

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    def of(self, rows: Any) -> Cuts:
        """The cuts of some rows."""
        return Cuts(self.top_k[rows], self.top_p[rows], self.min_p[rows])

    def flat(self, width: int) -> Cuts:
        """Cuts [B, 1, 1] for each of so many positions, as [B * width, 1]."""
        return Cuts(*[cut.expand(-1, width, -1).flatten(0, 1) for cut in self])


def truncate_few(probs: Tensor, cuts: Cuts, few: int = FEW) -> Tensor:
    """Cut distributions, in place, of which what remains is among the likeliest few tokens.

    The result is that of `Sampler`, which sorts the vocabulary, also where some tokens are equal.
    No vocabulary is sorted here, and all rows go together.

    Args:
        probs: [N, V], rows that sum to 1.
        cuts: of each row.
        few: how many tokens are looked at.

    Returns:
        [N] whether a row was cut; the others are as they were.
    """
    size = probs.shape[-1]
    count = min(few, size)
    found, tokens = best(probs, count)
    # Equal ones in the order of the vocabulary, as a stable sort leaves them.
    tokens, order = tokens.sort(-1)
    ranked, order = found.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    tokens = tokens.gather(-1, order)
    lowest = ranked[:, -1:].clone()
    keep = torch.arange(count, device=probs.device) < cuts.top_k
    # Shares are of what `top_k` leaves, tokens included that `min_p` then cuts.
    limited = cuts.top_k < size
    total = torch.where(limited, (ranked * keep).sum(-1, keepdim=True), probs.sum(-1, keepdim=True))
    shares = ranked / total
    keep &= (
        (shares.cumsum(-1) - shares < cuts.top_p)
        & (shares >= cuts.min_p * shares[:, :1])
        & (shares > 0)
    )
    keep[:, 0] = True
    # One that is as likely as the last of these may be one that is not among them.
    cut = total.isfinite()
    if count < size:
        cut &= (cuts.top_k < count) | ~limited
        cut &= ~(keep & (ranked <= lowest)).any(-1, keepdim=True)
    cut = cut[:, 0]
    ranked = ranked * keep
    ranked /= ranked.sum(-1, keepdim=True)
    if bool(cut.all()):
        probs.zero_().scatter_(-1, tokens, ranked)
    elif bool(cut.any()):
        rows = cut.nonzero()[:, 0]
        probs[rows] = torch.zeros_like(probs[rows]).scatter_(-1, tokens[rows], ranked[rows])
    return cut


def truncate_sorted(probs: Tensor, cuts: Cuts) -> Tensor:
    """Distributions [..., V] that are cut as by `truncate_few`, by sorting the vocabulary."""
    size = probs.shape[-1]
    ranked, order = torch.sort(probs, dim=-1, descending=True, stable=True)
    # In this order, as in transformers: each cut works on what the one before it left.
    ranked = ranked * (torch.arange(size, device=probs.device) < cuts.top_k)
    ranked = ranked / ranked.sum(-1, keepdim=True)
    before = ranked.cumsum(-1) - ranked
    keep = (before < cuts.top_p) & (ranked >= cuts.min_p * ranked[..., :1]) & (ranked > 0)
    keep[..., 0] = True
    ranked = ranked * keep
    ranked = ranked / ranked.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, order, ranked)


def truncate(probs: Tensor, top_k: int, top_p: float, min_p: float) -> None:
    """Cut one distribution [V] to its most probable tokens, in place, on a CPU.

    The result is that of `Sampler`, which sorts the vocabulary, also where some tokens are equal;
    but only tokens that can remain are sorted here.

    Args:
        probs: sum to 1; V is large.
        top_k: keep so many tokens; V for all.
        top_p: then the smallest set of at least this probability; 1 for all.
        min_p: then those of at least this share of the best one's probability; 0 for all.
    """
    size = probs.shape[0]
    peaks = _peaks(probs)
    # Shares are of what `top_k` leaves, tokens included that `min_p` then cuts.
    whole = None
    # A little lower than what can remain, for the cuts below are made after rounding.
    floor = 0.999 * min_p * float(peaks.amax())
    if top_k < size:
        likeliest = best(probs, top_k)[0]
        whole = likeliest.sum()
        floor = max(floor, float(likeliest[-1]))
    elif top_p < 1:
        # All tokens below this together are less than what may be cut.
        floor = max(floor, 0.5 * (1 - top_p) / size)
    groups = (peaks >= floor).nonzero()
    places = (groups * _GROUP + torch.arange(_GROUP)).flatten()
    places = places[places < size]
    found = probs[places]
    able = (found >= floor) & (found > 0)
    if not bool(able.any()):
        return  # not finite; the error is raised where they are read
    ranked, order = found[able].sort(descending=True, stable=True)
    ranked = ranked[:top_k]
    ranked = ranked / (probs.sum() if whole is None else whole)
    keep = ranked >= min_p * ranked[0]
    if top_p < 1:
        keep &= ranked.cumsum(0) - ranked < top_p
    keep[0] = True
    ranked = ranked[keep]
    tokens = places[able][order[: len(keep)]][keep]
    probs.zero_()
    probs[tokens] = ranked / ranked.sum()


def _peaks(values: Tensor) -> Tensor:
    """The largest entry of each group of [..., V], as [..., G]; the last group may be shorter."""
    size = values.shape[-1]
    whole = size // _GROUP * _GROUP
    peaks: Tensor = values[..., :whole].unflatten(-1, (-1, _GROUP)).amax(-1)
    if whole == size:
        return peaks
    return torch.cat([peaks, values[..., whole:].amax(-1, keepdim=True)], -1)
