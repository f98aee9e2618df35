"""The client of a remote target: servers in turn, retries, time limits, few requests at a time."""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from stet.remote.abilities import Abilities
from stet.remote.completion import Completion, completion_of
from stet.remote.connections import Again, Connections, RemoteError
from stet.remote.explanations import message_of, parse
from stet.remote.reading import Read, ReadingForm
from stet.remote.servers import MOST_DOUBLINGS, Home, Server, Servers
from stet.remote.target import RemoteTarget

LARGEST = 2**20
"""The most bytes of an answer that are read; no completion is longer."""

LARGEST_READING = 2**25
"""The most bytes of an answer with log-probabilities of a text."""

LONGEST_PAUSE = 8.0
"""The most seconds between two tries, where the server does not ask for more."""

T = TypeVar("T")


class RemoteClient:
    """The client of one remote target. All calls must come from one event loop.

    Args:
        target: the remote target.

    Attributes:
        abilities: how its servers can be asked about texts.
        servers: who is asked next.

    Raises:
        OptionError: the HTTP client is not installed.
    """

    def __init__(self, target: RemoteTarget) -> None:
        self.target = target
        self.abilities = Abilities()
        self.servers = Servers(target.urls, target.concurrency)
        self._connections = Connections(target)
        self._words: set[str] = set()

    async def complete(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
        logprobs: int | None = None,
        home: Home | None = None,
    ) -> Completion:
        """Let the target continue a text.

        Args:
            prompt: the text, or its tokens.
            max_tokens: the most tokens of the continuation, as the server counts them.
            temperature: 0 takes the most probable token.
            top_p: sample from the most probable tokens of this joint probability.
            frequency_penalty: subtracted from a logit for each time that this continuation has it.
            presence_penalty: subtracted from the logits of tokens that this continuation has.
            seed: seed of the sampling; None leaves it to the server.
            stop: texts that end the continuation.
            logprobs: ask for log-probabilities, and so many most probable tokens at each place.
            home: the server of the answer; it is moved where another one had to be asked.

        Raises:
            RefusedError: the server takes no such request.
            RemoteError: the server refused it for another reason, or all tries failed.
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
        if logprobs is not None:
            body["logprobs"] = logprobs

        def understand(server: Server, content: bytes) -> Completion:
            return self._completion(server, content, max_tokens)

        largest = LARGEST if logprobs is None else LARGEST_READING
        return await self._retry(body, home or Home(), largest, understand)

    async def read(
        self, prompt: str | Sequence[int], form: ReadingForm, home: Home | None = None
    ) -> list[Read] | None:
        """Ask how probable a text is.

        Args:
            prompt: the text, or its tokens.
            form: how the server is asked.
            home: the server of the answer.

        Returns:
            The tokens as the server cuts them; None where it does not say.

        Raises:
            RefusedError: the server takes no such request.
            RemoteError: the server refused it for another reason, or all tries failed.
        """
        body = {"model": self.target.model, **form.body(prompt), "stream": False}

        def understand(server: Server, content: bytes) -> list[Read] | None:
            answer = parse(content)
            if completion_of(answer, form.written) is None:
                raise self._no_completion(content)
            return form.parse(answer, prompt)

        return await self._retry(body, home or Home(), LARGEST_READING, understand)

    def close(self) -> None:
        """Close the connections as soon as the calls under way have ended; from any thread."""
        self._connections.close()

    async def _retry(
        self,
        body: dict[str, Any],
        home: Home,
        largest: int,
        understand: Callable[[Server, bytes], T],
    ) -> T:
        """Try until there is an answer, or the tries or the time are used up.

        Args:
            body: what is sent.
            home: the server of the answer.
            largest: the most bytes of an answer.
            understand: reads a server's answer; raises `Again` where another try may help.
        """
        call = asyncio.current_task()
        assert call is not None
        self._connections.hold(call)
        target, servers = self.target, self.servers
        end = time.monotonic() + target.total_timeout
        tries, tried = max(target.retries + 1, len(servers.all)), set[Server]()
        number = 0
        while True:
            self._look_after_the_rested()
            server = home.server = servers.choose(home, tried)
            began = time.monotonic()
            async with server.gate:
                end += time.monotonic() - began  # waiting for others is no waiting for the server
                if server.failures and servers.others(tried):
                    continue  # it has failed meanwhile
                limit = min(target.timeout, end - time.monotonic())
                try:
                    async with asyncio.timeout(limit):
                        content = await self._connections.send(server, body, largest)
                    found = understand(server, content)
                except TimeoutError:
                    problem, after = f"no answer within {limit:.3g} s", None
                except Again as again:
                    problem, after = str(again), again.after
                else:
                    servers.succeeded(server)
                    return found
            servers.failed(server, after)
            tried.add(server)
            number += 1
            if len(servers.all) > 1:
                problem += f", at {server.url}"
            pause = 0.0 if servers.others(tried) else self._pause(number - 1, after)
            if time.monotonic() + pause >= end:
                raise RemoteError(
                    f"{_name(tried, 'gives')} no answer within {target.total_timeout:.3g} s in all "
                    f"(last: {problem}); check the server, or raise total_timeout."
                )
            if number >= tries:
                raise RemoteError(
                    f"{_name(tried, 'failed')} {tries} time{'s' * (tries > 1)} (last: {problem}); "
                    "check that the server is up, or raise retries."
                )
            await asyncio.sleep(pause)

    def _pause(self, number: int, after: float | None) -> float:
        if after is not None:
            return after
        # Random, so that requests which failed together are not repeated together.
        doublings = min(number, MOST_DOUBLINGS)
        whole = min(self.target.backoff * 2.0**doublings, LONGEST_PAUSE)
        return whole * random.uniform(0.5, 1.0)

    def _look_after_the_rested(self) -> None:
        """Ask servers whose rest is over if they are up, while others are asked for answers."""
        if len(self.servers.all) == 1:
            return
        for server in self.servers.rested:
            server.probed = True
            self._connections.hold(asyncio.create_task(self._probe(server)))

    async def _probe(self, server: Server) -> None:
        try:
            is_up = await self._connections.is_up(server)
        finally:
            server.probed = False
        if is_up:
            self.servers.succeeded(server)
        else:
            self.servers.failed(server, None)

    def _completion(self, server: Server, content: bytes, most: int) -> Completion:
        quote, who = self._connections.quote, self._connections.who(server)
        completion = completion_of(parse(content), most)
        if completion is None:
            raise self._no_completion(content)
        if completion.finish_reason == "failed":
            raise Again(f"it broke off: {quote(content)}")
        if completion.finish_reason == "withheld":
            raise RemoteError(
                f"{who} withholds what the model wrote, by a content filter: {quote(content)}."
            )
        if completion.unknown is not None and completion.unknown not in self._words:
            self._words.add(completion.unknown)
            warnings.warn(
                f"{who} ends a text for the reason {quote(completion.unknown)}, which is taken for "
                "the end of an answer or a stop string.",
                stacklevel=2,
            )
        return completion

    def _no_completion(self, content: bytes) -> Again:
        said = self._connections.quote(message_of(content))
        return Again(f"what it sent is no completion: {said}")


def _name(tried: Iterable[Server], verb: str) -> str:
    """The servers that were tried, with a verb that fits their number."""
    urls = sorted(server.url for server in tried)
    if len(urls) == 1:
        return f"The remote target at {urls[0]} {verb}"
    return f"The remote targets at {', '.join(urls)} {verb.removesuffix('s')}"


async def together(requests: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Make requests at the same time; where one fails for good the others are given up."""
    tasks = [asyncio.create_task(request) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
