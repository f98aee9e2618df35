"""A reward that is a function of the text."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Await, Operation
from stet.rewards.base import Passage, checked, passages
from stet.rewards.batching import Batcher, failure

if TYPE_CHECKING:
    from stet.core.step_policy import Step

Function = Callable[[str, str, str], float | Awaitable[float]]
"""From prompt, text of the steps that stand, and candidate to a reward from 0 to 1."""


@dataclass(eq=False)
class FunctionReward:
    """A plain function `(prompt, steps, candidate) -> float`, or a coroutine function.

    A plain function runs in a thread of its own, one call at a time. Calls of a coroutine function
    run side by side; how many at a time is its own affair.

    Attributes:
        function: the function.
        name: the function's own.
    """

    function: Function
    name: str = ""
    pair: ClassVar[str | None] = None
    needs: ClassVar[frozenset[Need]] = frozenset()
    _batcher: Batcher[Passage, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.name = self.name or getattr(
            self.function, "__qualname__", type(self.function).__qualname__
        )
        self._batcher = Batcher(self._call_all, 1, f"The reward {self.name!r}")

    def rate(self, step: Step) -> Generator[Operation, Any, list[float]]:
        """The reward of each candidate."""
        rewards: list[Any] = yield Await(self._rated(passages(step)))
        return checked(rewards, len(step.candidates), self.name)

    async def _rated(self, shown: list[Passage]) -> list[Any]:
        found: list[Any]
        try:
            if _is_async(self.function):
                found = self._call_all(shown)
            else:
                found = await self._batcher.ask(shown)
            # A plain function may return something to wait for, too.
            return list(await asyncio.gather(*(_arrived(value) for value in found)))
        except StetError:
            raise
        except Exception as error:
            raise StetError(failure(f"The reward {self.name!r}", error)) from error

    def _call_all(self, shown: list[Passage]) -> list[Any]:
        return [self._call(passage) for passage in shown]

    def _call(self, passage: Passage) -> Any:
        return self.function(passage.prompt, passage.steps, passage.candidate)


def _is_async(function: Any) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004 - an object may be a function too
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


async def _arrived(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
