"""Whose fault was it? Whether the first error of an answer is a step of the draft that was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stet.calibration.rollouts import Prefix, Rollouts, prompt_of
from stet.evaluation import records

if TYPE_CHECKING:
    from stet.evaluation.records import Results
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair


def first_error_kept(
    pair: Pair,
    task: LoadedTask,
    results: Results,
    rollouts: Rollouts,
    report: Callable[[str, int, int], None],
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
    """
    questions = {q.id: q for q in task.questions}
    wrong = {(a.policy, a.question) for a in results.answers if not a.right}
    assert results.folder is not None
    lost: Counter[str] = Counter()
    looked = 0
    for line in records.read_traces(results.folder):
        key = (line["policy"], line["question"])
        if key not in wrong or not line["trace"].get("steps"):
            continue
        wrong.discard(key)
        looked += 1
        report("looking for first errors", looked, looked + len(wrong))
        lost[key[0]] += _lost(
            line["trace"], prompt_of(pair, task, question := questions[key[1]]), question, rollouts
        )
    return lost


def _lost(
    trace: dict[str, Any], prompt: tuple[int, ...], question: Question, rollouts: Rollouts
) -> bool:
    reference = question.reference or ""
    ids = [token["id"] for token in trace["tokens"]]
    steps = trace["steps"]
    ends = [s["position"] + s["tokens"] for s in steps]
    prefixes = [Prefix(prompt, tuple(ids[:end]), reference) for end in (0, *ends)]
    sound = rollouts.sound(prefixes)
    for step, before, after in zip(steps, sound, sound[1:], strict=False):
        if before and not after:
            kept: bool = step["decision"] == "kept"
            return kept
    return False
