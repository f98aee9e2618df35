"""Log-likelihoods of texts by the target, with Stet's own cache: each context is read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stet.core.row import Row
from stet.core.tensors import upload
from stet.engine.prefill import CHUNK
from stet.engine.runner import Runner

if TYPE_CHECKING:
    from stet.pair import Pair


_LARGEST = 2**26
"""The most numbers in the logits of one pass, 256 MB."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text to score.

    Attributes:
        context: tokens before it, at least one.
        tokens: its own tokens, at least one.
    """

    context: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """The target's log-likelihood of a continuation.

    Attributes:
        logprob: sum of its tokens' log-probabilities, in nats.
        greedy: whether each of its tokens was the most probable one.
    """

    logprob: float
    greedy: bool


Cases = dict[tuple[int, ...], list[int]]
"""For each text after a context (a continuation without its last token), the items that need it."""


def score(
    pair: Pair,
    items: Sequence[Continuation],
    *,
    batch: int,
    on_progress: Callable[[int, LogLikelihood], None] | None = None,
) -> list[LogLikelihood]:
    """Score continuations by the target; a context that several share is read once.

    The engine's thread does it, some contexts at a time, so that other requests go on in between.

    Args:
        pair: the pair; `batch` rows of its target's cache must be free.
        items: the continuations to score. Context and continuation together have at most one token
            more than the target can hold.
        batch: contexts at a time.
        on_progress: called with the index and the score of each item when it is known, in the
            caller's thread.

    Returns:
        One score per item, in the order of the items.
    """
    runner = pair.engine.runners["target"]
    contexts: defaultdict[tuple[int, ...], Cases] = defaultdict(lambda: defaultdict(list))
    for index, item in enumerate(items):
        contexts[tuple(item.context)][tuple(item.tokens[:-1])].append(index)
    scores: list[LogLikelihood] = [LogLikelihood(0.0, True)] * len(items)
    ordered = sorted(contexts.items(), key=lambda entry: -len(entry[0]))
    for first in range(0, len(ordered), batch):
        group = ordered[first : first + batch]
        found = pair.between_rounds(partial(_score_contexts, runner, items, group))
        for index, value in found.items():
            scores[index] = value
            if on_progress is not None:
                on_progress(index, value)
    return scores


@torch.inference_mode()
def _score_contexts(
    runner: Runner, items: Sequence[Continuation], group: Sequence[tuple[tuple[int, ...], Cases]]
) -> dict[int, LogLikelihood]:
    """Score the items that follow some contexts; by index of the item."""
    scores: dict[int, LogLikelihood] = {}
    rows: list[Row] = []
    try:
        rows += [runner.allocate() for _ in group]
        _read(runner, rows, [context[:-1] for context, _ in group])
        for live, texts, served in _turns(group):
            begins = [len(group[i][0]) - 1 for i in live]
            found = _score_texts(
                runner,
                [rows[i] for i in live],
                begins,
                texts,
                [[list(items[k].tokens) for k in whom] for whom in served],
            )
            for whom, values in zip(served, found, strict=True):
                scores.update(zip(whom, values, strict=True))
    finally:
        for row in rows:
            runner.release(row)
    return scores


def _turns(
    group: Sequence[tuple[tuple[int, ...], Cases]],
) -> Iterator[tuple[list[int], list[list[int]], list[list[int]]]]:
    """Turn n has the n-th text of every context: its context, its tokens, and its items."""
    cases = [list(texts.items()) for _, texts in group]
    for turn in range(max(map(len, cases))):
        live = [i for i, texts in enumerate(cases) if turn < len(texts)]
        yield (
            live,
            [[group[i][0][-1], *cases[i][turn][0]] for i in live],
            [cases[i][turn][1] for i in live],
        )


def _read(runner: Runner, rows: Sequence[Row], texts: Sequence[Sequence[int]]) -> None:
    """Prefill the contexts."""
    for begin in range(0, max(map(len, texts)), CHUNK):
        live = [i for i, text in enumerate(texts) if len(text) > begin]
        pieces = [texts[i][begin : begin + CHUNK] for i in live]
        tokens = _table(pieces, runner)
        counts = [len(piece) for piece in pieces]
        runner.forward([rows[i] for i in live], tokens, [begin] * len(live), counts, logits="none")


def _score_texts(
    runner: Runner,
    rows: Sequence[Row],
    begins: Sequence[int],
    texts: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[list[int]]],
) -> list[list[LogLikelihood]]:
    """Feed texts and score continuations of their tokens.

    Args:
        runner: the model's runner.
        rows: one row per text; their content from `begins` on is replaced.
        begins: positions at which the texts begin.
        texts: the tokens to feed.
        wanted: for each text, the continuations to score, one token further than the text.
    """
    width = max(1, _LARGEST // (len(rows) * runner.vocab_size))
    logprobs = [[0.0] * len(each) for each in wanted]
    greedy = [[True] * len(each) for each in wanted]
    for begin in range(0, max(map(len, texts)), width):
        live = [i for i, text in enumerate(texts) if len(text) > begin]
        pieces = [texts[i][begin : begin + width] for i in live]
        counts = [len(piece) for piece in pieces]
        starts = [begins[i] + begin for i in live]
        logits = runner.forward(
            [rows[i] for i in live], _table(pieces, runner), starts, counts
        ).logits
        best = logits.argmax(-1)
        logits = logits.log_softmax(-1)
        for place, i in enumerate(live):
            count = counts[place]
            following = [tokens[begin : begin + count] for tokens in wanted[i]]
            table = upload(following, runner.device)
            sums = logits[place, :count].gather(1, table.T).double().sum(0).tolist()
            same = (best[place, :count] == table).all(1).tolist()
            for k, (value, fits) in enumerate(zip(sums, same, strict=True)):
                logprobs[i][k] += value
                greedy[i][k] = greedy[i][k] and fits
    return [
        [LogLikelihood(p, g) for p, g in zip(*both, strict=True)]
        for both in zip(logprobs, greedy, strict=True)
    ]


def _table(pieces: Sequence[Sequence[int]], runner: Runner) -> Tensor:
    longest = max(map(len, pieces))
    return upload([[*piece, *[0] * (longest - len(piece))] for piece in pieces], runner.device)
