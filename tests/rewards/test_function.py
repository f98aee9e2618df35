"""Functions as rewards, plain and asynchronous, and what they may not return."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import tiny
from stet.core.errors import StetError
from stet.core.operations import Await
from stet.core.sequence import TokenSequence
from stet.policies import Candidate, Step
from stet.rewards import FunctionReward, Reward
from tiny import Letters


def step(*candidates: list[int]) -> Step:
    """After the prompt "ab" and the steps "cd"."""
    sequence = TokenSequence([0, 1], decoder=Letters())
    sequence.tokens += [2, 3]
    made: list[Candidate] = []
    for tokens in candidates:
        fork = TokenSequence(sequence.tokens, decoder=Letters())
        fork.tokens += tokens
        made.append(Candidate(fork, Letters().decode(tokens)))
    return Step(sequence, 1, made, tiny.unread, tiny.unasked)


def rated(function: Any, *candidates: list[int]) -> list[float]:
    """A function's reward, awaited as the engine does it."""
    program = FunctionReward(function).rate(step(*candidates))
    operation = next(program)
    assert isinstance(operation, Await)

    async def wait() -> Any:
        return await operation.awaitable

    with pytest.raises(StopIteration) as stop:
        program.send(asyncio.run(wait()))
    return stop.value.value


def test_a_function_sees_the_prompt_the_accepted_steps_and_the_candidate():
    seen: list[tuple[str, str, str]] = []

    def note(prompt: str, steps: str, candidate: str) -> float:
        seen.append((prompt, steps, candidate))
        return 0.25 * len(seen)

    assert rated(note, [4], [5, 6]) == [0.25, 0.5]
    assert seen == [("ab", "cd", "e"), ("ab", "cd", "fg")]


def test_plain_functions_are_called_one_at_a_time_outside_the_event_loop():
    main, threads = threading.current_thread(), set[threading.Thread]()

    def note(prompt: str, steps: str, candidate: str) -> float:
        threads.add(threading.current_thread())
        return 1.0

    rated(note, [4], [5], [6])
    assert len(threads) == 1
    assert main not in threads


def test_coroutine_functions_run_side_by_side():
    arrived = 0

    async def wait(prompt: str, steps: str, candidate: str) -> float:
        nonlocal arrived
        arrived += 1
        for _ in range(1000):
            await asyncio.sleep(0)
            if arrived == 3:
                return 0.5
        return 0.0

    assert rated(wait, [4], [5], [6]) == [0.5] * 3


def test_objects_and_functions_that_return_something_to_wait_for_are_taken_too():
    async def half() -> float:
        return 0.5

    class Asked:
        async def __call__(self, prompt: str, steps: str, candidate: str) -> float:
            return 0.75

    assert rated(lambda *_: half(), [4]) == [0.5]
    assert rated(Asked(), [4]) == [0.75]
    assert FunctionReward(Asked()).name.endswith("Asked")
    assert isinstance(FunctionReward(Asked()), Reward)
    assert FunctionReward(half, "mine").name == "mine"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1.01, "gave 1.01; a reward lies between 0 and 1"),
        (-0.1, "gave -0.1"),
        (float("nan"), "gave nan"),
        (None, "gave None; a reward is a number"),
        ("good", "gave 'good'"),
    ],
)
def test_what_is_no_reward_is_refused(value: Any, sentence: str):
    with pytest.raises(StetError, match=sentence):
        rated(lambda *_: value, [4])


def test_the_ends_of_the_range_and_whole_numbers_are_rewards():
    assert rated(lambda prompt, steps, candidate: int(candidate == "e"), [4], [5]) == [1.0, 0.0]


def test_a_function_that_fails_says_so():
    def plain(*_: str) -> float:
        raise KeyError("no such thing")

    async def waiting(*_: str) -> float:
        raise KeyError("no such thing")

    async def two(prompt: str, steps: str) -> float:
        return 1.0

    def leaves(*_: str) -> float:
        raise SystemExit("enough")

    async def leaves_later(*_: str) -> float:
        raise SystemExit("enough")

    for function, words in (
        (plain, "KeyError"),
        (waiting, "KeyError"),
        (two, "TypeError"),
        (leaves, "SystemExit"),
        (leaves_later, "SystemExit"),
    ):
        with pytest.raises(StetError, match=f"The reward '.*' failed .{words}"):
            rated(function, [4])
