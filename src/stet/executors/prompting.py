"""Answering many prompts in chunks: what a worker does of `stet generate -f`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stet.executors.base import Work

if TYPE_CHECKING:
    from stet.core.trace import Counters, FinishReason, RequestTrace, TokenRecord
    from stet.pair import Pair
    from stet.policies import Policy
    from stet.requests.chat import Chat
    from stet.requests.inputs import Prompt


@dataclass(frozen=True, slots=True)
class Prompts:
    """A chunk of prompts.

    Attributes:
        start: index of the first one among all.
        total: how many there are in all.
        texts: the prompts, before any chat template.
        seeds: a seed for each.
    """

    start: int
    total: int
    texts: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as its worker sends it.

    Attributes:
        trace: the trace of its request, numbered by the prompt's index.
        seed: the request's seed.
        error: one sentence, where it failed.
    """

    trace: RequestTrace
    seed: int
    error: str | None

    @property
    def text(self) -> str:
        """The answer."""
        return self.trace.text

    @property
    def tokens(self) -> list[TokenRecord]:
        """Every emitted token."""
        return self.trace.tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.trace.finish_reason

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.trace.seconds

    @property
    def counters(self) -> Counters:
        """Counters of tokens, passes and seconds."""
        return self.trace.counters


@dataclass(frozen=True)
class Prompting(Work[Prompts, list[Answered]]):
    """Answers chunks of prompts.

    Attributes:
        policy: see `stet.pair.Pair.generate`.
        options: options of all requests, without their seeds.
        chat: how prompts become chats; None: they are used as they are.
    """

    policy: str | Policy
    options: Mapping[str, Any]
    chat: Chat | None

    def run(self, pair: Pair, chunk: Prompts) -> Iterator[list[Answered]]:
        """Answer a chunk."""
        prompts: list[Prompt] = [
            self.chat.prompt(pair, text) if self.chat else text for text in chunk.texts
        ]
        options: dict[str, Any] = {**self.options, "seed": list(chunk.seeds)}
        results = pair.generate(prompts, self.policy, **options)
        yield [
            Answered(
                replace(result.trace, request=chunk.start + place),
                result.seed,
                _located(result.error, chunk.start + place, chunk.total),
            )
            for place, result in enumerate(results)
        ]


def _located(error: str | None, index: int, total: int) -> str | None:
    """An error with the prompt's number among all, where it names that in its chunk."""
    if error is None:
        return None
    return re.sub(r"^Prompt \d+ of \d+", f"Prompt {index + 1} of {total}", error)
