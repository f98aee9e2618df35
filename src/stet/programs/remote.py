"""Step by step with a target that is not here: it is sent text, and answers with text."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from stet.core.block import Reading
from stet.core.errors import StetError
from stet.core.operations import Await, Join, Operation, Program
from stet.core.sampling import SamplingParams
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, Step, StepPolicy, selected
from stet.core.steps import SENTENCE, Delimiter, Ends, LoopGuard, ends_of
from stet.core.trace import StepRecord
from stet.programs.cross_tokenizer import append
from stet.programs.parts import (
    conclude,
    drafted,
    explain,
    offered,
    pick,
    record_of,
    ruled,
)
from stet.remote.client import RemoteClient
from stet.text.codec import Codec

WRITTEN = "written by the target"
"""The reason of every token whose text a remote target wrote."""

CUT = "step ends inside a character"
"""Why the target writes a step that the policy would have kept: half a character cannot be sent."""

_HALF = "\N{REPLACEMENT CHARACTER}"
"""How servers write bytes that are no whole character."""

_MOST_STOPS = 4
"""Stop strings that an endpoint takes."""


@dataclass(frozen=True, slots=True)
class RemoteText:
    """What the target wrote.

    Attributes:
        text: its text, cut where it was asked to end.
        ended: whether the target ended its answer there.
        tokens: how many the server counted; None where it did not.
        seconds: from asking to the answer, waiting for a turn included.
    """

    text: str
    ended: bool
    tokens: int | None
    seconds: float


@dataclass(slots=True, eq=False)
class RemoteWriter:
    """A remote target that continues one request's text.

    Attributes:
        client: asks the server.
        codec: between text and the draft's tokens, in which the answer is kept.
        prompt: the prompt as the target is sent it.
        end: the draft's token for the end of an answer; None where nothing ends one.
    """

    client: RemoteClient
    codec: Codec
    prompt: str
    end: int | None = None

    def so_far(self, sequence: TokenSequence) -> str:
        """The prompt and the answer as text.

        Raises:
            StetError: the answer ends inside a character.
        """
        text = self.codec.text_after(sequence.tokens, sequence.prompt_length)
        if text is None:
            raise StetError("The answer ends inside a character, which no remote target can read.")
        return self.prompt + text

    def take(self, sequence: TokenSequence, letter: RemoteText) -> None:
        """Write down what came.

        Raises:
            StetError: the draft's tokenizer cannot say it.
        """
        tokens = self.codec.tokens_after(sequence.tokens, letter.text)
        if tokens is None:
            raise StetError(
                f"The target wrote {letter.text!r}, which the draft's tokenizer changes; choose a "
                "draft whose tokenizer keeps text as it is."
            )
        if letter.ended and self.end is not None:
            tokens.append(self.end)
        append(sequence, tokens, "target", WRITTEN)
        sequence.counters.target_seconds += letter.seconds
        if letter.ended:
            sequence.close("stop")

    async def write(
        self, text: str, ends: Ends, stops: tuple[str, ...], most: int, sampling: SamplingParams
    ) -> RemoteText:
        """Have the target write on, up to where `ends` says, its own end or a limit.

        The server is asked to stop at certain texts, which most servers then leave out. Where it
        does not say whether it met one of them or the target's own end, one more token tells.

        Args:
            text: what the target continues.
            ends: where the stretch ends.
            stops: the texts that may end it; none where only `ends` can tell.
            most: the most tokens, as the server counts them.
            sampling: how tokens are chosen.

        Raises:
            RemoteError: the server refused, or failed for good.
        """
        began = time.monotonic()
        written, tokens, counted = "", 0, True
        while True:
            answer = await self._ask(text + written, most - tokens, sampling, stops)
            written += answer.text
            tokens += max(1, answer.tokens or len(answer.text) // 4)
            counted &= answer.tokens is not None
            ended = False
            if ends(written) is None and answer.finish_reason == "stop":
                stop = answer.stopped_at
                if stop is None:
                    stop = await self._stop(text + written, sampling, stops)
                ended = stop not in stops
                written += "" if ended else stop
            end = ends(written)
            # A delimiter with nothing before it ends no step: the target goes on.
            if end is not None or ended or answer.finish_reason == "length" or tokens >= most:
                # A limit may cut a character in two; its first half is left out.
                said = written[:end] if ended else written[:end].rstrip(_HALF)
                seconds = time.monotonic() - began
                return RemoteText(said, ended, tokens if counted else None, seconds)

    async def _stop(self, text: str, sampling: SamplingParams, stops: tuple[str, ...]) -> str:
        """At which of the stop strings a text ended; "" for the target's own end."""
        if not stops:
            return ""
        following = await self._ask(text, 1, sampling, ())
        if following.finish_reason == "stop" and not following.text:
            return ""
        for stop in stops:
            if following.text.startswith(stop) or stop.startswith(following.text):
                return stop
        return stops[0]  # sampled anew, it would have gone on; but it did stop

    async def _ask(
        self, text: str, most: int, sampling: SamplingParams, stops: tuple[str, ...]
    ) -> Any:
        greedy = sampling.temperature == 0
        return await self.client.complete(
            text,
            max_tokens=most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=None if greedy else sampling.seed & 0x7FFFFFFF,
            stop=stops,
        )


