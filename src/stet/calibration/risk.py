"""Whether the first error of an answer is an accepted step of the draft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stet.calibration.rollouts import Prefix, Rolling, Rollouts, prompt_of
from stet.evaluation import records
from stet.executors.base import Executor, Work

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


Listed = tuple[str, str, Solution]
"""A policy's label, a question's id, and a solution without the tokens of its prompt."""

Chunk = tuple[int, Sequence[Listed]]
"""The number of a chunk, and what is in it."""


@dataclass(frozen=True)
class FindingErrors(Work[Chunk, tuple[Counter[str], int]]):
    """Counts, for each policy, the solutions whose first error is an accepted step of the draft.

    Attributes:
        task: the questions of the run.
        rolling: settings of the rollouts that tell whether the beginning of an answer is sound.
    """

    task: LoadedTask
    rolling: Rolling

    def run(self, pair: Pair, chunk: Chunk) -> Iterator[tuple[Counter[str], int]]:
        """Count the losses of a chunk; yields them with the number of its solutions."""
        number, listed = chunk
        questions = {q.id: q for q in self.task.questions}
        prompts = {
            name: prompt_of(pair, self.task, questions[name])
            for name in dict.fromkeys(name for _, name, _ in listed)
        }
        solutions = [replace(solution, prompt=prompts[name]) for _, name, solution in listed]
        errors = first_errors(solutions, self.rolling.of(pair, number))
        lost: Counter[str] = Counter()
        for (policy, _, _), solution, error in zip(listed, solutions, errors, strict=True):
            lost[policy] += error is not None and solution.kept[error]
        yield lost, len(listed)


def first_error_kept(
    executor: Executor,
    task: LoadedTask,
    results: Results,
    rolling: Rolling,
    report: Callable[[str, int, int], None],
    batch: int = 16,
) -> Counter[str]:
    """Count, for each policy, the problems whose first error is an accepted step of the draft.

    A right answer is no loss. In a wrong one the first step is searched after which the target's
    rollout misses the right answer though the rollout before it did not. Where there is no such
    step, the answer is no loss either.

    Args:
        executor: has the models.
        task: the questions of the run.
        results: the run, with its traces.
        rolling: settings of the rollouts that tell whether the beginning of an answer is sound.
        report: called with the progress.
        batch: answers at a time, at least.
    """
    questions = {q.id: q for q in task.questions}
    wrong = {(a.policy, a.question) for a in results.answers if not a.right}
    assert results.folder is not None
    # Answers to one question share beginnings, so they belong into one chunk.
    by_question: dict[str, list[Listed]] = {}
    for line in records.read_traces(results.folder):
        policy, name = line["policy"], line["question"]
        if (policy, name) not in wrong or not line["trace"].get("steps"):
            continue
        wrong.discard((policy, name))
        solution = solution_of(line["trace"], (), questions[name].reference or "")
        by_question.setdefault(name, []).append((policy, name, solution))
    chunks: list[list[Listed]] = []
    # In an order that does not hang on which answer was written first.
    for name in (q.id for q in task.questions if q.id in by_question):
        if not chunks or len(chunks[-1]) >= batch:
            chunks.append([])
        chunks[-1] += sorted(by_question[name], key=lambda entry: entry[0])
    total, done = sum(map(len, chunks)), 0
    lost: Counter[str] = Counter()
    report("looking for first errors", done, total)
    for finished in executor.map(FindingErrors(task, rolling), enumerate(chunks)):
        for found, many in finished.parts:
            lost.update(found)
            done += many
        report("looking for first errors", done, total)
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
