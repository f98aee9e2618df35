"""The first half of a round: all pending drafts, in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import exp

import torch
from torch import Tensor

from stet.core.block import EMPTY, Block, DraftBatch, Steps
from stet.core.blocks import DRAFT
from stet.core.errors import StetError
from stet.core.head import Shortlist
from stet.core.needs import AttentionCapture, Need
from stet.core.operations import Draft
from stet.core.sampling import Sampler, SamplingParams, draw
from stet.core.sequence import TokenSequence
from stet.core.tensors import select_last, upload
from stet.core.wide import logprobs_of, peak
from stet.engine.attention_capture import AttentionWeights
from stet.engine.runner import Runner
from stet.engine.uniforms import uniforms

OVERLAP = 2
"""Tokens at a sequence's end that the draft always reads again.

After a wholly accepted block its last token and the bonus token are new to the draft, after a
rejection only the recovered token is; reading two tokens either way makes both cases one.
"""


class ModelDrafter:
    """Drafts with a language model.

    Args:
        runner: the draft's runner.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._attention_weights = AttentionWeights(runner.cache, runner.device)
        # Reading a token from the host's own memory does not wait; reading it from a GPU does.
        self._looks = runner.device.type == "cpu"

    def run(self, drafts: Sequence[Draft]) -> list[Block]:
        """Write a block for each request, or read one; prefixes are in the cache already."""
        blocks = [EMPTY] * len(drafts)
        for reads, run in ((False, self._write), (True, self._read)):
            places = [i for i, d in enumerate(drafts) if bool(d.read) is reads]
            if not places:
                continue
            some = [drafts[i] for i in places]
            began = time.perf_counter()
            needs = frozenset[Need]().union(*(d.needs for d in some))
            if any(d.sequence.limits.probabilities for d in some):
                needs |= {Need.DRAFT_LOGPROBS}
            lengths, batch = run(some, needs)
            share = (time.perf_counter() - began) / len(some)
            for row, place in enumerate(places):
                blocks[place] = Block(lengths[row], batch, row, seconds=share)
        return blocks

    def _read(
        self, drafts: Sequence[Draft], needs: frozenset[Need]
    ) -> tuple[list[int], DraftBatch]:
        """Read the last tokens of each sequence in one pass, from the token before them on."""
        sequences, lengths = [d.sequence for d in drafts], [d.read for d in drafts]
        ends = [s.tokens[-1 - n :] for s, n in zip(sequences, lengths, strict=True)]
        longest = max(lengths)
        padded = upload([end + [0] * (longest + 1 - len(end)) for end in ends], self.runner.device)
        out = self.runner.forward(
            [s.rows["draft"] for s in sequences],
            padded[:, :-1],
            [len(s.tokens) - 1 - n for s, n in zip(sequences, lengths, strict=True)],
            lengths,
            logits="all" if Need.DRAFT_LOGPROBS in needs else "none",
            hidden=Need.DRAFT_HIDDEN in needs,
        )
        tokens = padded[:, 1:]
        if self.runner.stand_in is not None:
            tokens = tokens.clamp(max=self.runner.stand_in)
        logits = out.logits if Need.DRAFT_LOGPROBS in needs else None
        return lengths, DraftBatch(tokens, None, logits, out.hidden)

    def _write(
        self, drafts: Sequence[Draft], needs: frozenset[Need]
    ) -> tuple[list[int], DraftBatch]:
        runner, device = self.runner, self.runner.device
        sequences = [d.sequence for d in drafts]
        rows = [s.rows["draft"] for s in sequences]
        longest = max(d.count for d in drafts)
        short = self._shortlist_for(drafts, needs)
        if short is None:
            params, histories, answers = _fit_to_draft(sequences, runner.stand_in)
        else:
            params, histories, answers = _fit_to_shortlist(sequences, short)
        width = runner.vocab_size if short is None else short.size
        sampler = Sampler(params, histories, width, device, answers)
        random = None if sampler.all_greedy else _randomness(drafts, longest, device)

        tails = [s.tokens[-OVERLAP:] for s in sequences]
        starts = [len(s.tokens) - len(tail) for s, tail in zip(sequences, tails, strict=True)]
        counts = [len(tail) for tail in tails]
        first = [len(s.tokens) - 1 for s in sequences]
        padded = [tail + [0] * (OVERLAP - len(tail)) for tail in tails]
        tokens = upload(padded, device)

        captures = [d.capture for d in drafts if d.capture is not None]
        capture = AttentionCapture.union(captures) if captures else None
        recorder = None if capture is None else self._attention_weights.recorder(capture)
        read = counts
        lengths = [0] * len(drafts)
        alive = [d.count > 0 for d in drafts]
        logprobs: list[list[float]] = [[] for _ in drafts]
        stop = self._make_stop(drafts, logprobs)
        written: list[Tensor] = []
        probs: list[Tensor] = []
        raw: list[Tensor] = []
        hidden: list[Tensor] = []
        for step in range(longest):
            out = runner.forward(
                rows,
                tokens,
                starts,
                counts,
                logits="last" if short is None else "short",
                hidden=Need.DRAFT_HIDDEN in needs,
                recorder=recorder,
            )
            logits = sampler.edit(out.logits)
            if random is None:
                index = peak(logits[:, 0])[1]
            else:
                distribution = sampler.probs(logits)[:, 0]
                probs.append(distribution)
                index = draw(distribution, random[:, step])
            token = index if short is None else short.tokens(index)
            if Need.DRAFT_LOGPROBS in needs:
                raw.append(out.logits)
            if out.hidden is not None:
                hidden.append(select_last(out.hidden, counts))
            written.append(token)
            for row, is_alive in enumerate(alive):
                lengths[row] += is_alive
                alive[row] = is_alive and lengths[row] < drafts[row].count
            if stop is not None:
                stop(alive, token, out.logits, index)
            if not any(alive):
                break
            sampler.mark_written(index)
            tokens = token[:, None]
            starts = [row.valid for row in rows]
            counts = [int(is_alive) for is_alive in alive]
        attention = None
        if capture is not None and recorder is not None:
            attention = self._attention_weights.attention(capture, recorder, read, rows, first)
        return lengths, DraftBatch(
            torch.stack(written, 1),
            torch.stack(probs, 1) if probs else None,
            Steps(raw) if raw else None,
            torch.cat(hidden, 1) if hidden else None,
            attention,
            logprobs if logprobs[0] else None,
        )

    def _shortlist_for(self, drafts: Sequence[Draft], needs: frozenset[Need]) -> Shortlist | None:
        """The shortlist, if all of a batch of drafts may choose among its tokens."""
        short = self.runner.shortlist
        if short is None or needs & {Need.DRAFT_LOGPROBS, Need.DRAFT_HIDDEN}:
            return None
        suits = all(d.shortlist and short.suits(d.sequence.tokens) for d in drafts)
        return short if suits else None

    def _make_stop(
        self, drafts: Sequence[Draft], logprobs: list[list[float]]
    ) -> Callable[[list[bool], Tensor, Tensor, Tensor], None] | None:
        """Make the function that ends drafts early; None where it would wait for the device.

        It ends a draft at a stop token, at low confidence, or where `Draft.until` or `Draft.doubt`
        says so. It looks at tokens that are drawn already and decides about the next one only, so
        the distribution of accepted tokens is unchanged. Log-probabilities that it needs are added
        to `logprobs`.
        """
        if not self._looks:
            return None
        so_far: list[list[int]] = [[] for _ in drafts]
        floors = [d.sequence.floor() if d.floor is None else d.floor for d in drafts]
        lenient = [d.sequence.history.leniency for d in drafts]
        confidences = [1.0] * len(drafts)
        stops = [d.sequence.limits.stop_token_ids for d in drafts]
        untils = [d.until for d in drafts]
        doubts = [d.doubt for d in drafts]
        confident = any(floors) or any(doubt is not None for doubt in doubts)

        def stop(alive: list[bool], token: Tensor, logits: Tensor, index: Tensor) -> None:
            values: list[int] = token.tolist()
            if confident:
                found = logprobs_of(logits[:, 0], index[:, None])
                for row, logprob in enumerate(found[:, 0].tolist()):
                    logprobs[row].append(logprob)
                    # A token that the target would not write may be accepted all the same.
                    confidences[row] *= lenient[row] + (1 - lenient[row]) * exp(logprob)
            for row, value in enumerate(values):
                if not alive[row]:
                    continue
                so_far[row].append(value)
                until, doubt = untils[row], doubts[row]
                if (
                    value in stops[row]
                    or confidences[row] < floors[row]
                    or (doubt is not None and doubt(logprobs[row]))
                    or (until is not None and until(so_far[row]))
                ):
                    alive[row] = False

        return stop


