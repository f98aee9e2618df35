"""What is found out about servers is found out once, whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from stet.remote.abilities import Abilities
from stet.remote.client import together
from stet.remote.completion import Completion
from stet.remote.connections import RemoteError
from stet.remote.reading import Read, ReadingForm

WAITING = 12


class Down:
    """Servers that give no answer until they are up."""

    def __init__(self) -> None:
        self.up = False
        self.asked = 0

    async def read(self, prompt: str | Sequence[int], form: ReadingForm) -> list[Read] | None:
        self.asked += 1
        await asyncio.sleep(0.01)
        if not self.up:
            raise RemoteError("no answer")
        return None

    async def complete(
        self, prompt: str | Sequence[int], *, max_tokens: int, logprobs: int | None = None
    ) -> Completion:
        raise NotImplementedError


def encode(text: str) -> list[tuple[int, str]]:
    return [(ord(letter), letter) for letter in text]


def test_all_wait_for_one_question_and_a_failure_is_asked_again():
    async def run() -> None:
        servers, abilities = Down(), Abilities()
        waiting = [abilities.form(servers, encode) for _ in range(WAITING)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in found] == [RemoteError] * WAITING
        assert servers.asked == 1
        servers.up = True
        assert await abilities.form(servers, encode) is None
        asked = servers.asked
        assert asked > 2  # every form was tried
        assert await abilities.form(servers, encode) is None
        assert servers.asked == asked

    asyncio.run(run())


def test_who_goes_leaves_the_question_to_the_others():
    async def run() -> None:
        servers, abilities = Down(), Abilities()
        servers.up = True
        first = asyncio.create_task(abilities.form(servers, encode))
        second = asyncio.create_task(abilities.form(servers, encode))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is None
        assert not abilities.takes_ids

    asyncio.run(run())


def test_requests_that_belong_together_end_together():
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("given up")
            raise

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise RemoteError("no")

    async def run() -> None:
        with pytest.raises(RemoteError):
            await together([slow(), fails()])
        await asyncio.sleep(0)

    asyncio.run(run())
    assert ended == ["given up"]
