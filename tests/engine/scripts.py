"""Scripts of what a program may do to one sequence, run by the engine and from scratch.

Drafting, verifying, cutting back, looking without committing and forking, in any order: however
the caches were moved, the text must be what the models say without any cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch

import tiny
from stet.core.block import EMPTY
from stet.core.limits import Limits
from stet.core.operations import Draft, Join, Program, Score
from stet.core.policy import TokenPolicy
from stet.core.sequence import TokenSequence
from stet.policies import STANDARD_REASONS, Blocks, Exact, Need, Verification, at

VOCAB = 40
TARGET = tiny.llama(vocab=VOCAB, seed=21)
DRAFT = tiny.near(TARGET, 0.05)
PROMPT = [3, 1, 4, 1, 5]
LIMITS = Limits(max_new_tokens=200)

Action = tuple[Any, ...]
"""("speculate", drafted, accepted) or ("target", "draft", "look", "truncate" or "fork", count)."""


@dataclass(frozen=True)
class Accept(TokenPolicy):
    """Accepts a given number of drafted tokens, right or wrong; the target's choice follows."""

    tokens: int

    name: ClassVar[str] = "accept"
    lossless: ClassVar[bool] = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    reasons: ClassVar[tuple[str, ...]] = STANDARD_REASONS

    def verify(self, blocks: Blocks) -> Verification:
        accepted = blocks.lengths.clamp(max=self.tokens)
        return Verification(accepted, at(blocks.target_tokens, accepted))


def program(sequence: TokenSequence, script: list[Action]) -> Program:
    """A program that does what the script says."""
    for action, count, *more in script:
        if action == "speculate":
            block = yield Draft(sequence, count)
            sequence.commit((yield Score(sequence, block, Accept(*more))))
        elif action == "target":
            yield from _by_target(sequence, count)
        elif action == "draft":
            yield from _by_draft(sequence, count)
        elif action == "look":
            block = yield Draft(sequence, count)
            reading = yield Score(sequence, block, None)
            assert len(reading.logprobs) == block.length
        elif action == "truncate":
            sequence.truncate(max(0, len(sequence.answer) - count))
        elif action == "fork":
            with sequence.fork(2) as (drafted, written):
                yield Join([_by_draft(drafted, count), _by_target(written, count)])
                sequence.adopt((drafted, written)[count % 2])


def _by_target(sequence: TokenSequence, count: int) -> Program:
    for _ in range(count):
        sequence.commit((yield Score(sequence, EMPTY, Exact())))


def _by_draft(sequence: TokenSequence, count: int) -> Program:
    sequence.commit((yield Draft(sequence, count)))


def answers(scripts: list[list[Action]], rows: int = 16) -> list[list[int]]:
    """The scripts run side by side in one engine."""
    machine = tiny.engine(TARGET, DRAFT, rows=rows, chunk=3)
    requests = [
        tiny.request(PROMPT, Exact(), LIMITS, program=lambda sequence, _, s=s: program(sequence, s))
        for s in scripts
    ]
    found = tiny.run(machine, requests)
    assert all(runner.rows_in_use == 0 for runner in machine.runners.values())
    return found


def answer(script: list[Action]) -> list[int]:
    """Run a script alone."""
    return answers([script])[0]


def reference(script: list[Action]) -> list[int]:
    """The script's text from the models alone, every token from a pass over the whole prefix."""
    tokens = list(PROMPT)
    for action, count, *more in script:
        if action == "speculate":
            tokens += _greedy("draft", tokens, count)[: more[0]]
            tokens += _greedy("target", tokens, 1)
        elif action == "target" or (action == "fork" and count % 2):
            tokens += _greedy("target", tokens, count)
        elif action in ("draft", "fork"):
            tokens += _greedy("draft", tokens, count)
        elif action == "truncate":
            tokens = tokens[: max(len(PROMPT), len(tokens) - count)]
    return tokens[len(PROMPT) :]


def _greedy(role: str, tokens: list[int], count: int) -> list[int]:
    written = list(tokens)
    for _ in range(count):
        written.append(_next(role, tuple(written)))
    return written[len(tokens) :]


@cache
def _next(role: str, tokens: tuple[int, ...]) -> int:
    model = TARGET if role == "target" else DRAFT
    with torch.inference_mode():
        return int(model(torch.tensor([tokens])).logits[0, -1].argmax())
