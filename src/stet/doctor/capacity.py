"""How many requests a pair can serve, simulated from what its passes cost.

A model of a server, not a server: rounds take what their passes were measured to take, and each
request gains what blocks gain on average. What it leaves out (the network, other work, caches that
are full) makes a real server slower; what a benchmark of the real one says is worth more.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from stet.engine.costs import Costs


@dataclass(frozen=True, slots=True)
class Serving:
    """A server of a pair.

    Attributes:
        costs: seconds of each model's passes.
        draft_length: drafted tokens per block; 0 for the target alone.
        tokens_per_pass: tokens that a request gains in a round, on average.
        overhead: seconds of a round beside its passes.
        request_overhead: seconds of a round beside its passes, for each request in it.
        max_batch: requests that are decoded together.
    """

    costs: Costs
    draft_length: int
    tokens_per_pass: float
    overhead: float = 0.0
    request_overhead: float = 0.0
    max_batch: int = 64

    def round(self, requests: int) -> float:
        """Seconds of a round of so many requests."""
        width = self.draft_length + 1
        drafting = self.draft_length * self.costs.draft_pass(requests) if self.draft_length else 0.0
        beside = self.overhead + requests * self.request_overhead
        return drafting + self.costs.target_pass(requests * width) + beside

    def reading(self, tokens: int) -> float:
        """Seconds of reading a prompt."""
        draft = self.costs.draft_pass(tokens) if self.draft_length else 0.0
        return self.costs.target_pass(tokens) + draft


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: tokens of its prompt, and of its answer."""

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Served:
    """What became of a load.

    Attributes:
        requests_per_second: that were answered.
        tokens_per_second: of their answers.
        first_token: seconds until an answer's first token: median and 95th percentile.
        whole: seconds until an answer's end: median and 95th percentile.
    """

    requests_per_second: float
    tokens_per_second: float
    first_token: tuple[float, float]
    whole: tuple[float, float]


@dataclass(slots=True)
class _Live:
    came: float
    left: float
    first: float | None = None


def serve_rate(serving: Serving, asked: Sequence[Asked], rate: float, seed: int = 0) -> Served:
    """Requests that come independently of each other, so many a second on average.

    Args:
        serving: the server.
        asked: the requests, in order; at least two.
        rate: requests per second.
        seed: of the times at which they come.
    """
    draw = random.Random(seed)
    times: list[float] = []
    now = 0.0
    for _ in asked:
        now += draw.expovariate(rate)
        times.append(now)
    return _run(serving, asked, times)


def serve_clients(serving: Serving, asked: Sequence[Asked], clients: int) -> Served:
    """Clients that each send a request when their last one is answered.

    Args:
        serving: the server.
        asked: the requests, in order; at least two.
        clients: how many.
    """
    return _run(serving, asked, [0.0] * min(clients, len(asked)))


def _run(serving: Serving, asked: Sequence[Asked], times: Sequence[float]) -> Served:
    """Serve requests that come at known times; those without one come when one is answered."""
    coming = list(times)
    heapq.heapify(coming)
    waiting: deque[tuple[float, Asked]] = deque()
    live: list[_Live] = []
    first: list[float] = []
    whole: list[float] = []
    now, following = 0.0, 0
    while len(whole) < len(asked):
        while coming and following < len(asked) and coming[0] <= now:
            waiting.append((heapq.heappop(coming), asked[following]))
            following += 1
        if not live and not waiting:
            now = coming[0]
            continue
        while waiting and len(live) < serving.max_batch:
            came, request = waiting.popleft()
            now += serving.reading(request.prompt)
            live.append(_Live(came, float(request.answer)))
        now += serving.round(len(live))
        for one in live:
            one.left -= serving.tokens_per_pass
            if one.first is None:
                one.first = now
                first.append(now - one.came)
        ended = [one for one in live if one.left <= 0]
        live = [one for one in live if one.left > 0]
        for one in ended:
            whole.append(now - one.came)
            if len(times) < len(asked):
                heapq.heappush(coming, now)
    tokens = sum(request.answer for request in asked)
    return Served(len(asked) / now, tokens / now, _spread(first), _spread(whole))


def capacity(
    serving: Serving, asked: Sequence[Asked], *, first_token: float, whole: float
) -> float:
    """The most requests per second of which 95 % are answered in time.

    Args:
        serving: the server.
        asked: the requests.
        first_token: seconds until the first token.
        whole: seconds until the end.

    Returns:
        Requests per second to 2 %; 0 where not even a single request is in time.
    """

    def holds(rate: float) -> bool:
        found = serve_rate(serving, asked, rate)
        return found.first_token[1] <= first_token and found.whole[1] <= whole

    low, high = 0.0, serve_clients(serving, asked, serving.max_batch).requests_per_second
    if not holds(high / 1000):
        return 0.0
    while high - low > 0.02 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    cuts = quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]
