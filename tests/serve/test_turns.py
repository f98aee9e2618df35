"""The queue: bounded, in turns, and without leaks."""

from __future__ import annotations

import asyncio
import time

import pytest

from stet.serve.errors import ApiError
from stet.serve.turns import Turns

FAR = 1e12


def test_each_request_has_its_turn() -> None:
    """One with many sequences does not hold up one with a single sequence behind it."""

    async def run() -> list[str]:
        turns = Turns(1, 100)
        order: list[str] = []

        async def one(line, name: str) -> None:
            async with turns.place(line, FAR):
                order.append(name)
                await asyncio.sleep(0)

        async with turns.line(5) as large, turns.line(1) as small:
            tasks = [asyncio.create_task(one(large, "large")) for _ in range(5)]
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(one(small, "small")))
            await asyncio.gather(*tasks)
        assert turns.count == turns.waiting == 0
        return order

    order = asyncio.run(run())
    assert order.index("small") <= 3
    assert order.count("large") == 5


def test_no_more_places_than_there_are() -> None:
    async def run() -> int:
        turns = Turns(3, 100)
        inside = most = 0

        async def one(line) -> None:
            nonlocal inside, most
            async with turns.place(line, FAR):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        async with turns.line(20) as line:
            await asyncio.gather(*(one(line) for _ in range(20)))
        return most

    assert asyncio.run(run()) == 3


def test_the_queue_is_bounded() -> None:
    async def run() -> None:
        turns = Turns(2, 3)
        async with turns.line(4):
            with pytest.raises(ApiError) as refused:
                async with turns.line(2):
                    pass
            assert refused.value.status == 429
            assert 1 <= (refused.value.retry_after or 0) <= 60
            async with turns.line(1):
                pass
        with pytest.raises(ApiError) as refused:
            async with turns.line(6):
                pass
        assert refused.value.status == 400  # it would never fit
        async with turns.line(5):
            pass

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(20))
def test_who_leaves_takes_no_place_along(seed: int) -> None:
    import random

    draw = random.Random(seed)

    async def run() -> None:
        turns = Turns(2, 1000)

        async def one(line, seconds: float) -> None:
            async with turns.place(line, FAR):
                await asyncio.sleep(seconds)

        async with turns.line(30) as first, turns.line(30) as second:
            tasks = [
                asyncio.create_task(one(draw.choice([first, second]), draw.random() / 200))
                for _ in range(40)
            ]
            for task in draw.sample(tasks, 20):
                await asyncio.sleep(draw.random() / 500)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert turns.waiting == 0
            # Both places are there again.
            async with asyncio.timeout(5), turns.place(first, FAR), turns.place(second, FAR):
                pass

    asyncio.run(run())


def test_nobody_waits_for_ever() -> None:
    async def run() -> None:
        turns = Turns(1, 5)
        async with turns.line(2) as line, turns.place(line, FAR):
            with pytest.raises(ApiError) as refused:
                async with turns.place(line, time.monotonic() + 0.05):
                    pass
            assert refused.value.status == 503
            assert turns.waiting == 0

    asyncio.run(run())


def test_a_closed_queue_refuses_what_has_not_begun() -> None:
    """A request of which something was decoded is finished: else that would be lost."""

    async def run() -> list[str]:
        turns = Turns(1, 5)
        order: list[str] = []

        async def wait(line, name: str) -> None:
            async with turns.place(line, FAR):
                order.append(name)

        async with turns.line(2) as begun, turns.line(1) as other:
            async with turns.place(begun, FAR):
                waiting = [
                    asyncio.create_task(wait(begun, "begun")),
                    asyncio.create_task(wait(other, "other")),
                ]
                await asyncio.sleep(0.01)
                turns.close(ApiError(503, "closed"))
            found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [isinstance(error, ApiError) for error in found] == [False, True]
        with pytest.raises(ApiError):
            async with turns.line(1):
                pass
        with pytest.raises(ApiError):
            turns.check()
        return order

    assert asyncio.run(run()) == ["begun"]
