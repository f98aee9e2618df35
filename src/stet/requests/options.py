"""The options of a request, as users give them, and their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

import numpy as np

from stet.core.draft_length import LONGEST, DraftLength
from stet.core.errors import OptionError
from stet.core.limits import Limits
from stet.core.sampling import SamplingParams
from stet.requests.seeds import seeds_of

MAX_NEW_TOKENS = 256
"""The longest answer where the user does not set it; less where less fits."""

MOST_LOGPROBS = 20

PINNED: dict[str, Any] = {"repetition_penalty": 1.0, "logit_bias": {}}
"""Options of measurements, so that these do not depend on a model's `generation_config.json`."""


class Options(TypedDict, total=False):
    """Options of generation; every one may be left out, or None, which is the same.

    Attributes:
        max_new_tokens: the longest answer, in tokens. A value that is set and does not fit fails
            the request; where none is set, it is 256, or what fits.
        fit: shorten a set `max_new_tokens` to what fits, too (False).
        temperature: 0 takes the most probable token (0).
        top_k: sample from the k most probable tokens; 0 for all (0).
        top_p: sample from the most probable tokens of this joint probability (1).
        min_p: sample from tokens of at least this share of the best one's probability (0).
        repetition_penalty: above 1 discourages tokens that are in the text already (the value of
            the target's `generation_config.json`, else 1).
        frequency_penalty: subtracted from a token's logit for each time that it is in the answer
            already, the prompt not counted, as in OpenAI's API; from -2 to 2 (0).
        presence_penalty: subtracted once from the logits of tokens that are in the answer already,
            the prompt not counted, as in OpenAI's API; from -2 to 2 (0).
        logit_bias: added to the logits of single tokens, by id (minus infinity for those that the
            target's `generation_config.json` suppresses).
        seed: seed of the sampling: the first prompt gets it as it is, prompt i of a list gets a
            hash of it and of i (`stet.requests.seeds.mixed`); or a list with a seed for each
            prompt. Without one, a seed is drawn where the temperature is above 0, else it is 0.
            `Result.seed` is the prompt's own, with which it gives the same text by itself.
        stop: a string or strings that end the answer; they may hold special tokens.
        stop_token_ids: tokens that end it, besides the model's own end-of-sequence tokens.
        ignore_eos: do not end at the model's own end-of-sequence tokens (False).
        logprobs: record the target's n most probable tokens at each position (0).
        probabilities: record both models' probability of each emitted token (False).
        draft_length: tokens per block, "auto", or a rule from `stet.core.draft_length` ("auto").
        timeout: seconds after which a request ends with what it has (never).
        policy_parameters: parameters of a policy that is given by name.
    """

    max_new_tokens: int | None
    fit: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | Sequence[int] | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    probabilities: bool | None
    draft_length: int | Literal["auto"] | DraftLength | None
    timeout: float | None
    policy_parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Options after the checks of types and ranges, with defaults for those that are not given.

    The attributes are those of `Options`; `stop` and `stop_token_ids` are tuples.
    """

    max_new_tokens: int | None = None
    fit: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict[int, float])
    seed: int | tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = 0
    probabilities: bool = False
    draft_length: int | Literal["auto"] | DraftLength = "auto"
    timeout: float | None = None
    policy_parameters: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def sampling(self) -> SamplingParams:
        """The sampling parameters, without the seed.

        Raises:
            OptionError: for a value out of range.
        """
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
        )

    def seeds(self, count: int) -> list[int]:
        """The seed of each of `count` prompts.

        Raises:
            OptionError: the number of seeds differs from the number of prompts.
        """
        first = self.seed
        if isinstance(first, tuple):
            if len(first) != count:
                raise OptionError(
                    f"seed has {_count(len(first), 'entry', 'entries')} for "
                    f"{_count(count, 'prompt', 'prompts')}; give one seed for all, or one for "
                    "each."
                )
            return list(first)
        return seeds_of(first, count, sampled=self.temperature > 0)

    def limits(
        self,
        ends: frozenset[int],
        draft_length: DraftLength,
        stream: bool,
        special: Mapping[int, str],
    ) -> Limits:
        """The limits at which a request ends.

        Args:
            ends: the model's own end-of-sequence tokens.
            draft_length: the rule that the option `draft_length` gives.
            stream: whether the text is decoded after every round.
            special: the tokens that are no part of a text, with their names.
        """
        ending = {token for token, name in special.items() if name in self.stop}
        named = {
            token: name
            for token, name in special.items()
            if token not in ending and any(name in stop for stop in self.stop)
        }
        stops = ending | {*self.stop_token_ids}
        return Limits(
            max_new_tokens=self.max_new_tokens or MAX_NEW_TOKENS,
            # A token named in `stop` ends an answer even if it is an end token that is ignored.
            stop_token_ids=frozenset(stops) if self.ignore_eos else ends | stops,
            stop_strings=self.stop,
            special=named,
            draft_length=draft_length,
            probabilities=self.probabilities or self.logprobs > 0,
            top_logprobs=self.logprobs,
            stream=stream,
        )


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def read_options(options: Mapping[str, Any]) -> Asked:
    """Read the options of a request; None counts as not given.

    Raises:
        OptionError: naming the first option that is unknown or has a wrong value, and the allowed
            values.
    """
    chosen: dict[str, Any] = {}
    for name, value in options.items():
        reader = _READERS.get(name)
        if reader is None:
            listed = ", ".join(_READERS)
            raise OptionError(f"There is no option {name!r}; the options are: {listed}.")
        if value is not None:
            chosen[name] = _read(name, value, reader)
    asked = Asked(**chosen)
    _ = asked.sampling  # its ranges
    return asked


def read_reading_options(top_logprobs: Any, timeout: Any) -> tuple[int, float | None]:
    """Read the options of reading a text: the most probable tokens, and the seconds it may take.

    Raises:
        OptionError: naming an option with a wrong value, and the allowed values.
    """
    top: int = _read("top_logprobs", top_logprobs, _READERS["logprobs"])
    seconds: float | None = timeout
    if timeout is not None:
        seconds = _read("timeout", timeout, _READERS["timeout"])
    return top, seconds


def _read(name: str, value: Any, reader: _Reader) -> Any:
    """Read the value of an option.

    Raises:
        OptionError: the value is not allowed.
    """
    allowed, read = reader
    try:
        return read(value)
    except _Wrong as error:
        raise OptionError(
            f"{name} is {shown(value)}; it must be {allowed}{error.advice}."
        ) from error


def shown(value: object) -> str:
    """A value as a message shows it, on one line and cut to 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Wrong(Exception):
    """A value that an option cannot have."""

    def __init__(self, advice: str = "") -> None:
        super().__init__(advice)
        self.advice = advice


