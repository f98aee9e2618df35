"""A reward that is a function of the text, written by the user."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from stet.core.errors import StetError
from stet.core.needs import Need
from stet.core.operations import Await, Operation
from stet.rewards.base import Passage, check_rewards, passages
from stet.rewards.batching import Batcher, failure

if TYPE_CHECKING:
    from stet.core.step_policy import Step

Function = Callable[[str, str, str], float | Awaitable[float]]
"""A function of prompt, text of the accepted steps and candidate to a reward from 0 to 1."""


@dataclass(eq=False)
class FunctionReward:
    """A reward from a function `(prompt, steps, candidate) -> float`, plain or async.

    A plain function runs in a thread of its own, one call at a time. Calls of a coroutine function
    run concurrently; if their number has to be limited, the function has to do it.

    Attributes:
        function: the function.
        name: its name in traces and messages; by default the function's.
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
        """Rate the candidates of a step."""
        rewards: list[Any] = yield Await(self._rate(passages(step)))
        return check_rewards(rewards, len(step.candidates), self.name)

    async def _rate(self, shown: list[Passage]) -> list[Any]:
        found: list[Any]
        try:
            if _is_async(self.function):
                found = self._call_all(shown)
            else:
                found = await self._batcher.ask(shown)
            # A plain function may return an awaitable, too.
            return list(await asyncio.gather(*(self._await_value(value) for value in found)))
        except StetError:
            raise
        except Exception as error:
            raise StetError(failure(f"The reward {self.name!r}", error)) from error

    def _call_all(self, shown: list[Passage]) -> list[Any]:
        return [self._call(passage) for passage in shown]

    def _call(self, passage: Passage) -> Any:
        return self.function(passage.prompt, passage.steps, passage.candidate)

    async def _await_value(self, value: Any) -> Any:
        try:
            return await value if inspect.isawaitable(value) else value
        except (KeyboardInterrupt, SystemExit) as error:
            # These would end the event loop, and with it all that others await there.
            raise StetError(failure(f"The reward {self.name!r}", error)) from error


def _is_async(function: Any) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004 - an object may be a function too
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
