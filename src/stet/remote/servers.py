"""Several servers of one model: whose turn it is, and who rests after a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

MOST_DOUBLINGS = 10
"""How often a pause is doubled at most; one that is doubled on and on is no number at last."""

FIRST_REST, LONGEST_REST = 1.0, 60.0
"""Seconds for which a server is not asked after its first failure in a row; they double with each
further one, up to the second number."""


@dataclass(eq=False)
class Server:
    """One server.

    Attributes:
        url: its base address.
        gate: lets through as many requests as it may have at a time.
        failures: failures in a row.
        rests_until: when its rest ends.
        probed: whether it is being asked at present if it is up again.
    """

    url: str
    gate: asyncio.Semaphore
    failures: int = 0
    rests_until: float = 0.0
    probed: bool = False


@dataclass(eq=False, slots=True)
class Home:
    """The server that an answer's requests go to, whose cache holds its text.

    Attributes:
        server: None before the first of them.
    """

    server: Server | None = None


class Servers:
    """Chooses a server for each request.

    Args:
        urls: their base addresses.
        concurrency: requests that each of them has at a time.
        clock: seconds.
    """

    def __init__(
        self, urls: Sequence[str], concurrency: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.all = [Server(url, asyncio.Semaphore(concurrency)) for url in urls]
        self._clock = clock
        self._turn = 0

    def choose(self, home: Home, tried: Collection[Server]) -> Server:
        """The server of the next try.

        The home of the answer where it is well, else the next in turn of those that are; where all
        have failed, the one that has rested longest.

        Args:
            home: of the answer.
            tried: those that this very request has failed at; they are asked last.
        """
        well = [server for server in self.all if not server.failures]
        fresh = [server for server in well if server not in tried]
        if home.server in fresh:
            assert home.server is not None
            return home.server
        if not (fresh or well):
            return min(self.all, key=lambda s: (s in tried, s.rests_until))
        while True:
            server = self.all[self._turn % len(self.all)]
            self._turn += 1
            if server in (fresh or well):
                return server

    def failed(self, server: Server, after: float | None) -> None:
        """Let a server rest.

        Args:
            server: the server.
            after: the seconds that it asks for; None if it does not say.
        """
        now = self._clock()
        if now >= server.rests_until:  # requests that fail together are one failure
            doublings = min(server.failures, MOST_DOUBLINGS)
            rest = min(FIRST_REST * 2.0**doublings, LONGEST_REST)
            server.failures += 1
            server.rests_until = now + rest
        server.rests_until = max(server.rests_until, now + (after or 0.0))

    def succeeded(self, server: Server) -> None:
        """Have a server take its turns again."""
        server.failures, server.rests_until = 0, 0.0

    @property
    def rested(self) -> list[Server]:
        """Servers that failed, whose rest is over, and that nobody asks whether they are up."""
        now = self._clock()
        return [s for s in self.all if s.failures and s.rests_until <= now and not s.probed]

    def others(self, tried: Collection[Server]) -> bool:
        """Whether a server is well that a request has not failed at."""
        return any(not server.failures and server not in tried for server in self.all)
