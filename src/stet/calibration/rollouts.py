"""Can the answer still come out right? The target finishes it, and the grader says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError
from stet.requests.options import PINNED
from stet.requests.seeds import mixed

if TYPE_CHECKING:
    from stet.evaluation.graders import Grader
    from stet.evaluation.tasks.base import LoadedTask, Question
    from stet.pair import Pair
    from stet.policies import Policy


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of an answer.

    Attributes:
        prompt: tokens of the question.
        written: tokens of the answer so far.
        reference: the right answer.
    """

    prompt: tuple[int, ...]
    written: tuple[int, ...]
    reference: str


def prompt_of(pair: Pair, task: LoadedTask, question: Question) -> tuple[int, ...]:
    """A question as the models are asked it."""
    if task.chat is not None:
        return tuple(task.chat.prompt(pair, question.prompt))
    return tuple(pair.tokenizer(question.prompt)["input_ids"])


def with_room(pair: Pair, task: LoadedTask) -> LoadedTask:
    """The task without the questions whose longest answer has no room behind them.

    How many are left out is said in its note: an answer that the context cuts short says nothing of
    what was decided in it.

    Raises:
        OptionError: there is room for none.
    """
    longest = pair.max_length - task.max_new_tokens
    fitting = [q for q in task.questions if len(prompt_of(pair, task, q)) <= longest]
    left_out = len(task.questions) - len(fitting)
    if not left_out:
        return task
    many = f"{left_out} of {len(task.questions)} questions"
    if not fitting:
        raise OptionError(
            f"{many} are too long: with an answer of up to {task.max_new_tokens} tokens none fits "
            f"into {pair.max_length}; load the pair with a larger max_length."
        )
    note = (
        f"{many} were left out: with an answer of up to {task.max_new_tokens} tokens they do not "
        f"fit into {pair.max_length}."
    )
    return replace(task, questions=fitting, note=f"{task.note} {note}".strip())


@dataclass(slots=True, eq=False)
class Rollouts:
    """The target's completions, or a policy's, each computed once.

    A prefix is *sound* if the target, writing greedily, gets from it to the right answer. That is
    a statement about this target: a step it could have recovered from by luck counts as bad. With
    `samples` it is sound if at least half of so many sampled completions get there.

    Attributes:
        pair: whose target finishes; it drafts for it, losslessly.
        grader: of whole answers.
        max_new_tokens: longest answer.
        stop: texts that end an answer.
        samples: completions of each prefix, at temperature 1; 0 for the greedy one.
        seed: of the samples.
        policy: finishes; "exact" for the target.
    """

    pair: Pair
    grader: Grader
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    samples: int = 0
    seed: int = 0
    policy: str | Policy = "exact"
    _known: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = field(
        default_factory=dict[Any, bool], init=False
    )
    _drawn: int = field(default=0, init=False)

    def sound(self, prefixes: Sequence[Prefix]) -> list[bool]:
        """Whether each prefix still leads to the right answer."""
        new = {
            (p.prompt, p.written): p for p in prefixes if (p.prompt, p.written) not in self._known
        }
        open_ones = []
        for key, prefix in new.items():
            # Where the context is full nothing can be added either.
            if self._ended(prefix.written) or self._room(prefix) < 1:
                self._known[key] = self._right(prefix, "")
            else:
                open_ones.append(prefix)
        # Prompts of one call share their limits, so those of equal length so far go together.
        for room in sorted({self._room(p) for p in open_ones}):
            group = [p for p in open_ones if self._room(p) == room]
            for prefix, votes in zip(group, self._completed(group, room), strict=True):
                self._known[prefix.prompt, prefix.written] = 2 * sum(votes) >= len(votes)
        return [self._known[p.prompt, p.written] for p in prefixes]

    def _completed(self, group: Sequence[Prefix], room: int) -> list[list[bool]]:
        """For each prefix, of each of its completions whether it is right."""
        count = max(self.samples, 1)
        prompts = [[*p.prompt, *p.written] for p in group for _ in range(count)]
        results = self.pair.generate(
            prompts,
            self.policy,
            max_new_tokens=room,
            fit=True,
            stop=list(self.stop),
            temperature=1.0 if self.samples else 0.0,
            seed=[mixed(self.seed, self._drawn + i) for i in range(len(prompts))],
            **PINNED,
        )
        self._drawn += len(prompts)
        right = [
            result.error is None and self._right(group[i // count], result.text)
            for i, result in enumerate(results)
        ]
        return [right[i : i + count] for i in range(0, len(right), count)]

    def _room(self, prefix: Prefix) -> int:
        # In coarse portions: a few tokens more or less change no sensible answer.
        left = max(self.max_new_tokens - len(prefix.written), 1)
        fits = self.pair.max_length - len(prefix.prompt) - len(prefix.written)
        return min(-(-left // 64) * 64, fits)

    def _ended(self, written: tuple[int, ...]) -> bool:
        return bool(written) and written[-1] in self.pair.end_tokens

    def _right(self, prefix: Prefix, rest: str) -> bool:
        text = self.pair.tokenizer.decode(list(prefix.written), skip_special_tokens=True) + rest
        return self.grader.right(self.grader.extract(text), prefix.reference)
