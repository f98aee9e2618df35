"""What a completions endpoint answers: a text, how it ended, and perhaps what it is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

LEAST = -9999.0
"""The log-probability of what is as good as impossible, as servers write it."""

Ending = Literal["stop", "length", "withheld", "failed"]
"""How a completion ended: at the model's own end or at a stop string, at the limit of tokens, by a
content filter, or in a failure of the server."""

# The words of servers, by their letters alone. Those of OpenAI's endpoint are among them.
_ENDINGS: dict[str, Ending] = {
    **dict.fromkeys(("stop", "stopped", "complete", "completed", "finished", "done"), "stop"),
    **dict.fromkeys(("stopsequence", "stopstring", "stopstringfound", "stopword"), "stop"),
    **dict.fromkeys(("length", "limit", "maxtokens", "maxnewtokens", "maxlength"), "length"),
    **dict.fromkeys(("modellength", "tokenlimit", "maxpredictedtokensreached"), "length"),
    **dict.fromkeys(("contextlength", "contextlengthreached"), "length"),
    **dict.fromkeys(("contentfilter", "safety", "recitation", "refusal", "blocklist"), "withheld"),
    **dict.fromkeys(("prohibitedcontent", "sensitive", "spii"), "withheld"),
    **dict.fromkeys(("error", "failed", "abort", "aborted", "cancelled", "canceled"), "failed"),
    **dict.fromkeys(("timeout", "load", "unload", "modelunloaded", "userstopped"), "failed"),
}
_OWN_ENDS = {"eos", "eosfound", "eostoken", "end", "endturn", "endoftext", "endofsequence"}
"""Words for the model's own end, and never for a stop string."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A token that a server wrote or repeated.

    Attributes:
        text: its text, as the server decodes it by itself.
        logprob: its log-probability, in nats; None for the first of a text.
        top: the most probable tokens in its place, by their texts, with theirs.
    """

    text: str
    logprob: float | None
    top: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Completion:
    """A server's answer.

    Attributes:
        text: the continuation.
        finish_reason: how it ended.
        stopped_at: the stop string, "" for the model's own end, None where the server does not
            say which of them it was.
        tokens: number of tokens that the server counted; None where it does not say.
        unknown: the server's word for the end, where it is not a known one.
        spoken: its tokens, a stop string's among them, where the server gives log-probabilities.
    """

    text: str
    finish_reason: Ending
    stopped_at: str | None = None
    tokens: int | None = None
    unknown: str | None = None
    spoken: list[Spoken] | None = None


def completion_of(answer: Any, most: int | None = None) -> Completion | None:
    """Read the answer of a completions endpoint; None if it is no completion.

    Servers have many words for an end. One that is not known, or none at all, is taken for the
    normal end where there is a text, so that no text is lost because of a word.

    Args:
        answer: the answer, parsed from JSON.
        most: the number of tokens that were asked for.
    """
    try:
        choice = answer["choices"][0]
        text, reason = choice.get("text"), choice.get("finish_reason")
        if text is None and isinstance(choice.get("message"), dict):
            text = choice["message"].get("content")
        usage = answer.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    except (AttributeError, IndexError, KeyError, TypeError):
        return None
    counted = tokens if type(tokens) is int and tokens >= 0 else None
    word = "".join(c for c in reason.lower() if c.isalpha()) if isinstance(reason, str) else ""
    ending: Ending | None = "stop" if word in _OWN_ENDS else _ENDINGS.get(word)
    unknown: str | None = None
    if ending is None:
        if not text and (text is None or "finish_reason" not in choice):
            return None
        unknown = None if reason is None else str(reason)[:100]
        # An end token is counted, too, but has no text.
        is_full = text and most is not None and counted is not None and counted >= most
        ending = "length" if is_full else "stop"
    text = "" if text is None else text
    if not (isinstance(text, str) and _is_unicode(text)):
        return None
    stopped_at = "" if word in _OWN_ENDS else None
    for field_name in ("stop_reason", "matched_stop"):
        if field_name in choice:  # the string, or nothing (or a token) at the model's own end
            found = choice[field_name]
            stopped_at = found if isinstance(found, str) else ""
    spoken = spoken_of(choice.get("logprobs"))
    return Completion(text, ending, stopped_at, counted, unknown, spoken)


def spoken_of(given: Any) -> list[Spoken] | None:
    """Read `choices[].logprobs` in the form of either endpoint; None if it is none."""
    try:
        if "content" in given:
            return [
                Spoken(
                    str(of["token"]),
                    _number(of["logprob"]),
                    {str(o["token"]): plain(o["logprob"]) for o in of.get("top_logprobs") or ()},
                )
                for of in given["content"]
            ]
        texts, values = given["tokens"], given["token_logprobs"]
        tops = given.get("top_logprobs") or [None] * len(texts)
        return [
            Spoken(str(text), _number(value), {str(t): plain(p) for t, p in (top or {}).items()})
            for text, value, top in zip(texts, values, tops, strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def plain(value: Any) -> float:
    """A log-probability that can be computed with.

    Raises:
        ValueError: it is no number.
        TypeError: it is none.
    """
    found = max(float(value), LEAST)
    if math.isnan(found):
        raise ValueError("NaN is no log-probability")
    return found


def _number(value: Any) -> float | None:
    return None if value is None else plain(value)


def _is_unicode(text: str) -> bool:
    """Whether a text has only whole characters; JSON may have halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
