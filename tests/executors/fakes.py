"""Workers without processes: they do their orders when somebody waits, and die when told to."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from stet.executors.holder import Holder
from stet.executors.pool import WorkerDied


class Keeper(Holder):
    """A holder that fetches what is shared as it was pickled."""

    def run(self, key, fetch, chunk, conditions):
        return super().run(key, lambda: pickle.loads(fetch), chunk, conditions)


@dataclass(eq=False)
class Worker:
    number: int
    does: Any
    orders: list = field(default_factory=list)
    dead: bool = False


@dataclass
class Backend:
    """Orders go through pickle, as between processes.

    Attributes:
        make: makes what does the orders of a worker.
        dies: from a worker's number, a method and its arguments to whether it dies of that.
        away: so often nobody has done anything when somebody waits.
        slow: numbers of workers whose orders are done only when nobody else has anything to do.
    """

    make: Any
    dies: Any = lambda *_: False
    slow: tuple[int, ...] = ()
    workers: list[Worker] = field(default_factory=list)
    away: int = 0
    told: list[str] = field(default_factory=list)
    longest: int = 0
    _results: dict = field(default_factory=dict)
    _numbers: Any = field(default_factory=count)

    def start(self):
        self.workers.append(Worker(len(self.workers), self.make()))
        return self.workers[-1]

    def submit(self, worker, method, arguments):
        ticket = next(self._numbers)
        worker.orders.append((ticket, method, pickle.dumps(arguments)))
        self.longest = max(self.longest, len(worker.orders))
        if worker.dead:
            self._kill(worker)
        return ticket

    def wait(self, tickets, seconds):
        assert tickets
        assert seconds > 0
        if self.away:
            self.away -= 1
            return []
        while not (done := [t for t in tickets if t in self._results]):
            busy = [w for w in self.workers if w.orders]
            assert busy, "they wait for something that nobody does"
            self._step(min(busy, key=self._turn))
        return done

    def result(self, ticket):
        kind, content = self._results.pop(ticket)
        if kind == "died":
            raise WorkerDied("it was killed")
        if kind == "raised":
            raise pickle.loads(content)
        return pickle.loads(content)

    def stop(self, worker):
        worker.dead = True
        worker.orders.clear()

    def share(self, value):
        return pickle.dumps(value)

    def _turn(self, worker):
        ticket, method, _ = worker.orders[0]
        return method == "run" and worker.number in self.slow, ticket

    def _step(self, worker):
        ticket, method, arguments = worker.orders[0]
        arguments = pickle.loads(arguments)
        if self.dies(worker.number, method, arguments):
            self._kill(worker)
            return
        try:
            found = getattr(worker.does, method)(*arguments)
            self._results[ticket] = "done", pickle.dumps(found)
        except Exception as error:
            self._results[ticket] = "raised", pickle.dumps(error)
        worker.orders.pop(0)

    def _kill(self, worker):
        worker.dead = True
        for ticket, _, _ in worker.orders:
            self._results[ticket] = "died", None
        worker.orders.clear()


def once(number: int, method: str = "run"):
    """Worker `number` dies of its second order of this kind, and of nothing else."""
    seen: Counter = Counter()

    def dies(worker, name, arguments):
        del arguments
        seen[worker, name] += 1
        return worker == number and name == method and seen[worker, name] == 2

    return dies
