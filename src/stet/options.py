"""The options of a request, as users give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from stet.draft_length import DraftLength
from stet.errors import OptionError
from stet.limits import Limits
from stet.sampling import SamplingParams

Prompt = str | Sequence[int]
"""Text, or tokens."""


class Options(TypedDict, total=False):
    """How to generate; every one may be left out.

    Attributes:
        max_new_tokens: the longest answer, in tokens (256, or what fits).
        temperature: 0 takes the most probable token (0).
        top_k: sample from the k most probable tokens; 0 for all (0).
        top_p: sample from the most probable tokens of this joint probability (1).
        min_p: sample from tokens of at least this share of the best one's probability (0).
        repetition_penalty: above 1 discourages what stands in the text already (1).
        logit_bias: added to the logits of single tokens, by id.
        seed: randomness; prompt i of a list gets seed + i (0).
        stop: a string or strings that end the answer.
        stop_token_ids: tokens that end it, besides the model's own end-of-sequence tokens.
        ignore_eos: do not end at the model's own end-of-sequence tokens (False).
        logprobs: record the target's n most probable tokens at each position (0).
        probabilities: record both models' probability of each emitted token (False).
        draft_length: tokens per block, "auto", or a rule from `stet.draft_length` ("auto").
        timeout: seconds after which a request ends with what it has (never).
        policy_parameters: parameters of a policy that is given by name.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    probabilities: bool
    draft_length: int | Literal["auto"] | DraftLength
    timeout: float | None
    policy_parameters: dict[str, Any]


_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "logit_bias",
)


def check_names(options: Options) -> None:
    """Refuse options that do not exist.

    Raises:
        OptionError: naming the first unknown one, and the known ones.
    """
    known = Options.__annotations__
    for name in options:
        if name not in known:
            listed = ", ".join(known)
            raise OptionError(f"There is no option {name!r}; the options are: {listed}.")


def sampling_of(options: Options, index: int) -> SamplingParams:
    """How the tokens of prompt number `index` are chosen.

    Raises:
        OptionError: for a value out of range.
    """
    chosen: dict[str, Any] = {k: v for k, v in options.items() if k in _SAMPLING}
    return SamplingParams(**chosen, seed=options.get("seed", 0) + index)


def limits_of(
    options: Options, ends: frozenset[int], draft_length: DraftLength, stream: bool
) -> Limits:
    """When a request with these options ends.

    Args:
        options: as the user gave them.
        ends: the model's own end-of-sequence tokens.
        draft_length: the rule that `draft_length` means.
        stream: whether the text is wanted after every round.

    Raises:
        OptionError: for a value out of range.
    """
    stop = options.get("stop", ())
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in strings:
        raise OptionError("A stop string must not be empty.")
    tokens = options.get("max_new_tokens", 256)
    if tokens < 1:
        raise OptionError(f"max_new_tokens is {tokens}; it must be at least 1.")
    top = options.get("logprobs", 0)
    if not 0 <= top <= 20:
        raise OptionError(f"logprobs is {top}; it must be between 0 and 20.")
    if options.get("ignore_eos"):
        ends = frozenset()
    return Limits(
        max_new_tokens=tokens,
        stop_token_ids=ends | set(options.get("stop_token_ids", ())),
        stop_strings=strings,
        draft_length=draft_length,
        probabilities=options.get("probabilities", False) or top > 0,
        top_logprobs=top,
        stream=stream,
    )
