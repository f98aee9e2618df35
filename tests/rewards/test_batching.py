"""Questions form batches by themselves, and a bad one spoils nobody else's."""

from __future__ import annotations

import asyncio
import threading

import pytest

from stet.core.errors import OptionError, StetError
from stet.rewards.batching import Batcher

WAIT = 20


class Worker:
    """Doubles numbers, the first batch only once it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(list(batch))
        self.begun.set()
        assert self.go.wait(WAIT)
        if -1 in batch:
            raise ValueError("minus one")
        return [2 * number for number in batch]


def asked(batcher: Batcher, worker: Worker, *later: list[int]) -> list:
    """Ask [0] first and, while that is worked on, all the others; their answers or errors."""

    async def main() -> list:
        first = asyncio.create_task(batcher.ask([0]))
        await asyncio.to_thread(worker.begun.wait, WAIT)
        others = [asyncio.create_task(batcher.ask(numbers)) for numbers in later]
        await asyncio.sleep(0.05)
        worker.go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    return asyncio.run(main())


def test_what_arrives_meanwhile_makes_up_the_next_batch():
    worker = Worker()
    found = asked(Batcher(worker, 16, "it"), worker, [1, 2], [3], [4, 5, 6])
    assert found == [[0], [2, 4], [6], [8, 10, 12]]
    assert worker.batches == [[0], [1, 2, 3, 4, 5, 6]]


def test_batches_are_no_larger_than_the_limit():
    worker = Worker()
    assert asked(Batcher(worker, 2, "it"), worker, [1, 2, 3], [4, 5])[1:] == [[2, 4, 6], [8, 10]]
    assert worker.batches == [[0], [1, 2], [3, 4], [5]]


def test_an_error_reaches_only_who_asked_for_it():
    worker = Worker()
    first, good, bad, other = asked(Batcher(worker, 16, "it"), worker, [1], [2, -1], [3])
    assert (first, good, other) == ([0], [2], [6])
    assert isinstance(bad, StetError)
    assert str(bad) == "it failed (ValueError: minus one)."
    assert isinstance(bad.__cause__, ValueError)


def test_a_function_that_exits_fails_and_goes_on_answering():
    def leave(batch: list[int]) -> list[int]:
        if -1 in batch:
            raise SystemExit(3)
        return batch

    batcher = Batcher(leave, 16, "it")

    async def main() -> list:
        waiting = [asyncio.create_task(batcher.ask([number])) for number in (1, -1, 2)]
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), WAIT)

    first, bad, other = asyncio.run(main())
    assert (first, other) == ([1], [2])
    assert isinstance(bad, StetError)
    assert str(bad) == "it failed (SystemExit: 3)."
    assert asyncio.run(batcher.ask([4])) == [4]


def test_who_has_gone_is_not_answered():
    worker = Worker()
    batcher = Batcher(worker, 16, "it")

    async def main() -> list[int]:
        first = asyncio.create_task(batcher.ask([0]))
        await asyncio.to_thread(worker.begun.wait, WAIT)
        gone = asyncio.create_task(batcher.ask([1]))
        stays = asyncio.create_task(batcher.ask([2]))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        worker.go.set()
        await first
        return await stays

    assert asyncio.run(main()) == [4]
    assert worker.batches == [[0], [2]]


def test_it_serves_several_event_loops_and_starts_anew_when_idle():
    batcher: Batcher[int, int] = Batcher(lambda batch: [n + 1 for n in batch], 4, "it")
    found: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(asyncio.run(batcher.ask([n]))))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(found) == [[1], [2], [3], [4]]
    assert asyncio.run(batcher.ask([9])) == [10]
    assert asyncio.run(batcher.ask([])) == []


def test_too_few_answers_are_an_error_and_so_is_no_room():
    batcher: Batcher[int, int] = Batcher(lambda batch: [], 4, "it")
    with pytest.raises(StetError, match="0 answers came to 1 questions"):
        asyncio.run(batcher.ask([1]))
    with pytest.raises(OptionError, match="max_batch is 0"):
        Batcher(lambda batch: batch, 0, "it")