_Fitted = tuple[list[SamplingParams], list[list[int]], list[list[int]]]
"""Sampling parameters, tokens so far and answers so far, as `Sampler` takes them."""


def _fit_to_draft(sequences: Sequence[TokenSequence], stand_in: int | None) -> _Fitted:
    """Fit parameters and histories to a draft that has fewer tokens than the target."""
    params, histories = [s.sampling for s in sequences], [s.tokens for s in sequences]
    answers = [s.counted for s in sequences]
    if stand_in is None:
        return params, histories, answers
    biases = [{t: b for t, b in p.logit_bias.items() if t <= stand_in} for p in params]
    return (
        [replace(p, logit_bias=bias) for p, bias in zip(params, biases, strict=True)],
        [[min(token, stand_in) for token in tokens] for tokens in histories],
        # The draft cannot write the others, and the stand-in was not written.
        [[token for token in answer if token <= stand_in] for answer in answers],
    )


def _fit_to_shortlist(sequences: Sequence[TokenSequence], short: Shortlist) -> _Fitted:
    """Fit parameters and histories to a draft that chooses among a shortlist."""
    params = [s.sampling for s in sequences]
    if not any(p.edits_logits for p in params):
        nothing: list[list[int]] = [[] for _ in sequences]  # histories are not read
        return params, nothing, nothing

    def places(tokens: Iterable[int]) -> list[int]:
        return [place for token in tokens if (place := short.index(token)) is not None]

    biases = [
        {place: b for t, b in p.logit_bias.items() if (place := short.index(t)) is not None}
        for p in params
    ]
    return (
        [replace(p, logit_bias=bias) for p, bias in zip(params, biases, strict=True)],
        [places(s.tokens) for s in sequences],
        [places(s.counted) for s in sequences],
    )


