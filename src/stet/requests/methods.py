"""Methods: policies with their programs, by kind of target, and what they need of the caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stet.core.errors import OptionError, TokenizerMismatch
from stet.core.operations import Program
from stet.core.sequence import Role, TokenSequence
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
    LocalTarget,
    autoregressive,
    cascade,
    drafting,
    remote_autoregressive,
    remote_stepwise,
    speculative,
    stepwise,
)
from stet.requests.makers import CrossTokenizerMaker, LocalMaker, ProgramMaker, RemoteMaker
from stet.requests.options import shown


def append_nothing(tokenizer: Any) -> int:
    """The number of tokens of a side query, for methods without one: 0."""
    del tokenizer
    return 0


@dataclass(frozen=True)
class Method:
    """A policy with its program.

    Attributes:
        maker: makes the program of a request.
        settings: name and parameters, for the trace.
        lossless: whether the target's own distribution is guaranteed.
        block_invariant: whether greedy text is the same wherever blocks end.
        appends: gives, for the target's tokenizer, the most tokens of a side query.
        rows: rows of a model's cache that a request needs at a time.
        role: the model whose tokens the sequence is written in.
        pair: fingerprint of the only pair that it may be used with; None for any.
        other_pair: the error message where it is used with another pair.
    """

    maker: ProgramMaker
    settings: dict[str, Any]
    lossless: bool
    rows: int = 1
    role: Role = "target"
    pair: str | None = None
    other_pair: str = ""
    block_invariant: bool = True
    appends: Callable[[Any], int] = append_nothing


def method_of(
    policy: str | Policy,
    params: dict[str, Any] | None,
    *,
    has_draft: bool,
    difference: str | None = None,
    is_remote: bool = False,
) -> Method:
    """Make the method of a policy, given by itself or by name, or of one model alone.

    Args:
        policy: a policy, its name, "target" or "draft".
        params: parameters of a policy that is given by name.
        has_draft: whether there is a draft model.
        difference: how the models' tokenizers differ, if they do.
        is_remote: whether the target is remote, and returns only text.

    Raises:
        OptionError: for an unknown name or parameter, a missing draft, or a policy that needs more
            than text from a remote target.
        TokenizerMismatch: for a token policy where the models' tokenizers differ.
    """
    if policy in ("target", "draft") and params:
        raise OptionError(f"{policy!r} decodes with one model and has no parameters.")
    if policy == "target":
        local = LocalMaker(lambda s: autoregressive(s, Exact()))
        remote = RemoteMaker(remote_autoregressive)
        return Method(remote if is_remote else local, {"name": "target"}, True)
    if policy == "draft":
        if not has_draft:
            raise OptionError("With prompt lookup there is no draft model to decode alone.")
        role: Role = "target" if difference is None else "draft"
        return Method(LocalMaker(drafting), {"name": "draft"}, False, role=role)
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
    return Method(
        _make_maker(chosen, difference, is_remote),
        settings,
        chosen.lossless,
        rows_of(chosen),
        pair=bound.pair,
        other_pair=bound.other_pair,
        block_invariant=chosen.block_invariant,
        appends=chosen.appends if isinstance(chosen, StepPolicy) else append_nothing,
    )


def _check_is_policy(chosen: object) -> None:
    if isinstance(chosen, type):
        raise OptionError(
            f"policy is the class {chosen.__name__}; give a policy, such as {chosen.__name__}(...)."
        )
    if not isinstance(chosen, (TokenPolicy, StepPolicy, AnswerPolicy)):
        raise OptionError(f"policy is {shown(chosen)}; it must be a policy, or the name of one.")


def _make_maker(policy: Policy, difference: str | None, is_remote: bool) -> ProgramMaker:
    """Make the maker of a policy's programs, by the kind of the target; see `method_of`."""
    if difference is None and not is_remote:
        return LocalMaker(_local_program(policy))
    if not isinstance(policy, StepPolicy):
        if difference is not None:
            raise TokenizerMismatch(f"{difference}; {ADVICE}")
        raise OptionError(
            f"Policy {policy.name!r} needs the target's distributions, which a remote target "
            "does not give; use a step policy, such as specguard."
        )
    if policy.compares and not is_remote:
        raise OptionError(
            f"With these parameters {policy.name!r} compares steps by what both models say of each "
            f"token, but {difference}; for specguard leave out overrule."
        )
    if not is_remote:
        return CrossTokenizerMaker(policy)
    return RemoteMaker(lambda s, writer: remote_stepwise(s, policy, writer))


def _local_program(policy: Policy) -> Callable[[TokenSequence], Program]:
    """The program of a policy over a sequence that both models write, by the policy's kind."""
    if isinstance(policy, AnswerPolicy):
        return lambda s: cascade(s, policy, Exact())
    if isinstance(policy, StepPolicy):
        target = LocalTarget(_inner(policy))
        return lambda s: stepwise(s, policy, target)
    assert isinstance(policy, TokenPolicy)
    return lambda s: speculative(s, policy)


def _inner(policy: StepPolicy) -> TokenPolicy:
    """The token policy that verifies blocks while the target rewrites a step."""
    inner = resolve(policy.inner)
    if not isinstance(inner, TokenPolicy):
        raise OptionError(f"inner is {inner.name!r}; it must be a token policy.")
    return inner


def rows_of(policy: str | Policy) -> int:
    """Rows of each cache that a request takes: 1, and one more for each of several candidates."""
    if isinstance(policy, str):
        return method_of(policy, None, has_draft=True).rows
    # A single candidate takes its sequence's own row.
    if not isinstance(policy, StepPolicy):
        return 1
    most = max(policy.candidates, policy.target_candidates)
    return 1 if most == 1 else most + 1


def _asks_the_draft(policy: Policy) -> bool:
    """Whether a policy needs more from the draft than its tokens."""
    return isinstance(policy, (AnswerPolicy, StepPolicy)) or bool(
        policy.needs & {Need.DRAFT_LOGPROBS, Need.DRAFT_HIDDEN}
    )
