"""The demo's example of an answer that came out right because of an accepted mismatch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.panel import Panel
from rich.text import Text

from stet.cli.output import out

if TYPE_CHECKING:
    from stet.bundled import Problem
    from stet.core.result import Result
    from stet.core.trace import MismatchRecord
    from stet.pair import Pair

POLICY = "cospec"
PICKED = 47
"""Index of a test problem, outside the demo's own, that the target gets wrong and CoSpec right."""

ACCEPTED_STYLE = "bold reverse #56b4e9"


@dataclass(frozen=True, slots=True)
class AcceptedMismatch:
    """A policy's answer that is right, and the target's own, which is not.

    Attributes:
        task: the problem.
        result: the policy's answer, with both models' probabilities.
        alone: the target's own answer.
        words: texts of the target's tokens at mismatches, by token id.
        picked: whether the problem was chosen for the purpose.
    """

    task: Problem
    result: Result
    alone: Result
    words: dict[int, str]
    picked: bool


def find_accepted_mismatch(
    pair: Pair, tasks: Sequence[Problem], results: Sequence[Result], alone: Sequence[Result]
) -> AcceptedMismatch | None:
    """Find an answer that the policy got right and the target wrong.

    Args:
        pair: the models, to write the answer once more with probabilities.
        tasks: the demo's problems.
        results: the policy's answers to them.
        alone: the target's own answers.

    Returns:
        The answer to one of the demo's own problems if there is one, else to the problem that was
        picked for it; None if that one shows no such thing on this machine.
    """
    from stet.bundled import generate

    for task, mine, other in zip(tasks, results, alone, strict=True):
        if _is_right(mine, task) and not _is_right(other, task):
            return _answer_again(pair, task, other, picked=False)
    task = generate("stories", "test", PICKED + 1)[PICKED]
    other = pair.generate([task.prompt], "target")[0]
    found = _answer_again(pair, task, other, picked=True)
    return found if _is_right(found.result, task) and not _is_right(other, task) else None


def _is_right(result: Result, task: Problem) -> bool:
    from stet.bundled import parse_answer

    return parse_answer(result.text) == task.answer


def _answer_again(pair: Pair, task: Problem, alone: Result, *, picked: bool) -> AcceptedMismatch:
    """Answer a problem with the policy once more, with both models' probabilities."""
    result = pair.generate([task.prompt], POLICY, probabilities=True, logprobs=8)[0]
    tokens = {m.target for block in result.trace.blocks for m in block.mismatches}
    words = {token: pair.tokenizer.decode([token]) for token in tokens}
    return AcceptedMismatch(task, result, alone, words, picked)


def accepted_mismatch_answer(found: AcceptedMismatch) -> Panel:
    """The answer with every accepted mismatch marked, and the scores of each."""
    from stet.core.acceptance import ACCEPTED_MISMATCH

    result, body = found.result, Text()
    body.append(f"{found.task.text}\n\n", style="dim")
    written = 0
    for token in result.tokens:
        if written < len(result.text):  # the tokens behind it are those that ended it
            body.append_text(
                _mark(token.text) if token.reason == ACCEPTED_MISMATCH else Text(token.text)
            )
        written += len(token.text)
    body.append("\n\n")
    body.append_text(_mark("marked"))
    body.append(": the draft's token was accepted against the target's\n")
    for line in _explain(result, found.words):
        body.append(f"  {line}\n", style="dim")
    body.append("\nThe target alone", style="bold")
    start = _common_length(result.text, found.alone.text)
    line = result.text[:start].rpartition("\n")[2]
    body.append(f" goes on differently behind {line!r}:\n" if line else ":\n")
    body.append(found.alone.text[found.alone.text.rfind("\n", 0, start) + 1 :].strip(), style="red")
    body.append(f"\n\nright: {found.task.answer}", style="dim")
    if found.picked:
        body.append("; a problem picked for showing this", style="dim")
    return Panel(body, title="One answer with an accepted mismatch", title_align="left")


def _mark(text: str) -> Text:
    """Mark a token that was accepted at a mismatch; in brackets where there are no styles."""
    return Text(f"[[{text}]]") if out.color_system is None else Text(text, style=ACCEPTED_STYLE)


def _explain(result: Result, words: dict[int, str]) -> Iterator[str]:
    """One line for each accepted mismatch."""
    for block in result.trace.blocks:
        for mismatch in block.mismatches:
            place = block.position + mismatch.at
            if mismatch.accepted and place < len(result.tokens):
                yield _line(result, mismatch, place, words)


def _line(result: Result, mismatch: MismatchRecord, place: int, words: dict[int, str]) -> str:
    token = result.tokens[place]
    choices = token.top_logprobs or {}
    line = f"{token.text!r} against {words[mismatch.target]!r}: arbiter {mismatch.score:.2f}"
    if token.p_target is not None and token.p_draft is not None:
        line += f"; target {token.p_target:.2f}"
        if mismatch.target in choices:
            line += f" to {math.exp(choices[mismatch.target]):.2f}"
        line += f", draft {token.p_draft:.2f}"
    return line


def _common_length(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
