"""A target behind OpenAI-compatible completions endpoints: its settings."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stet.core.errors import OptionError

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that holds the key if none is given."""


@dataclass(frozen=True)
class RemoteTarget:
    """A target behind HTTP, which returns text, and log-probabilities where its server gives any.

    Several servers may be named, all of which run the same model under the same name: answers are
    shared out among them in turn, and what one fails at is asked of another.

    Attributes:
        url: the endpoint's base, such as "https://host/v1", or a list of several; `/completions` is
            added to it, and `/v1` to an address without a path.
        model: the server's name for the model.
        api_key: sent to every server as a bearer token; None: the value of `OPENAI_API_KEY`, if
            any; empty: no key. It appears in no trace, message or representation.
        timeout: seconds for one try.
        total_timeout: seconds for all tries of a request and the pauses between them.
        retries: further tries, at this server or another, after a lost connection, a slow,
            overloaded or failing server (408, 425, 429, 5xx), or an answer that is no completion.
        backoff: seconds before the second try, doubled for each further one, at most 8, minus a
            random part; where the server says how long to wait (`Retry-After`), that long.
        concurrency: requests sent to a server at a time; further ones wait.
        allow_http: allow a plain `http://` address that is not this machine's own. Prompts, texts
            and the key can then be read in transit.
    """

    url: str | Sequence[str]
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    total_timeout: float = 300.0
    retries: int = 4
    backoff: float = 0.5
    concurrency: int = 16
    allow_http: bool = False

    def __post_init__(self) -> None:
        """Refuse invalid addresses and numbers.

        Raises:
            OptionError: naming the invalid value.
        """
        given = (self.url,) if isinstance(self.url, str) else tuple(self.url)
        for url in given:
            _check(url, allow_http=self.allow_http)
        urls = tuple(map(base_of, given))
        if not urls or len(set(urls)) < len(urls):
            raise OptionError("Give the address of a remote target, or several different ones.")
        object.__setattr__(self, "url", urls[0] if len(urls) == 1 else urls)
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

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of all servers."""
        return (self.url,) if isinstance(self.url, str) else tuple(self.url)

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
        """Name and addresses, as traces and results record them."""
        url = self.url if isinstance(self.url, str) else list(self.url)
        return {"name": self.model, "revision": None, "dtype": "remote", "url": url}


def base_of(url: str) -> str:
    """The base of an address, which may end in `/completions` or lack `/v1`."""
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def is_local(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check(url: str, *, allow_http: bool) -> None:
    """Refuse an address that is none, or that would be asked in the clear.

    Raises:
        OptionError: naming what is wrong.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise OptionError(f"The address of the remote target is invalid ({error}).") from error
    if parts.scheme not in ("http", "https") or not host:
        raise OptionError(f"{url!r} is no address of a server; give one such as https://host/v1.")
    if parts.username is not None or parts.password is not None:
        raise OptionError("Give the key as api_key, not as a part of the address.")
    if parts.query or parts.fragment:
        raise OptionError("The address of a remote target has no ? and no #.")
    if parts.scheme == "http" and not (is_local(url) or allow_http):
        raise OptionError(
            f"{url} is not encrypted and not on this machine: use https, or allow it with "
            "allow_http=True (--allow-http)."
        )
