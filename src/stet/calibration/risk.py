"""Whose fault was it? Whether the first error of an answer is a step of the draft that was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.evaluation import records

if TYPE_CHECKING:
    from stet.evaluation.records import Results
    from stet.evaluation.tasks.base import LoadedTask
    from stet.pair import Pair


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer as the steps that it was written in.

    Attributes:
        prompt: tokens of the question.
        tokens: of the answer.
        ends: for each step how many tokens the answer had after it.
        kept: for each step whether the draft wrote it.
        reference: the right answer.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    kept: tuple[bool, ...]
    reference: str

    def before(self, step: int) -> Prefix:
        """What stood before a step; of the number of steps, the whole answer."""
        end = self.ends[step - 1] if step else 0
        return Prefix(self.prompt, self.tokens[:end], self.reference)


def first_errors(solutions: Sequence[Solution], rollouts: Rollouts) -> list[int | None]:
    """The first step of each after which the target no longer gets home though it did before.

    None where there is no such step. All solutions are walked side by side, so that their rollouts
    share batches, and no further than to the error.
    """
    found: list[int | None] = [None] * len(solutions)
    open_ones = list(range(len(solutions)))
    sound = [False] * len(solutions)
    step = 0
    while open_ones:
        now = rollouts.sound([solutions[i].before(step) for i in open_ones])
        left: list[int] = []
        for i, ok in zip(open_ones, now, strict=True):
            if sound[i] and not ok:
                found[i] = step - 1
            elif step < len(solutions[i].ends):
                sound[i] = ok
                left.append(i)
        open_ones, step = left, step + 1
    return found


def first_error_kept(
    pair: Pair,
    task: LoadedTask,
    results: Results,
    rollouts: Rollouts,
    report: Callable[[str, int, int], None],
    batch: int = 16,
) -> Counter[str]:
    """Per policy, the problems whose first error is a kept step of the draft.

    An answer that came out right has lost nothing. Of a wrong one the first step is looked for
    after which the target no longer gets to the right answer though it did before; where it never
    did, no step is to blame.

    Args:
        pair: the models.
        task: the questions of the run.
        results: the run, with its traces.
        rollouts: tells whether a beginning still leads to the right answer.
        report: told about progress.
        batch: answers at a time.
    """
    questions = {q.id: q for q in task.questions}
    wrong = {(a.policy, a.question) for a in results.answers if not a.right}
    assert results.folder is not None
    solutions: list[tuple[str, Solution]] = []
    for line in records.read_traces(results.folder):
        key = (line["policy"], line["question"])
        if key not in wrong or not line["trace"].get("steps"):
            continue
        wrong.discard(key)
        question = questions[key[1]]
        prompt = prompt_of(pair, task, question)
        solutions.append((key[0], solution_of(line["trace"], prompt, question.reference or "")))
    lost: Counter[str] = Counter()
    for start in range(0, len(solutions), batch):
        portion = solutions[start : start + batch]
        report("looking for first errors", start + len(portion), len(solutions))
        errors = first_errors([s for _, s in portion], rollouts)
        for (policy, solution), error in zip(portion, errors, strict=True):
            lost[policy] += error is not None and solution.kept[error]
    return lost


def solution_of(trace: dict[str, Any], prompt: tuple[int, ...], reference: str) -> Solution:
    """The solution in a JSON trace."""
    steps = trace["steps"]
    return Solution(
        prompt,
        tuple(token["id"] for token in trace["tokens"]),
        tuple(s["position"] + s["tokens"] for s in steps),
        tuple(s["decision"] == "accepted" for s in steps),
        reference,
    )
