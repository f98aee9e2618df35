"""The decision about a batch of drafted blocks, on plain tensors: nothing here knows vLLM."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stet.core.acceptance import ACCEPTED_MISMATCH
from stet.core.blocks import Blocks
from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.policy import TokenPolicy
from stet.core.tensors import upload
from stet.core.verification import Verification
from stet.engine.uniforms import uniforms
from stet.policies import Exact
from stet_vllm.shaping import Shaping

EMPTY = -1
"""In `Rulings.tokens`: nothing is emitted there. In `Drafted.tokens`: nothing was drafted there, or
what was drafted may not stand."""

FALLBACK = Exact()
"""The policy of a request whose own one has failed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Drafted:
    """A batch of B requests with up to K drafted tokens each, after the target's pass.

    Attributes:
        tokens: [B, K] int64; the block of a request ends before its first `EMPTY`.
        shaping: the target's logits, and how each request draws from them.
        draft_logits: [B, K, V], the draft's raw logits; None where there are none, and the drafted
            tokens count as certain. Called with the places [b] of requests, or None for all, where
            a policy reads them.
        seeds: [B] int64, the requests' seeds.
        rounds: [B] int64, different for each block of a request.
        history: tokens of each answer before the block, and accepted mismatches in them, [B, 2].
        full: whether every request is known to have K tokens.
    """

    tokens: Tensor
    shaping: Shaping
    draft_logits: Callable[[Tensor | None], Tensor] | None
    seeds: Tensor
    rounds: Tensor
    history: Callable[[], Tensor]
    full: bool = False

    def take(self, rows: Sequence[int]) -> Drafted:
        """Some of the requests, by their places."""
        index = upload(rows, self.tokens.device)
        history, logits = self.history, self.draft_logits
        return Drafted(
            self.tokens[index],
            self.shaping.take(rows, index),
            logits and (lambda inner: logits(index if inner is None else index[inner])),
            self.seeds[index],
            self.rounds[index],
            lambda: history()[index],
            self.full,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Rulings:
    """What became of a batch of blocks, on the device.

    Attributes:
        tokens: [B, K + 1] int64, what each request emits, then `EMPTY`.
        emitted: [B] int64, how many tokens that are, at least 1.
        drafted: [B] int64, how many tokens the block had.
        accepted: [B] int64, how many of them were drafted.
        codes: [B, K + 1] int8, the reason of each emitted token, as an index into the `reasons` of
            its policy.
        mismatches: [B] int64, accepted mismatches among them.
        fallen: by row on the host: what the policy raised where `FALLBACK` decided instead.
    """

    tokens: Tensor
    emitted: Tensor
    drafted: Tensor
    accepted: Tensor
    codes: Tensor
    mismatches: Tensor
    fallen: dict[int, str] = field(default_factory=dict[int, str])


def verify(drafted: Drafted, policies: Sequence[TokenPolicy]) -> Rulings:
    """Decide about all blocks, each by its own policy; requests of equal policies go together.

    A policy that raises decides about its requests one by one, and where it raises again `FALLBACK`
    decides about the request: none takes others with it.

    Args:
        drafted: the blocks.
        policies: the policy of each request.
    """
    groups: dict[object, list[int]] = {}
    for row, policy in enumerate(policies):
        groups.setdefault(_key(policy), []).append(row)
    fallen: dict[int, str] = {}
    parts: list[Rulings] = []
    order: list[int] = []
    for rows in groups.values():
        part = drafted if len(groups) == 1 else drafted.take(rows)
        parts.append(_group(part, policies[rows[0]], rows, fallen))
        order += rows
    rulings = parts[0] if len(parts) == 1 else _joined(parts, order)
    return replace(rulings, fallen=fallen)


def _key(policy: TokenPolicy) -> object:
    try:
        hash(policy)
    except TypeError:  # a policy that holds tensors, say
        return id(policy)
    return policy


def _group(
    drafted: Drafted, policy: TokenPolicy, rows: list[int], fallen: dict[int, str]
) -> Rulings:
    """Decide about requests of one policy, whose places in the batch are `rows`."""
    try:
        return _settle(drafted, policy)
    except Exception as error:
        if len(rows) == 1:
            fallen[rows[0]] = f"{type(error).__name__}: {error}"
            log.warning(
                "Policy %r failed, and %r decides instead (%s: %s).",
                policy.name,
                FALLBACK.name,
                type(error).__name__,
                error,
            )
            return _settle(drafted, FALLBACK)
    parts = [_group(drafted.take([place]), policy, [row], fallen) for place, row in enumerate(rows)]
    return _joined(parts, list(range(len(rows))))


def _settle(drafted: Drafted, policy: TokenPolicy) -> Rulings:
    blocks = _blocks(drafted, policy)
    return _rulings(blocks, policy, policy.verify(blocks))


def _blocks(drafted: Drafted, policy: TokenPolicy) -> Blocks:
    shaping = drafted.shaping
    lengths = (drafted.tokens >= 0).long().cumprod(1).sum(1)
    tokens = drafted.tokens.clamp(min=0)
    logits = probs = None
    # Only what is read is gathered: over a large vocabulary it is as much as the target's logits.
    wanted = Need.DRAFT_LOGPROBS in policy.needs or not shaping.all_greedy
    if drafted.draft_logits is not None and wanted and tokens.shape[1]:
        logits = drafted.draft_logits(None)
        probs = None if shaping.all_greedy else shaping.drawn_from(logits)
    return Blocks(
        drafted=tokens,
        lengths=lengths,
        target_logits=shaping.raw,
        sampler=shaping,  # type: ignore[arg-type]  # it stands in for Stet's own
        uniforms=lambda slot, count: uniforms(drafted.seeds, drafted.rounds, slot, count),
        full=drafted.full,
        draft_probs=probs,
        draft_logits=logits,
        history=drafted.history,
        needs=policy.needs,
    )


def _rulings(blocks: Blocks, policy: TokenPolicy, found: Verification) -> Rulings:
    """What is emitted, by a policy's decision; a decision that means nothing is refused or mended.

    Raises:
        StetError: tensors of wrong shapes.
    """
    rows, width = blocks.drafted.shape
    if found.accepted.shape != (rows,) or found.next_token.shape != (rows,):
        raise StetError(
            f"A verification of {rows} blocks needs accepted and next_token of shape [{rows}], got "
            f"{list(found.accepted.shape)} and {list(found.next_token.shape)}."
        )
    # What a request emits is at least one token and at most its block and one; the device is not
    # waited for to find out whether the policy knows.
    accepted = found.accepted.clamp(min=0).minimum(blocks.lengths)
    own = blocks.target_tokens.gather(1, accepted[:, None])[:, 0]
    nothing = (found.next_token < 0) & (accepted == 0)
    following = torch.where(nothing, own, found.next_token)[:, None]
    places = torch.arange(width + 1, device=accepted.device)
    count = accepted[:, None]
    padded = torch.cat([blocks.drafted, following], 1)
    tokens = torch.where(places < count, padded, EMPTY)
    tokens = torch.where(places == count, following.clamp(min=EMPTY), tokens)
    codes = found.reasons
    if codes is None:
        whole = (accepted == blocks.lengths)[:, None]
        codes = torch.where(places < count, 0, torch.where(whole, 2, 1))
    mismatches = torch.zeros_like(accepted)
    if ACCEPTED_MISMATCH in policy.reasons:
        code = policy.reasons.index(ACCEPTED_MISMATCH)
        mismatches = ((codes == code) & (places < count)).sum(1)
    emitted = accepted + (following[:, 0] >= 0)
    return Rulings(tokens, emitted, blocks.lengths, accepted, codes.to(torch.int8), mismatches)


def _joined(parts: Sequence[Rulings], order: list[int]) -> Rulings:
    """Rulings of a batch in its order, from those of its groups, whose rows are `order`."""
    back = upload(sorted(range(len(order)), key=order.__getitem__), parts[0].tokens.device)

    def join(pick: Callable[[Rulings], Tensor]) -> Tensor:
        return torch.cat([pick(part) for part in parts])[back]

    return Rulings(
        join(lambda part: part.tokens),
        join(lambda part: part.emitted),
        join(lambda part: part.drafted),
        join(lambda part: part.accepted),
        join(lambda part: part.codes),
        join(lambda part: part.mismatches),
    )
