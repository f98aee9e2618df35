"""A target behind an OpenAI-compatible completions endpoint: its settings and its answers."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from stet.core.errors import OptionError

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that holds the key if none is given."""


@dataclass(frozen=True)
class RemoteTarget:
    """A target that returns text over HTTP, without tokens and distributions.

    Attributes:
        url: the endpoint's base, such as "https://host/v1"; `/completions` is added to it, and
            `/v1` to an address without a path.
        model: the server's name for the model.
        api_key: sent as a bearer token; None: the value of `OPENAI_API_KEY`, if any; empty: no
            key. It appears in no trace, message or representation.
        timeout: seconds for one try.
        total_timeout: seconds for all tries of a request and the pauses between them.
        retries: further tries after a lost connection, a slow, overloaded or failing server (408,
            425, 429, 5xx), or an answer that is no completion.
        backoff: seconds before the second try, doubled for each further one, at most 8, minus a
            random part; where the server says how long to wait (`Retry-After`), that long.
        concurrency: requests sent at a time; further ones wait.
        allow_http: allow a plain `http://` address that is not this machine's own. Prompts, texts
            and the key can then be read in transit.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    total_timeout: float = 300.0
    retries: int = 4
    backoff: float = 0.5
    concurrency: int = 8
    allow_http: bool = False

    def __post_init__(self) -> None:
        """Refuse invalid addresses and numbers.

        Raises:
            OptionError: naming the invalid value.
        """
        self._check_url()
        object.__setattr__(self, "url", _base(self.url))
        if not self.model:
            raise OptionError(
                "Name the model that the remote target should run: model=... (--target-model)."
            )
        for name in ("timeout", "total_timeout"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if self.retries < 0 or self.backoff < 0:
            raise OptionError("retries and backoff must not be negative.")
        if self.concurrency < 1:
            raise OptionError(f"concurrency is {self.concurrency}; it must be at least 1.")
        key = self.key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise OptionError("The API key holds characters that no key has; check how it is set.")

    def _check_url(self) -> None:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise OptionError(f"The address of the remote target is invalid ({error}).") from error
        if parts.scheme not in ("http", "https") or not host:
            raise OptionError(
                f"{self.url!r} is no address of a server; give one such as https://host/v1."
            )
        if parts.username is not None or parts.password is not None:
            raise OptionError("Give the key as api_key, not as a part of the address.")
        if parts.query or parts.fragment:
            raise OptionError("The address of a remote target has no ? and no #.")
        if parts.scheme == "http" and not (self.is_local or self.allow_http):
            raise OptionError(
                f"{self.url} is not encrypted and not on this machine: use https, or allow it with "
                "allow_http=True (--allow-http)."
            )

    @property
    def is_local(self) -> bool:
        """Whether the address is this machine's own."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return self.model

    @property
    def key(self) -> str | None:
        """The key that is sent; None for no key."""
        key = os.environ.get(KEY_VARIABLE) if self.api_key is None else self.api_key
        return key or None

    @property
    def identity(self) -> dict[str, Any]:
        """Name and address, as traces and results record them."""
        return {"name": self.model, "revision": None, "dtype": "remote", "url": self.url}


def _base(url: str) -> str:
    """The base of an address, which may end in `/completions` or lack `/v1`."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


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
class Completion:
    """A server's answer.

    Attributes:
        text: the continuation.
        finish_reason: how it ended.
        stopped_at: the stop string, "" for the model's own end, None where the server does not
            say which of them it was.
        tokens: number of tokens that the server counted; None where it does not say.
        unknown: the server's word for the end, where it is not a known one.
    """

    text: str
    finish_reason: Ending
    stopped_at: str | None = None
    tokens: int | None = None
    unknown: str | None = None


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
    return Completion(text, ending, stopped_at, counted, unknown)


def _is_unicode(text: str) -> bool:
    """Whether a text has only whole characters; JSON may have halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
