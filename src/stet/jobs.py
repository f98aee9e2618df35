"""A request on its way, with what its result will need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stet.engine.engine import Request
from stet.engine.operations import Program
from stet.errors import OptionError, StetError
from stet.policies import (
    AnswerPolicy,
    Exact,
    Need,
    Policy,
    StepPolicy,
    available,
    parameters,
    resolve,
)
from stet.policies.artefact import SUFFIX
from stet.programs import autoregressive, cascade, drafting, speculative, stepwise
from stet.result import Chunk, Result, token_records
from stet.sequence import Sequence
from stet.trace import Settings


@dataclass(frozen=True)
class Method:
    """A policy with the program that it is used in.

    Attributes:
        program: the program over a sequence.
        settings: name and parameters, for the trace.
        lossless: whether the target's own distribution is promised.
        rows: places in a model's cache that it needs at a time.
    """

    program: Callable[[Sequence], Program]
    settings: dict[str, Any]
    lossless: bool
    rows: int = 1


def method_of(policy: str | Policy, params: dict[str, Any] | None, *, has_draft: bool) -> Method:
    """What a user means by a policy: one by itself or by name, or one model alone.

    Args:
        policy: a policy, its name, "target" or "draft".
        params: parameters of a policy that is given by name.
        has_draft: whether there is a draft model.

    Raises:
        OptionError: for an unknown name or parameter, or a draft that is not there.
    """
    if policy == "target":
        return Method(lambda s: autoregressive(s, Exact()), {"name": "target"}, True)
    if policy == "draft":
        if not has_draft:
            raise OptionError("With prompt lookup there is no draft model to decode alone.")
        return Method(drafting, {"name": "draft"}, False)
    names = [p.name for p in available()]
    if isinstance(policy, str) and not (
        policy.endswith(SUFFIX) or policy.partition(".")[0] in names
    ):
        listed = ", ".join(["target", "draft", *names])
        raise OptionError(f"There is no policy {policy!r}; choose from {listed}.")
    chosen = resolve(policy, params)
    settings = {"name": chosen.name, **parameters(chosen)}
    if not has_draft and _asks_the_draft(chosen):
        raise OptionError(f"Policy {chosen.name!r} needs a draft model; prompt lookup has none.")
    return Method(_program(chosen), settings, chosen.lossless, rows_of(chosen))


def _program(policy: Policy) -> Callable[[Sequence], Program]:
    """The program that a policy of its kind decides in."""
    if isinstance(policy, AnswerPolicy):
        return lambda s: cascade(s, policy, Exact())
    if isinstance(policy, StepPolicy):
        return lambda s: stepwise(s, policy, Exact())
    return lambda s: speculative(s, policy)


def rows_of(policy: str | Policy) -> int:
    """Places in each cache that a request takes: 1, and one more for each of several candidates."""
    if isinstance(policy, str):
        return method_of(policy, None, has_draft=True).rows
    # A single candidate takes its sequence's own place.
    if not isinstance(policy, StepPolicy):
        return 1
    most = max(policy.candidates, policy.target_candidates)
    return 1 if most == 1 else most + 1


def _asks_the_draft(policy: Policy) -> bool:
    """Whether a policy wants more of the draft than its tokens."""
    return isinstance(policy, (AnswerPolicy, StepPolicy)) or bool(
        policy.needs & {Need.DRAFT_LOGPROBS, Need.DRAFT_HIDDEN}
    )


class Job:
    """A request with what its result needs."""

    def __init__(self, request: Request, prompt: str, settings: Settings) -> None:
        self.request = request
        self.number = 0
        self._prompt = prompt
        self._settings = settings
        self._reported = 0

    def result(self) -> Result:
        """What the request came to."""
        error = self.request.error
        return Result(
            self.request.sequence,
            number=self.number,
            prompt=self._prompt,
            settings=self._settings,
            seconds=self.request.seconds,
            error=None if error is None else sentence(error),
        )

    def notify(self, on_progress: Callable[[Result], None]) -> None:
        """Call back with the result when the request is done."""

        def finished(request: Request) -> None:
            if request.done:
                on_progress(self.result())

        self.request.on_progress = finished

    def news(self) -> Chunk | None:
        """What was emitted since the last call; None if nothing."""
        sequence, done = self.request.sequence, self.request.done
        tokens = token_records(sequence, self._reported)
        if not (tokens or done):
            return None
        self._reported += len(tokens)
        stream = sequence.stream
        if stream is None:
            return Chunk("", tokens, sequence.finish_reason)
        if not done:
            return Chunk(stream.take(), tokens, None)
        stream.finish()
        return Chunk(stream.take(final=True), tokens, sequence.finish_reason, self.result())

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        error = self.request.error
        if error is not None:
            known = isinstance(error, StetError)
            raise error if known else StetError(sentence(error)) from error


def sentence(error: Exception) -> str:
    """What went wrong, for people."""
    return str(error) if isinstance(error, StetError) else f"{type(error).__name__}: {error}"
