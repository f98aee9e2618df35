"""Rollouts: the target finishes the beginning of an answer, and the answer is graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stet.core.errors import OptionError, StetError
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
        reference: the reference answer.
    """

    prompt: tuple[int, ...]
    written: tuple[int, ...]
    reference: str


def prompt_of(pair: Pair, task: LoadedTask, question: Question) -> tuple[int, ...]:
    """The prompt tokens of a question.

    Raises:
        StetError: the pair wants chats and the task has plain prompts, or the reverse; a model that
            is asked otherwise than it was taught answers worse, and would do so silently.
    """
    if not task.suits(pair):
        raise StetError(f"Task {task.name!r} is not suited to this pair; take task.suited(pair).")
    if task.chat is not None:
        return tuple(task.chat.prompt(pair, question.prompt))
    return tuple(pair.tokenizer(question.prompt)["input_ids"])


def fitted(pair: Pair, task: LoadedTask) -> LoadedTask:
    """The task as it suits the pair, without questions that do not fit; see `with_room`."""
    return with_room(pair, task.suited(pair))


def with_room(pair: Pair, task: LoadedTask) -> LoadedTask:
    """The task without questions after which the longest answer does not fit into the context.

    The task's note says how many are left out: an answer that is cut by the end of the context does
    not tell whether the decisions in it were good.

    Raises:
        OptionError: no question fits.
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


@dataclass(frozen=True, slots=True)
class Rolling:
    """The settings of `Rollouts`, for whoever has the pair.

    Attributes:
        grader: grades whole answers.
        max_new_tokens: the longest answer.
        stop: texts that end an answer.
        samples: completions of each prefix, at temperature 1; 0 for the greedy one.
        seed: seed of the samples.
    """

    grader: Grader
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    samples: int = 0
    seed: int = 0

    def of(self, pair: Pair, chunk: int) -> Rollouts:
        """The rollouts of a chunk of work; its samples share no randomness with other chunks'."""
        seed = mixed(self.seed, chunk)
        return Rollouts(pair, self.grader, self.max_new_tokens, self.stop, self.samples, seed)


@dataclass(slots=True, eq=False)
class Rollouts:
    """Completions of prefixes by the target, or under a policy; each is computed once.

    A prefix is *sound* if its greedy completion by the target has the right answer. That is a
    statement about this target: a step from which only other samples recover counts as bad. With
    `samples`, a prefix is sound if at least half of so many sampled completions are right.

    Attributes:
        pair: the pair whose target completes; its draft speculates, losslessly.
        grader: grades whole answers.
        max_new_tokens: the longest answer.
        stop: texts that end an answer.
        samples: completions of each prefix, at temperature 1; 0 for the greedy one.
        seed: seed of the samples.
        policy: the policy that completes; "exact" for the target's own text.
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
            # Where the context is full, nothing can be added.
            if self._ended(prefix.written) or self._room(prefix) < 1:
                self._known[key] = self._right(prefix, "")
            else:
                open_ones.append(prefix)
        # Prompts of one call share their limits, so prefixes of equal room are grouped.
        for room in sorted({self._room(p) for p in open_ones}):
            group = [p for p in open_ones if self._room(p) == room]
            for prefix, votes in zip(group, self._complete(group, room), strict=True):
                self._known[prefix.prompt, prefix.written] = 2 * sum(votes) >= len(votes)
        return [self._known[p.prompt, p.written] for p in prefixes]

    def _complete(self, group: Sequence[Prefix], room: int) -> list[list[bool]]:
        """Complete each prefix; returns for each of its completions whether it is right."""
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
        # Rounded up to multiples of 64, so that more prefixes share a call.
        left = max(self.max_new_tokens - len(prefix.written), 1)
        fits = self.pair.max_length - len(prefix.prompt) - len(prefix.written)
        return min(-(-left // 64) * 64, fits)

    def _ended(self, written: tuple[int, ...]) -> bool:
        return bool(written) and written[-1] in self.pair.end_tokens

    def _right(self, prefix: Prefix, rest: str) -> bool:
        text = self.pair.tokenizer.decode(list(prefix.written), skip_special_tokens=True) + rest
        return self.grader.right(self.grader.extract(text), prefix.reference)