def remote_stepwise(sequence: TokenSequence, target: RemoteWriter, policy: StepPolicy) -> Program:
    """`stepwise` with a remote target: the draft writes, the policy judges, the target is asked.

    Args:
        sequence: what is written to, in the draft's tokens.
        target: writes the steps that do not stand.
        policy: judges the steps by what the draft knows of them.
    """
    ends, guard = ends_of(policy.delimiter), LoopGuard(policy.loop_after)
    while not sequence.finished:
        text, accepted = yield from _step(sequence, target, policy, ends)
        if guard.stuck(text, drafted=accepted):
            sequence.close("loop")


def remote_autoregressive(sequence: TokenSequence, target: RemoteWriter) -> Program:
    """The remote target writes the whole answer."""
    stops = sequence.limits.stop_strings
    ends = _first_of(stops)
    asked = stops if len(stops) <= _MOST_STOPS else ()
    while not sequence.finished:
        before = len(sequence.tokens)
        text = target.so_far(sequence)
        most = sequence.remaining
        letter = yield Await(target.write(text, ends, asked, most, sequence.sampling))
        target.take(sequence, letter)
        if len(sequence.tokens) == before:
            sequence.close("length")


def _step(
    sequence: TokenSequence, target: RemoteWriter, policy: StepPolicy, ends: Ends
) -> Generator[Operation, Any, tuple[str, bool]]:
    """One step; returns its text, and whether it is the draft's."""
    position, before = len(sequence.answer), replace(sequence.counters)
    sampling = policy.sampling(sequence.sampling)
    with sequence.fork(policy.candidates, sampling, bounded=False) as forks:
        written: list[Candidate] = yield Join([drafted(f, policy, ends) for f in forks])
        candidates = offered([c for c in written if _is_whole(c, target.codec)]) or written
        decision = yield from policy.judge(Step(sequence, len(sequence.steps), candidates, _unread))
        chosen = pick(decision.chosen, candidates, policy)
        if decision.accepted and not _is_whole(chosen, target.codec):
            decision = replace(decision, accepted=False, reason=CUT)
        decision, accepted = ruled(decision, chosen, policy)
        record = record_of(position, candidates, decision)
        record.draft_tokens = sum(len(c.tokens) for c in written)
        for candidate in written:
            if accepted and candidate is chosen:
                explain(candidate.sequence, decision.reason)
                sequence.adopt(candidate.sequence)
            else:
                sequence.charge(candidate.sequence)
    text = (
        chosen.text if accepted else (yield from _rewritten(sequence, target, policy, ends, record))
    )
    conclude(sequence, record, before, accepted)
    return text, accepted


def _rewritten(
    sequence: TokenSequence,
    target: RemoteWriter,
    policy: StepPolicy,
    ends: Ends,
    record: StepRecord,
) -> Generator[Operation, Any, str]:
    """The target writes the step; of several candidates the policy picks one."""
    count, text = policy.target_candidates, target.so_far(sequence)
    sampling = policy.sampling(sequence.sampling) if count > 1 else None
    # What is chosen from is whole; a single one need not be written beyond the answer's end.
    with sequence.fork(count, sampling, bounded=count == 1) as forks:
        found: list[tuple[Candidate, int]] = yield Join(
            [_answered(f, target, policy, ends, text) for f in forks]
        )
        candidates = [candidate for candidate, _ in found]
        place = yield from selected(policy, candidates)
        chosen = pick(place, candidates, policy)
        record.target_candidates = [c.text for c in candidates]
        record.target_tokens = sum(tokens for _, tokens in found)
        for candidate in candidates:
            if candidate is not chosen:
                sequence.charge(candidate.sequence)
        sequence.adopt(chosen.sequence)
    return chosen.text


def _answered(
    sequence: TokenSequence, target: RemoteWriter, policy: StepPolicy, ends: Ends, text: str
) -> Generator[Operation, Any, tuple[Candidate, int]]:
    """What the target wrote, on a fork, and its tokens as the server counted them."""
    most = min(policy.step_tokens, sequence.remaining)
    stops = _strings(policy.delimiter)
    # The request's own, too: there are some that only the server sees, such as special tokens.
    asked = sequence.limits.stop_strings[: _MOST_STOPS - len(stops)]
    ends = _either(ends, _first_of(asked))
    letter = yield Await(target.write(text, ends, (*stops, *asked), most, sequence.sampling))
    target.take(sequence, letter)
    count = len(sequence.answer) if letter.tokens is None else letter.tokens
    return Candidate(sequence, sequence.text()), count


def _unread(place: int) -> Generator[Operation, Any, Reading]:
    """A remote target reads no candidates."""
    del place
    raise StetError("This policy has the target read steps, which a remote target cannot.")


def _is_whole(candidate: Candidate, codec: Codec) -> bool:
    fork = candidate.sequence
    return codec.text_after(fork.tokens, fork.prompt_length) is not None


def _strings(delimiter: Delimiter) -> tuple[str, ...]:
    """The texts that a server can be asked to stop at; none where only we can tell the end."""
    if isinstance(delimiter, str):
        return () if delimiter == SENTENCE else (delimiter,)
    if isinstance(delimiter, tuple) and len(delimiter) <= _MOST_STOPS:
        return delimiter
    return ()


def _either(one: Ends, other: Ends) -> Ends:
    """Whichever ends first."""

    def find(text: str) -> int | None:
        return min((at for ends in (one, other) if (at := ends(text)) is not None), default=None)

    return find


def _first_of(stops: tuple[str, ...]) -> Ends:
    """The end of the first stop string."""

    def find(text: str) -> int | None:
        return min((at + len(s) for s in stops if (at := text.find(s)) >= 0), default=None)

    return find