def _randomness(drafts: Sequence[Draft], count: int, device: torch.device) -> Tensor:
    seeds = upload([d.sequence.sampling.seed for d in drafts], device)
    rounds = upload([d.sequence.round for d in drafts], device)
    return uniforms(seeds, rounds, DRAFT, count)


class LookupDrafter:
    """Drafts by copying the text that followed the same few tokens earlier in the sequence.

    Costs next to nothing and needs no model; pays where answers repeat their prompt.

    Source: Saxena, "Prompt Lookup Decoding", 2023.

    Args:
        longest: tokens at the end of the sequence that are looked for, at most.
        shortest: tokens at the end of the sequence that are looked for, at least.
    """

    def __init__(self, longest: int = 3, shortest: int = 2) -> None:
        if not 1 <= shortest <= longest:
            raise StetError("Prompt lookup needs 1 <= shortest <= longest.")
        self._sizes = range(longest, shortest - 1, -1)

    def run(self, drafts: Sequence[Draft]) -> list[Block]:
        """Find a block for each request; an empty one where nothing matches."""
        return [self._find(d) for d in drafts]

    def _find(self, request: Draft) -> Block:
        began = time.perf_counter()
        tokens = request.sequence.tokens
        for size in self._sizes:
            start = _find_latest(tokens, size)
            if start is not None:
                copied = tokens[start : start + request.count]
                return Block(len(copied), known=copied, seconds=time.perf_counter() - began)
        return EMPTY


def _find_latest(tokens: list[int], size: int) -> int | None:
    """Find where the text after the latest earlier copy of the last `size` tokens begins."""
    tail = tokens[-size:]
    first = tail[0]
    for start in range(len(tokens) - size - 1, -1, -1):
        if tokens[start] == first and tokens[start : start + size] == tail:
            return start + size
    return None


Drafter = ModelDrafter | LookupDrafter
