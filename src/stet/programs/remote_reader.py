"""What a remote target says of steps: asked for at its endpoint, and mapped to its tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stet.core.block import Reading
from stet.core.errors import OptionError, StetError
from stet.core.questions import tokenize_question
from stet.core.sequence import TokenSequence
from stet.core.step_policy import StepPolicy
from stet.programs.remote_writer import RemoteWriter
from stet.remote.client import together
from stet.remote.reading import Read, ReadingForm, last_tokens

_INSTEAD = (
    "use only the draft's signals or a reward (for specguard: no scorer=target, no lower, no "
    "overrule)"
)


@dataclass(slots=True)
class Cost:
    """What it cost to ask about a step.

    Attributes:
        requests: how many there were.
        tokens: tokens that the server was given to read.
        seconds: from asking to the last answer.
    """

    requests: int
    tokens: int
    seconds: float

    def charge(self, sequence: TokenSequence) -> None:
        """Count it."""
        counters = sequence.counters
        counters.target_requests += self.requests
        counters.target_read_tokens += self.tokens
        counters.target_read_seconds += self.seconds
        counters.target_seconds += self.seconds


@dataclass(slots=True, eq=False)
class RemoteReader:
    """A remote target that is asked about the steps of one request.

    Attributes:
        writer: continues the request's text.
    """

    writer: RemoteWriter

    async def check(self, policy: StepPolicy) -> None:
        """Refuse a policy that asks more than the server can say, before anything is written.

        Raises:
            OptionError: naming the policy, and what to choose instead.
            RemoteError: the server could not be asked.
        """
        form = await self._form()
        who = f"the server at {', '.join(self.writer.client.target.urls)}"
        if policy.reads_target and form is None:
            raise OptionError(
                f"With these parameters {policy.name!r} has the target read steps, and {who} does "
                f"not say how probable a text is (prompt_logprobs, or echo with logprobs); "
                f"{_INSTEAD}."
            )
        if policy.compares and form is not None and not form.ids:
            raise OptionError(
                f"With these parameters {policy.name!r} compares steps by what both models say of "
                f"each token, and {who} has other tokens than the draft, or takes none; for "
                "specguard leave out overrule."
            )
        if policy.asks_target and form is None and not await self._listed():
            raise OptionError(
                f"{policy.name!r} asks the target a question, and {who} gives no log-probabilities "
                "of its answer; choose specguard, or a reward (reward-guided)."
            )

    async def read(self, sequence: TokenSequence, step: list[int]) -> tuple[Reading | None, Cost]:
        """Ask how probable a step is.

        Args:
            sequence: what is before it.
            step: the step, in the draft's tokens.

        Returns:
            A reading, of the draft's tokens where the server takes them, else of those as which it
            reads the text; None where none of these begins where the step does, or the server does
            not say.
        """
        form = await self._form()
        if form is None:  # of a policy that does not say what it asks
            raise StetError(
                "This policy has the target read steps, and the server does not say how probable a "
                "text is; let the policy decide by the draft's signals."
            )
        began = time.monotonic()
        found, read = await self._read(form, sequence, step)
        cost = Cost(1, len(found or sequence.tokens), time.monotonic() - began)
        return _reading(read), cost

    async def ask(
        self, sequence: TokenSequence, step: list[int], question: str, answers: Sequence[str]
    ) -> tuple[list[float] | None, Cost]:
        """Ask a question behind a step; see `stet.core.step_policy.Step.ask`.

        What is not among the tokens that the server lists is read by itself where it can read.

        Args:
            sequence: what is before the step.
            step: the step, in the draft's tokens.
            question: the question.
            answers: what it may be answered with.

        Returns:
            The log-probabilities of the answers; None where that of none is known.
        """
        form, listed = await self._form(), await self._listed()
        said = _without_end(sequence, step)
        tokenizer: Any = sequence.decoder
        asked = tokenize_question(tokenizer, question, tuple(answers))
        tokens = [*sequence.tokens, *said, *asked.tokens]
        prompt: str | list[int] | None = tokens
        if form is None or not form.ids:
            text = self._text(sequence, said)
            prompt = None if text is None else text + question
        if prompt is None:
            return None, Cost(0, 0, 0.0)
        began, known = time.monotonic(), dict[str, float]()
        cost = Cost(0, 0, 0.0)
        if listed:
            client, home = self.writer.client, self.writer.home
            written = await client.complete(prompt, max_tokens=1, logprobs=listed, home=home)
            cost.requests, cost.tokens = 1, len(tokens)
            known = dict(written.spoken[0].top) if written.spoken else {}
        missing = [place for place, answer in enumerate(answers) if answer not in known]
        if missing and form is not None:
            given = [
                [*tokens, asked.answers[place]] if form.ids else f"{prompt}{answers[place]}"
                for place in missing
            ]
            read = await together(self._ask(each, form) for each in given)
            cost.requests += len(given)
            cost.tokens += (len(tokens) + 1) * len(given)
            for place, found in zip(missing, read, strict=True):
                # Cut otherwise, it would be the end of another token.
                whole = found is not None and (form.ids or found.text == answers[place])
                if found is not None and found.logprob is not None and whole:
                    known[answers[place]] = found.logprob
        cost.seconds = time.monotonic() - began
        values = [known.get(answer, -math.inf) for answer in answers]
        return (None if max(values) == -math.inf else values), cost

    async def _ask(self, prompt: str | list[int], form: ReadingForm) -> Read | None:
        found = await self.writer.client.read(prompt, form, self.writer.home)
        return found[-1] if found else None

    async def _read(
        self, form: ReadingForm, sequence: TokenSequence, step: list[int]
    ) -> tuple[list[Read] | None, list[Read] | None]:
        """Have a step read; returns all tokens that were, and those of the step."""
        client, home = self.writer.client, self.writer.home
        if form.ids:
            found = await client.read([*sequence.tokens, *step], form, home)
            return found, found and found[len(sequence.tokens) :]
        before = self.writer.so_far(sequence)
        text = self._text(sequence, _without_end(sequence, step))
        if text is None:
            return None, None
        found = await client.read(text, form, home)
        return found, found and last_tokens(found, text[len(before) :])

    def _text(self, sequence: TokenSequence, step: list[int]) -> str | None:
        """What is sent of a text as text; None where it ends inside a character."""
        before = self.writer.so_far(sequence)
        said = self.writer.codec.text_after([*sequence.tokens, *step], len(sequence.tokens))
        return None if said is None else before + said

    async def _form(self) -> ReadingForm | None:
        client, codec = self.writer.client, self.writer.codec
        return await client.abilities.form(
            client, lambda text: [(token, codec.decode([token])) for token in codec.encode(text)]
        )

    async def _listed(self) -> int:
        client = self.writer.client
        return await client.abilities.listed(client)


def _without_end(sequence: TokenSequence, step: list[int]) -> list[int]:
    """A step without the token that ends an answer, which is the draft's own."""
    return step[:-1] if step and step[-1] in sequence.limits.stop_token_ids else step


def _reading(tokens: Sequence[Read] | None) -> Reading | None:
    """A reading of tokens; None where there are none, or one is not known."""
    if not tokens:
        return None
    reading = Reading([], [])
    for of in tokens:
        if of.logprob is None or of.other is None:
            return None
        reading.logprobs.append(of.logprob)
        reading.margins.append(of.logprob - of.other)
    return reading
