"""The demo's example of an answer that came out right because the target was overruled."""

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
"""Place of a test problem, outside the demo's own, that the target gets wrong and CoSpec right."""

STANDS = "bold reverse #56b4e9"


@dataclass(frozen=True, slots=True)
class AcceptedMismatch:
    """An answer that is right, and the target's own, which is not.

    Attributes:
        task: the problem.
        result: the policy's answer, with both models' probabilities.
        alone: the target's.
        words: what the target would have written where it was overruled, by token.
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
    """An answer that the policy got right and the target wrong.

    Args:
        pair: the models, to write the answer once more with probabilities.
        tasks: the demo's problems.
        results: the policy's answers to them.
        alone: the target's.

    Returns:
        One of the demo's own problems if there is such a one, else the problem that was picked for
        it; None if that is none on this machine.
    """
    from stet.bundled import generate

    for task, mine, other in zip(tasks, results, alone, strict=True):
        if _right(mine, task) and not _right(other, task):
            return _shown(pair, task, other, picked=False)
    task = generate("stories", "test", PICKED + 1)[PICKED]
    other = pair.generate([task.prompt], "target")[0]
    found = _shown(pair, task, other, picked=True)
    return found if _right(found.result, task) and not _right(other, task) else None


def _right(result: Result, task: Problem) -> bool:
    from stet.bundled import parse_answer

    return parse_answer(result.text) == task.answer


def _shown(pair: Pair, task: Problem, alone: Result, *, picked: bool) -> AcceptedMismatch:
    result = pair.generate([task.prompt], POLICY, probabilities=True, logprobs=8)[0]
    declined = {d.target for block in result.trace.blocks for d in block.mismatches}
    words = {token: pair.tokenizer.decode([token]) for token in declined}
    return AcceptedMismatch(task, result, alone, words, picked)


def accepted_mismatch_answer(found: AcceptedMismatch) -> Panel:
    """The answer with every token that stands against the target's, and what was thought of it."""
    from stet.core.acceptance import ACCEPTED_MISMATCH

    result, body = found.result, Text()
    body.append(f"{found.task.text}\n\n", style="dim")
    written = 0
    for token in result.tokens:
        if written < len(result.text):  # behind it there is what ended it
            body.append_text(
                _marked(token.text) if token.reason == ACCEPTED_MISMATCH else Text(token.text)
            )
        written += len(token.text)
    body.append("\n\n")
    body.append_text(_marked("marked"))
    body.append(": the draft's word stands against the target's\n")
    for line in _explained(result, found.words):
        body.append(f"  {line}\n", style="dim")
    body.append("\nThe target alone", style="bold")
    start = _common(result.text, found.alone.text)
    line = result.text[:start].rpartition("\n")[2]
    body.append(f" goes on differently behind {line!r}:\n" if line else ":\n")
    body.append(found.alone.text[found.alone.text.rfind("\n", 0, start) + 1 :].strip(), style="red")
    body.append(f"\n\nright: {found.task.answer}", style="dim")
    if found.picked:
        body.append("; a problem picked for showing this", style="dim")
    return Panel(body, title="One answer in which the target was overruled", title_align="left")


def _marked(text: str) -> Text:
    """What stands against the target's; in brackets where there are no styles."""
    return Text(f"[[{text}]]") if out.color_system is None else Text(text, style=STANDS)


def _explained(result: Result, words: dict[int, str]) -> Iterator[str]:
    """A line for each disagreement that the draft won."""
    for block in result.trace.blocks:
        for mismatch in block.mismatches:
            place = block.position + mismatch.at
            if mismatch.accepted and place < len(result.tokens):
                yield _line(result, mismatch, place, words)


def _line(result: Result, mismatch: MismatchRecord, place: int, words: dict[int, str]) -> str:
    token = result.tokens[place]
    choices = token.top_logprobs or {}
    said = f"{token.text!r} against {words[mismatch.target]!r}: arbiter {mismatch.score:.2f}"
    if token.p_target is not None and token.p_draft is not None:
        said += f"; target {token.p_target:.2f}"
        if mismatch.target in choices:
            said += f" to {math.exp(choices[mismatch.target]):.2f}"
        said += f", draft {token.p_draft:.2f}"
    return said


def _common(one: str, other: str) -> int:
    """Where two texts part."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
