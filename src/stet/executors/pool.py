"""Workers that may die, and orders that are handed to them: no more than they have hands for.

What a worker is, and how it is reached, is a `Backend`'s matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stet.core.errors import StetError

AHEAD = 2
"""Orders that a worker has at a time: it finds the next one there when one is done."""

ATTEMPTS = 3
"""So many workers may die of one order before it is given up."""

DEATHS = 4
"""So many deaths in a row for each worker, with nothing finished between them, end a run."""

PATIENCE = 60.0
"""Seconds without any worker after which that is told."""

FEWEST_DEATHS = 3 * ATTEMPTS
"""At least so many do: two orders in a row may be deadly to a single worker."""


class WorkerDied(Exception):
    """A worker is gone, with what it was working on; its reason is for a message."""


class Backend(Protocol):
    """Starts workers and carries orders to them. Orders of one worker are done in their order."""

    def start(self) -> Any:
        """Start a worker, which need not be there yet; returns what stands for it."""
        ...

    def submit(self, worker: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        """Give an order to a worker; returns a ticket, which can be hashed."""
        ...

    def wait(self, tickets: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Wait so long until something has come of one of these orders; returns all such."""
        ...

    def result(self, ticket: Any) -> Any:
        """What has come of an order; raises what it raised.

        Raises:
            WorkerDied: the worker is gone.
        """
        ...

    def stop(self, worker: Any) -> None:
        """End a worker, which may be gone already."""
        ...

    def share(self, value: Any) -> Any:
        """Keep a value where all workers can fetch it; returns what they fetch it by."""
        ...


@dataclass(eq=False, slots=True)
class _Order:
    method: str
    arguments: tuple[Any, ...]
    deaths: int = 0


@dataclass(eq=False, slots=True)
class _Worker:
    handle: Any
    orders: dict[Any, _Order] = field(default_factory=dict[Any, _Order])


class Pool:
    """Workers that are replaced when they die.

    Args:
        backend: starts and reaches them.
        workers: how many.
        accept: called with what the first order of each worker, to load its pair, has returned.
        tell: called with a sentence when a worker has died, or when there is none for long.
    """

    def __init__(
        self,
        backend: Backend,
        workers: int,
        *,
        accept: Callable[[Any], None],
        tell: Callable[[str], None],
    ) -> None:
        self._backend, self._accept, self._tell = backend, accept, tell
        self._size = workers
        self._loading: dict[Any, Any] = {}
        self._ready: list[_Worker] = []
        self._deaths = 0
        self._mapping = False
        for _ in range(workers):
            self._start()

    def call(self, method: str, *arguments: Any) -> Any:
        """Give one order to the first worker that is ready, and wait for it.

        Raises:
            StetError: as `map` does.
        """
        (result,) = self.map(method, [arguments])
        return result

    def map(self, method: str, orders: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """Give many orders, taken from the iterable as they are needed.

        Args:
            method: what is to be done.
            orders: arguments of each.

        Yields:
            What comes of each order, as it comes.

        Raises:
            StetError: workers keep dying; or, at the end, those of some order did. Whatever an
                order raised ends all.
        """
        if self._mapping:
            raise StetError(
                "An executor runs one thing at a time; take all that the first one yields, or end "
                "it, before the next."
            )
        self._mapping = True
        source = iter(orders)
        waiting: deque[_Order] = deque()
        given_up: list[str] = []
        try:
            while True:
                self._hand_out(method, source, waiting)
                running = {t: w for w in self._ready for t in w.orders}
                if not running and not waiting and not self._loading_for(source, waiting, method):
                    break
                done = self._backend.wait([*self._loading, *running], PATIENCE)
                if not done and not self._ready:
                    self._tell("No worker is there yet: none has room, or the pair loads slowly.")
                for ticket in done:
                    if ticket in self._loading:
                        self._finish_loading(ticket)
                        continue
                    worker = running[ticket]
                    if ticket not in worker.orders:
                        continue  # it died meanwhile
                    try:
                        result = self._backend.result(ticket)
                    except WorkerDied as death:
                        given_up += self._bury(worker, str(death), waiting)
                        continue
                    del worker.orders[ticket]
                    self._deaths = 0
                    yield result
        finally:
            self._mapping = False
            for worker in self._ready:
                worker.orders.clear()  # where the caller has left, nobody wants them any more
        if given_up:
            one = len(given_up) == 1
            what = "1 chunk was" if one else f"{len(given_up)} chunks were"
            raise StetError(
                f"{what} given up: {ATTEMPTS} workers died of {'it' if one else 'each'} "
                f"({given_up[0]}); the others are done: run it again with more memory for a worker."
            )

    def close(self) -> None:
        """End all workers."""
        for handle in [*self._loading.values(), *(w.handle for w in self._ready)]:
            self._backend.stop(handle)
        self._loading.clear()
        self._ready.clear()

    def _start(self) -> None:
        handle = self._backend.start()
        self._loading[self._backend.submit(handle, "load", ())] = handle

    def _loading_for(
        self, source: Iterator[tuple[Any, ...]], waiting: deque[_Order], method: str
    ) -> bool:
        """Whether an order is left for workers that are still loading; it then waits for them."""
        if self._ready:
            return False  # they would have taken it
        order = next(source, None)
        if order is not None:
            waiting.append(_Order(method, order))
        return order is not None

    def _hand_out(
        self, method: str, source: Iterator[tuple[Any, ...]], waiting: deque[_Order]
    ) -> None:
        """Give orders to those that have fewest, until every worker has as many as it may."""
        while self._ready:
            worker = min(self._ready, key=lambda w: len(w.orders))
            if len(worker.orders) >= AHEAD:
                return
            if waiting:
                order = waiting.popleft()
            else:
                arguments = next(source, None)
                if arguments is None:
                    return
                order = _Order(method, arguments)
            ticket = self._backend.submit(worker.handle, order.method, order.arguments)
            worker.orders[ticket] = order

    def _finish_loading(self, ticket: Any) -> None:
        handle = self._loading.pop(ticket)
        try:
            self._accept(self._backend.result(ticket))
        except WorkerDied as death:
            self._count_death(str(death))
            self._backend.stop(handle)
            self._start()
        else:
            self._ready.append(_Worker(handle))

    def _bury(self, worker: _Worker, reason: str, waiting: deque[_Order]) -> list[str]:
        """Have others do what a dead worker was to do; returns the reason if that is given up."""
        self._ready.remove(worker)
        orders = [*worker.orders.values()]
        worker.orders.clear()
        self._backend.stop(worker.handle)
        self._count_death(reason)
        self._tell(f"A worker died ({reason}); what it was working on is done by another one.")
        orders[0].deaths += 1  # the others had not been begun
        given_up = [reason] if orders[0].deaths >= ATTEMPTS else []
        waiting.extendleft(reversed(orders[len(given_up) :]))
        self._start()
        return given_up

    def _count_death(self, reason: str) -> None:
        self._deaths += 1
        if self._deaths >= max(DEATHS * self._size, FEWEST_DEATHS):
            raise StetError(
                f"Workers die as soon as they are started, {self._deaths} in a row ({reason}); "
                "what was finished is kept: look at the memory and the logs of their machines."
            )