def _flag(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Wrong
    return bool(value)


def whole(value: Any) -> int:
    """Read a whole number; True and False are none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise _Wrong
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise _Wrong
    try:
        found = float(value)
    except OverflowError as error:
        raise _Wrong from error
    if math.isnan(found):
        raise _Wrong
    return found


def _at_least(lowest: int, highest: float = math.inf) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        found = whole(value)
        if not lowest <= found <= highest:
            raise _Wrong
        return found

    return read


def _logprobs(value: Any) -> int:
    if value is True:
        raise _Wrong("; 1 records the most probable one")
    return _at_least(0, MOST_LOGPROBS)(value)


def _entries(value: Any) -> tuple[Any, ...] | None:
    """The entries of a list, a set or an array; None for anything else."""
    if isinstance(value, (str, bytes, Mapping)):
        return None
    try:
        return tuple(value)
    except TypeError:
        return None


def _seed(value: Any) -> int | tuple[int, ...]:
    read = _at_least(-(2**63), 2**63 - 1)
    several = _entries(value)
    return read(value) if several is None else tuple(read(entry) for entry in several)


def _stop(value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else _entries(value)
    if found is None or not all(isinstance(text, str) for text in found):
        raise _Wrong
    if "" in found:
        raise OptionError("A stop string must not be empty.")
    return found


def _tokens(value: Any) -> tuple[int, ...]:
    found = _entries(value)
    if found is None:
        raise _Wrong("; one token goes into a list, too" if isinstance(value, Integral) else "")
    return tuple(_at_least(0)(token) for token in found)


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise _Wrong
    found: dict[int, float] = {}
    for token, bias in value.items():
        if isinstance(token, str):
            raise _Wrong(f"; the key {shown(token)} is a text")
        found[_at_least(0)(token)] = _number(bias)
        if bias == math.inf:
            raise _Wrong
    return found


def _draft_length(value: Any) -> Any:
    if isinstance(value, str):
        if value != "auto":
            raise _Wrong
        return value
    if hasattr(value, "next_block") and hasattr(value, "longest") and not isinstance(value, type):
        return value
    return _at_least(1, LONGEST)(value)


def _timeout(value: Any) -> float:
    found = _number(value)
    if found < 0:
        raise _Wrong
    return found


def _parameters(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _Wrong
    return dict(value)


_Reader = tuple[str, Callable[[Any], Any]]
"""What values an option may have, in words, and a function that reads one."""

_READERS: dict[str, _Reader] = {
    "max_new_tokens": ("a whole number of tokens, at least 1", _at_least(1)),
    "fit": ("True or False", _flag),
    "temperature": ("a number, 0 or more", _number),
    "top_k": ("0 (off) or a positive number of tokens", whole),
    "top_p": ("a number above 0 and at most 1", _number),
    "min_p": ("a number between 0 and 1", _number),
    "repetition_penalty": ("a number above 0", _number),
    "frequency_penalty": ("a number between -2 and 2", _number),
    "presence_penalty": ("a number between -2 and 2", _number),
    "logit_bias": ("a dictionary from token ids to numbers", _bias),
    "seed": ("a 64-bit integer, or a list with one for each prompt", _seed),
    "stop": ("a string or a list of strings", _stop),
    "stop_token_ids": ("a list of token ids", _tokens),
    "ignore_eos": ("True or False", _flag),
    "logprobs": (f"a whole number between 0 and {MOST_LOGPROBS}", _logprobs),
    "probabilities": ("True or False", _flag),
    "draft_length": (
        f'a number of tokens from 1 to {LONGEST}, "auto", or a rule from stet.core.draft_length',
        _draft_length,
    ),
    "timeout": ("a number of seconds, 0 or more", _timeout),
    "policy_parameters": ("a dictionary of parameters by name", _parameters),
}
