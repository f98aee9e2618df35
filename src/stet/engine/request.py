"""A request on its way through the engine, and the generators that work for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from stet.core.operations import Draft, Program, Score
from stet.core.sequence import TokenSequence

Op = TypeVar("Op", Draft, Score)


@dataclass(eq=False)
class Request:
    """A program on its way through the engine.

    Attributes:
        sequence: the sequence that it writes to.
        program: the decoding program over that sequence.
        deadline: `time.monotonic()` at which it ends with what it has; None for never.
        rows: places in each model's cache that it needs at a time; it waits until they are free.
        length: tokens that its sequence is known to come to, where these are more than it begins
            with; it waits until there is room for them.
        on_growth: called after every round in which the sequence grew, in the engine's thread; must
            be quick.
        on_end: called once, when the request has left the engine, in the engine's thread.
        result: what its program returned; None until then.
        error: the error, where it failed; None otherwise.
        paused: whether it waits, without any place in the caches, until there is room for it again.
        done: whether it has left the engine.
        seconds: time from admission to the end.
        submitted: `time.monotonic()` at which it was made; `started`, at its admission; `first`, at
            the end of the round that wrote its first token; 0.0 before that.
    """

    sequence: TokenSequence
    program: Program
    deadline: float | None = None
    rows: int = 1
    length: int = 0
    on_growth: Callable[[Request], None] | None = None
    on_end: Callable[[Request], None] | None = None
    result: Any = None
    error: Exception | None = None
    paused: bool = False
    done: bool = False
    seconds: float = 0.0
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first: float = 0.0
    processes: set[Process] = field(default_factory=set["Process"])
    seen: int = 0


@dataclass(eq=False, slots=True)
class Process:
    """One generator at work: a request's program, or a child that it joined."""

    program: Program
    request: Request
    parent: Process | None = None
    place: int = 0
    pending: Draft | Score | None = None
    results: list[Any] = field(default_factory=list[Any])
    open: int = 0


class Waiting(NamedTuple, Generic[Op]):
    """A process, and the operation whose result it waits for."""

    process: Process
    operation: Op


def depth_of(process: Process) -> int:
    """How many programs are above a process, each joined by the next."""
    depth = 0
    while process.parent is not None:
        process, depth = process.parent, depth + 1
    return depth
