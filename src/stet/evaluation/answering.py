"""Answering a chunk of questions with all contenders in turns: what a worker does of a comparison.

Whoever works on a chunk has timed all contenders on it, so their times are of one machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stet.core.writing import json_line
from stet.evaluation.records import Answer
from stet.evaluation.voting import Sampled, grade, vote
from stet.executors.base import Work
from stet.requests.seeds import mixed

if TYPE_CHECKING:
    from stet.core.result import Result
    from stet.evaluation.contenders import Contender
    from stet.evaluation.graders.base import Grader
    from stet.evaluation.tasks.base import Question
    from stet.pair import Pair
    from stet.requests.chat import Chat
    from stet.requests.inputs import Prompt

WARM_UP_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Portion:
    """A chunk of questions, with those that answer it.

    Attributes:
        number: its number in the run.
        seed: the seed of the run it belongs to.
        start: index of its first question in the task.
        questions: the questions.
        labels: labels of the contenders, in the order of their turns.
    """

    number: int
    seed: int
    start: int
    questions: Sequence[Question]
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender has answered of a chunk.

    Attributes:
        answers: its answers, in the order of the questions.
        traces: the lines of their traces.
    """

    answers: list[Answer]
    traces: list[str]


@dataclass(frozen=True)
class Answering(Work[Portion, Turn]):
    """Answers chunks of questions; yields a turn at a time.

    Attributes:
        contenders: those that have something to answer.
        options: options of all requests.
        grader: reads and grades the answers; None where only speed is measured.
        chat: how prompts become chats; None: as they are.
        first: the first questions of the task, to warm up on; their answers are discarded.
    """

    contenders: Sequence[Contender]
    options: dict[str, Any]
    grader: Grader | None
    chat: Chat | None
    first: Sequence[Question]

    def prepare(self, pair: Pair) -> None:
        """Warm up every contender."""
        for item in self.contenders:
            prompts = self._prompts(pair, item, self.first)
            options: dict[str, Any] = {**self.options, **item.options}
            options["max_new_tokens"] = min(
                options.get("max_new_tokens", WARM_UP_TOKENS), WARM_UP_TOKENS
            )
            pair.generate(prompts, item.policy, seed=0, **options)

    def run(self, pair: Pair, chunk: Portion) -> Iterator[Turn]:
        """Answer a chunk, each contender in its turn."""
        contenders = {item.label: item for item in self.contenders}
        for label in chunk.labels:
            yield self._answer(pair, contenders[label], chunk)

    def _prompts(self, pair: Pair, item: Contender, questions: Sequence[Question]) -> list[Prompt]:
        prompts: list[Prompt] = []
        for question in questions:
            text = question.prompt
            prompts += [self.chat.prompt(pair, text) if self.chat else text] * item.samples
        return prompts

    def _answer(self, pair: Pair, item: Contender, chunk: Portion) -> Turn:
        """Answer a chunk with one contender."""
        options: dict[str, Any] = {**self.options, **item.options}
        # A sample's seed does not depend on how chunks are cut, and no two samples share one.
        options["seed"] = [
            mixed(chunk.seed, chunk.start + place, sample)
            for place in range(len(chunk.questions))
            for sample in range(item.samples)
        ]
        prompts = self._prompts(pair, item, chunk.questions)
        began = time.perf_counter()
        results = pair.generate(prompts, item.policy, **options)
        seconds = time.perf_counter() - began
        turn = Turn([], [])
        for place, question in enumerate(chunk.questions):
            own = results[place * item.samples : (place + 1) * item.samples]
            samples = [Sampled(r, grade(r, question.reference, self.grader)) for r in own]
            chosen = vote(samples)
            answer = Answer(
                policy=item.label,
                question=question.id,
                seed=chunk.seed,
                text=chosen.shown.text,
                answer=chosen.answer,
                right=chosen.right,
                finish_reason=chosen.shown.finish_reason,
                error=chosen.shown.error,
                # Samples of a vote are decoded together: the last one ends it.
                seconds=max(r.seconds for r in own),
                chunk=chunk.number,
                chunk_seconds=seconds,
                chunk_answers=len(chunk.questions),
                prompt_tokens=chosen.shown.trace.prompt_tokens,
                counters=chosen.counters,
                signals=chosen.signals,
                samples=item.samples,
                votes=chosen.votes,
            )
            turn.answers.append(answer)
            turn.traces.append(_trace_line(answer, chosen.shown))
        return turn


def _trace_line(answer: Answer, result: Result) -> str:
    line = {"policy": answer.policy, "question": answer.question, "seed": answer.seed}
    return json_line({**line, "trace": asdict(result.trace)})
