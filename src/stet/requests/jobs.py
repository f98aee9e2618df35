"""A request on its way, with what its result will need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stet.core.errors import OptionError, StetError, TokenizerMismatch
from stet.core.operations import Program
from stet.core.result import Chunk, Result, token_records
from stet.core.sequence import Role, TokenSequence
from stet.core.trace import Settings
from stet.engine.request import Request
from stet.models.tokenizers import ADVICE
from stet.policies import (
    AnswerPolicy,
    Exact,
    Need,
    Policy,
    StepPolicy,
    TokenPolicy,
    available,
    parameters,
    resolve,
)
from stet.policies.artefact import SUFFIX
from stet.programs import (
    CrossTokenizer,
    RemoteWriter,
    autoregressive,
    cascade,
    cross_tokenizer_stepwise,
    drafting,
    remote_autoregressive,
    remote_stepwise,
    speculative,
    stepwise,
)
from stet.requests.options import shown


def nothing_appended(tokenizer: Any) -> int:
    """No token is ever put behind a text but those of the answer."""
    del tokenizer
    return 0


@dataclass(frozen=True)
class Method:
    """A policy with the program that it is used in.

    Attributes:
        program: the program over a sequence.
        settings: name and parameters, for the trace.
        lossless: whether the target's own distribution is promised.
        block_invariant: whether greedy text is the same wherever blocks end.
        appends: by the target's tokenizer, the most tokens that are put behind a text to ask about
            it.
        rows: places in a model's cache that it needs at a time.
        role: whose tokens the sequence is written in.
        cross_tokenizer: the program over a sequence and its `CrossTokenizer`, where the models'
            tokenizers differ and both write.
        remote: the program over a sequence whose target is elsewhere.
        pair: fingerprint of the only pair that it may be used with; None for any.
        other_pair: what to tell who uses it with another.
    """

    program: Callable[[TokenSequence], Program]
    settings: dict[str, Any]
    lossless: bool
    rows: int = 1
    role: Role = "target"
    cross_tokenizer: Callable[[TokenSequence, CrossTokenizer], Program] | None = None
    remote: Callable[[TokenSequence, RemoteWriter], Program] | None = None
    pair: str | None = None
    other_pair: str = ""
    block_invariant: bool = True
    appends: Callable[[Any], int] = nothing_appended


def method_of(
    policy: str | Policy,
    params: dict[str, Any] | None,
    *,
    has_draft: bool,
    difference: str | None = None,
    is_remote: bool = False,
) -> Method:
    """What a user means by a policy: one by itself or by name, or one model alone.

    Args:
        policy: a policy, its name, "target" or "draft".
        params: parameters of a policy that is given by name.
        has_draft: whether there is a draft model.
        difference: how the models' tokenizers differ, if they do.
        is_remote: whether the target is elsewhere, and can be asked for text alone.

    Raises:
        OptionError: for an unknown name or parameter, a draft that is not there, or a policy that
            wants more than text of a remote target.
        TokenizerMismatch: for a policy on tokens that the models do not share.
    """
    if policy in ("target", "draft") and params:
        raise OptionError(f"{policy!r} decodes with one model and has no parameters.")
    if policy == "target":
        alone = Method(lambda s: autoregressive(s, Exact()), {"name": "target"}, True)
        return replace(alone, remote=remote_autoregressive) if is_remote else alone
    if policy == "draft":
        if not has_draft:
            raise OptionError("With prompt lookup there is no draft model to decode alone.")
        role: Role = "target" if difference is None else "draft"
        return Method(drafting, {"name": "draft"}, False, role=role)
    names = [p.name for p in available()]
    if isinstance(policy, str) and not (
        policy.endswith(SUFFIX) or policy.partition(".")[0] in names
    ):
        listed = ", ".join(["target", "draft", *names])
        raise OptionError(f"There is no policy {policy!r}; choose from {listed}.")
    chosen = resolve(policy, params)
    _check_is_policy(chosen)
    settings = {"name": chosen.name, **parameters(chosen)}
    if not has_draft and _asks_the_draft(chosen):
        raise OptionError(f"Policy {chosen.name!r} needs a draft model; prompt lookup has none.")
    parts = [chosen, *([_inner(chosen)] if isinstance(chosen, StepPolicy) else [])]
    bound = next((part for part in parts if part.pair is not None), chosen)
    method = Method(
        _program(chosen),
        settings,
        chosen.lossless,
        rows_of(chosen),
        pair=bound.pair,
        other_pair=bound.other_pair,
        block_invariant=chosen.block_invariant,
        appends=chosen.appends if isinstance(chosen, StepPolicy) else nothing_appended,
    )
    if difference is None and not is_remote:
        return method
    if not isinstance(chosen, StepPolicy):
        if difference is not None:
            raise TokenizerMismatch(f"{difference}; {ADVICE}")
        raise OptionError(
            f"Policy {chosen.name!r} rules on the target's distributions, which a remote target "
            "does not give; use a step policy, such as specguard."
        )
    stepping: StepPolicy = chosen
    if not is_remote:
        return replace(
            method,
            cross_tokenizer=lambda s, crossing: cross_tokenizer_stepwise(s, crossing, stepping),
        )
    if stepping.asks_target:
        raise OptionError(
            f"With these parameters {chosen.name!r} has the target read steps, which a remote "
            "target cannot; judge by the draft's signals or a reward alone (for specguard: no "
            "scorer=target, no lower)."
        )
    return replace(method, remote=lambda s, target: remote_stepwise(s, target, stepping))


def _check_is_policy(chosen: object) -> None:
    if isinstance(chosen, type):
        raise OptionError(
            f"policy is the class {chosen.__name__}; give a policy, such as {chosen.__name__}(...)."
        )
    if not isinstance(chosen, (TokenPolicy, StepPolicy, AnswerPolicy)):
        raise OptionError(f"policy is {shown(chosen)}; it must be a policy, or the name of one.")


def _program(policy: Policy) -> Callable[[TokenSequence], Program]:
    """The program that a policy of its kind decides in."""
    if isinstance(policy, AnswerPolicy):
        return lambda s: cascade(s, policy, Exact())
    if isinstance(policy, StepPolicy):
        inner = _inner(policy)
        return lambda s: stepwise(s, policy, inner)
    assert isinstance(policy, TokenPolicy)
    return lambda s: speculative(s, policy)


def _inner(policy: StepPolicy) -> TokenPolicy:
    """What rules on blocks while the target rewrites a step."""
    inner = resolve(policy.inner)
    if not isinstance(inner, TokenPolicy):
        raise OptionError(f"inner is {inner.name!r}; it must be a policy that rules on tokens.")
    return inner


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

    def listen(self, post: Callable[[tuple[Job, Chunk | None]], None], *, stream: bool) -> None:
        """Have pieces of the answer, and None at its end, posted from the engine's thread.

        Args:
            post: takes them; must be quick.
            stream: whether pieces are wanted, or the end alone.
        """

        def grown(request: Request) -> None:
            chunk = self.news()
            if chunk is not None:
                post((self, chunk))

        def ended(request: Request) -> None:
            post((self, None))

        self.request.on_end = ended
        if stream:
            self.request.on_growth = grown

    def fail(self, error: Exception) -> None:
        """Whoever was told of the result raised this; other requests are not touched by it."""
        self.request.error = self.request.error or error

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
        """Raise what went wrong, if anything did; what was written before goes with it."""
        error = self.request.error
        if error is not None:
            raised = error if isinstance(error, StetError) else StetError(sentence(error))
            raised.result = self.result()
            raise raised from (None if raised is error else error)


def sentence(error: Exception) -> str:
    """What went wrong, for people."""
    return str(error) if isinstance(error, StetError) else f"{type(error).__name__}: {error}"
