"""Running a step policy without models, on scripted candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stet.core.block import Reading, Statistics
from stet.core.operations import Await, Join, Operation, Score
from stet.core.sequence import TokenSequence
from stet.core.step_policy import Candidate, Step, StepDecision, StepPolicy


@dataclass(frozen=True)
class Script:
    """One candidate of a step, with the draft's and the target's statistics of it.

    Attributes:
        text: its text.
        logprobs: the draft's log-probability of each of its tokens, in nats; their number is the
            number of tokens.
        entropies: entropies of the draft's distributions, in nats; 0 if left out.
        margins: margins of the draft's best tokens over the second best, in nats; 0 if left out.
        hidden: [T, D] the draft's last hidden states.
        attention: attention weights by floor, each [layers, T, S], see `Candidate.attention`.
        reading: the target's statistics of it, where the policy asks for them.
        scores: answers to what the policy asks the target, in order: log-probabilities for each
            `Score` operation with `choices` that it yields, and for each question (`Step.ask`).
    """

    text: str
    logprobs: Sequence[float]
    entropies: Sequence[float] = ()
    margins: Sequence[float] = ()
    hidden: Tensor | None = None
    attention: dict[float, Tensor] | None = None
    reading: Reading | None = None
    scores: Sequence[list[float]] = ()


@dataclass
class StepRun:
    """A policy's decision about a step, and what it had the target read.

    Attributes:
        decision: the decision.
        read: indices of the candidates that it had the target read, in order.
    """

    decision: StepDecision
    read: list[int] = field(default_factory=list[int])


def run_steps(policy: StepPolicy, steps: Sequence[Sequence[Script]]) -> list[StepRun]:
    """Have a policy judge steps one after the other; accepted ones become part of the text.

    Args:
        policy: the rule.
        steps: the candidates of each step.

    Raises:
        AssertionError: it asks for something that the script does not hold, or chooses a candidate
            that is not there.
    """
    text = TokenSequence([0])
    runs: list[StepRun] = []
    for index, scripts in enumerate(steps):
        run = _judge(policy, text, index, scripts)
        runs.append(run)
        assert 0 <= run.decision.chosen < len(scripts), (
            f"{policy.name} chose candidate {run.decision.chosen} of {len(scripts)}; the first is 0"
        )
        if run.decision.accepted:
            count = len(scripts[run.decision.chosen].logprobs)
            text = TokenSequence([*text.tokens, *range(1, count + 1)])
    return runs


def _judge(
    policy: StepPolicy, text: TokenSequence, index: int, scripts: Sequence[Script]
) -> StepRun:
    read: list[int] = []
    scores = [answer for script in scripts for answer in script.scores]

    def reader(place: int) -> Generator[Operation, Any, Reading]:
        reading = scripts[place].reading
        assert reading is not None, f"{policy.name} reads candidate {place}, which has no reading"
        read.append(place)
        yield from ()
        return reading

    def asker(
        question: str, answers: Sequence[str]
    ) -> Generator[Operation, Any, list[list[float]]]:
        assert all(script.scores for script in scripts), (
            f"{policy.name} asks {question!r}, which the scripts have no answers for"
        )
        yield from ()
        found = [list(script.scores[0]) for script in scripts]
        assert all(len(logprobs) == len(answers) for logprobs in found)
        return found

    step = Step(text, index, [_candidate(text, script) for script in scripts], reader, asker)
    return StepRun(_drive(policy.judge(step), policy, scores), read)


def _candidate(text: TokenSequence, script: Script) -> Candidate:
    count = len(script.logprobs)
    sequence = TokenSequence(text.tokens)
    sequence.tokens += range(1, count + 1)
    statistics = Statistics(
        list(script.logprobs),
        list(script.entropies) or [0.0] * count,
        list(script.margins) or [0.0] * count,
    )
    return Candidate(sequence, script.text, statistics, script.hidden, script.attention)


def _drive(
    program: Generator[Operation, Any, Any], policy: StepPolicy, scores: list[list[float]]
) -> Any:
    """Run a generator of operations to its end, with the script in place of the engine."""
    answer: Any = None
    while True:
        try:
            operation = program.send(answer)
        except StopIteration as stop:
            return stop.value
        match operation:
            case Join(programs=programs):
                answer = [_drive(each, policy, scores) for each in programs]
            case Await(awaitable=awaitable):
                answer = asyncio.run(_value(awaitable))
            case Score(choices=choices) if choices:
                assert scores, f"{policy.name} asks the target more than the script has answers for"
                answer = scores.pop(0)
            case _:
                raise AssertionError(f"{policy.name} yields {operation!r}, which no script answers")


async def _value(awaitable: Any) -> Any:
    return await awaitable
