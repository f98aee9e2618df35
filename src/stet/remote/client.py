"""The client of a remote target: retries, time limits, and few requests at a time."""

from __future__ import annotations

import asyncio
import json
import random
import time
import warnings
import weakref
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError, StetError
from stet.remote.target import KEY_VARIABLE, Completion, RemoteTarget, completion_of

if TYPE_CHECKING:
    import httpx2

LARGEST = 2**20
"""The most bytes of an answer that are read; no completion is longer."""

LONGEST_PAUSE = 8.0
"""The most seconds between two tries, where the server does not ask for more."""


class RemoteError(StetError):
    """A remote target could not be reached, or refused a request."""


class _Again(Exception):
    """A failure after which another try may succeed.

    Attributes:
        after: seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, problem: str, after: float | None = None) -> None:
        super().__init__(problem)
        self.after = after


class RemoteClient:
    """The client of one remote target. All calls must come from one event loop.

    Args:
        target: the remote target.

    Raises:
        OptionError: the HTTP client is not installed.
    """

    def __init__(self, target: RemoteTarget) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise OptionError(
                "A remote target needs an HTTP client: pip install 'stet-decoding[remote]'."
            ) from error
        self._http = httpx2
        self.target = target
        self._client: httpx2.AsyncClient | None = None
        self._gate = asyncio.Semaphore(target.concurrency)
        self._calls: set[asyncio.Task[Any]] = set()
        self._closer: weakref.finalize[..., Any] | None = None
        self._closed = False
        self._words: set[str] = set()

    async def complete(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
    ) -> Completion:
        """Let the target continue a text.

        Args:
            prompt: the text.
            max_tokens: the most tokens of the continuation, as the server counts them.
            temperature: 0 takes the most probable token.
            top_p: sample from the most probable tokens of this joint probability.
            frequency_penalty: subtracted from a logit for each time that this continuation has it.
            presence_penalty: subtracted from the logits of tokens that this continuation has.
            seed: seed of the sampling; None leaves it to the server.
            stop: texts that end the continuation.

        Raises:
            RemoteError: the server refused the request, or all tries failed.
        """
        body: dict[str, Any] = {
            "model": self.target.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stream": False,
        }
        # Not every server knows these.
        if frequency_penalty:
            body["frequency_penalty"] = frequency_penalty
        if presence_penalty:
            body["presence_penalty"] = presence_penalty
        if seed is not None:
            body["seed"] = seed
        if stop:
            body["stop"] = list(stop)
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        try:
            async with self._gate:
                return await self._retry(body)
        finally:
            self._calls.discard(call)

    def close(self) -> None:
        """Close the connections as soon as the calls under way have ended; from any thread."""
        self._closed = True
        if self._closer is not None:
            self._closer()

    async def _retry(self, body: dict[str, Any]) -> Completion:
        """Try until there is an answer, or the tries or the time are used up."""
        target, problem = self.target, "no answer yet"
        end = time.monotonic() + target.total_timeout
        for number in range(target.retries + 1):
            left = end - time.monotonic()
            try:
                async with asyncio.timeout(min(target.timeout, left)):
                    return await self._ask(body)
            except TimeoutError:
                problem, after = f"no answer within {min(target.timeout, left):.3g} s", None
            except self._http.TransportError as error:
                problem, after = str(error) or type(error).__name__, None
            except _Again as again:
                problem, after = str(again), again.after
            pause = self._pause(number, after)
            if time.monotonic() + pause >= end:
                raise RemoteError(
                    f"{self._who} gives no answer within {target.total_timeout:.3g} s in all "
                    f"(last: {problem}); check the server, or raise total_timeout."
                )
            if number < target.retries:
                await asyncio.sleep(pause)
        tries = target.retries + 1
        raise RemoteError(
            f"{self._who} failed {tries} time{'s' * (tries > 1)} (last: {problem}); check that the "
            "server is up, or raise retries."
        )

    def _pause(self, number: int, after: float | None) -> float:
        if after is not None:
            return after
        # Random, so that requests which failed together are not repeated together.
        whole = min(self.target.backoff * 2.0**number, LONGEST_PAUSE)
        return whole * random.uniform(0.5, 1.0)

    async def _ask(self, body: dict[str, Any]) -> Completion:
        """Send a request once."""
        async with self._open().stream("POST", "completions", json=body) as response:
            content = await self._content(response)
        status = response.status_code
        if status == 200:
            return self._completion(content, body["max_tokens"])
        said = self._quote(_message(content))
        if status in (408, 425, 429) or status >= 500:
            raise _Again(f"status {status}: {said}", _seconds(response.headers.get("retry-after")))
        if response.is_redirect:
            raise RemoteError(
                f"{self._who} redirects to another address, which is not followed; name that "
                "address if you trust it."
            )
        if status in (401, 403):
            raise RemoteError(
                f"{self._who} refuses the key (status {status}: {said}); set {KEY_VARIABLE} or "
                "api_key."
            )
        if status == 404:
            raise RemoteError(
                f"{self._who} does not know the address or the model (status 404: {said}); the "
                "address usually ends in /v1."
            )
        raise RemoteError(f"{self._who} refuses the request (status {status}: {said}).")

    def _completion(self, content: bytes, most: int) -> Completion:
        completion = completion_of(_parse(content), most)
        if completion is None:
            raise _Again(f"what it sent is no completion: {self._quote(_message(content))}")
        if completion.finish_reason == "failed":
            raise _Again(f"it broke off: {self._quote(content)}")
        if completion.finish_reason == "withheld":
            raise RemoteError(
                f"{self._who} withholds what the model wrote, by a content filter: "
                f"{self._quote(content)}."
            )
        if completion.unknown is not None and completion.unknown not in self._words:
            self._words.add(completion.unknown)
            warnings.warn(
                f"{self._who} ends a text for the reason {self._quote(completion.unknown)}, which "
                "is taken for the end of an answer or a stop string.",
                stacklevel=2,
            )
        return completion

    async def _content(self, response: httpx2.Response) -> bytes:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > LARGEST:
                raise RemoteError(
                    f"{self._who} sent more than {LARGEST // 2**20} MiB; that is no completion."
                )
        return bytes(content)

    def _open(self) -> httpx2.AsyncClient:
        if self._closed:
            raise RemoteError("The pair was closed before this request had ended.")
        if self._client is None:
            headers = {"Accept-Encoding": "identity"}
            if self.target.key is not None:
                headers["Authorization"] = f"Bearer {self.target.key}"
            self._client = self._http.AsyncClient(
                base_url=self.target.url,
                headers=headers,
                timeout=None,  # each try has its own limit
                follow_redirects=False,
                # No proxy for this machine's own addresses.
                trust_env=not self.target.is_local,
            )
            loop = asyncio.get_running_loop()
            self._closer = weakref.finalize(self, _close_soon, self._client, self._calls, loop)
        return self._client

    @property
    def _who(self) -> str:
        return f"The remote target at {self.target.url}"

    def _quote(self, content: str | bytes) -> str:
        """Quote a server's answer: short, on one line, and without the key."""
        text = content.decode(errors="replace") if isinstance(content, bytes) else content
        if self.target.key is not None:
            text = text.replace(self.target.key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return repr(text[:200])


def _close_soon(
    client: httpx2.AsyncClient, calls: set[asyncio.Task[Any]], loop: asyncio.AbstractEventLoop
) -> None:
    """Close the connections, in the loop that they belong to."""
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(_close(client, calls), loop)


async def _close(client: httpx2.AsyncClient, calls: set[asyncio.Task[Any]]) -> None:
    while calls:
        await asyncio.wait(calls)
    await client.aclose()


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _message(content: bytes) -> str:
    """The message in an error of one of the usual forms; otherwise the whole content."""
    part = _parse(content)
    # {"error": {"message": "..."}}, {"detail": [{"msg": "..."}]}, [{"error": "..."}] and so on.
    for _ in range(4):
        if isinstance(part, list) and part:
            part = part[0]
        elif isinstance(part, dict):
            part = next((part[n] for n in ("error", "message", "detail", "msg") if n in part), None)
    return part if isinstance(part, str) and part else content.decode(errors="replace")


def _seconds(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header, which is a number of seconds or a date."""
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
