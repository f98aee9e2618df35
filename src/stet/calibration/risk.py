"""Whether the first error of an answer is an accepted step of the draft."""

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
    """An answer, divided into the steps in which it was written.

    Attributes:
        prompt: tokens of the question.
        tokens: tokens of the answer.
        ends: for each step, the number of tokens of the answer up to its end.
        kept: for each step, whether it is an accepted step of the draft.
        reference: the reference answer.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ends: tuple[int, ...]
    kept: tuple[bool, ...]
    reference: str

    def before(self, step: int) -> Prefix:
        """The answer before a step; the whole answer for the index after the last step."""
        end = self.ends[step - 1] if step else 0
        return Prefix(self.prompt, self.tokens[:end], self.reference)


def first_errors(solutions: Sequence[Solution], rollouts: Rollouts) -> list[int | None]:
    """Find the first step of each solution after which the answer is no longer sound.

    That is the first step after which the target's rollout misses the right answer though the
    rollout before it did not; None where there is no such step. All solutions are processed in
    parallel, so that their rollouts are batched, and only up to the error.
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
    """Count, for each policy, the problems whose first error is an accepted step of the draft.

    A right answer is no loss. In a wrong one the first step is searched after which the target's
    rollout misses the right answer though the rollout before it did not. Where there is no such
    step, the answer is no loss either.

    Args:
        pair: the models.
        task: the questions of the run.
        results: the run, with its traces.
        rollouts: tells whether the beginning of an answer is sound.
        report: called with the progress.
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
    """The solution that a JSON trace records."""
    steps = trace["steps"]
    return Solution(
        prompt,
        tuple(token["id"] for token in trace["tokens"]),
        tuple(s["position"] + s["tokens"] for s in steps),
        tuple(s["decision"] == "accepted" for s in steps),
        reference,
    )
