"""What a task is: items to ask, how to put them, and how to grade the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from stet.core.errors import StetError
from stet.evaluation.graders import Grader
from stet.requests.chat import Chat

if TYPE_CHECKING:
    from stet.pair import Pair


class TaskError(StetError):
    """A task's data cannot be had, or is not of the form that the task reads."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a task.

    Attributes:
        id: unique within the task, and the same in every run.
        prompt: the finished text, worked examples included, before any chat template.
        reference: the right answer; None where there is none.
        group: what kind of question it is, where the task has kinds.
    """

    id: str
    prompt: str
    reference: str | None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task ready to run.

    Attributes:
        name: the task's name.
        questions: in the order they are to be asked.
        grader: reads and grades answers; None where only speed and acceptance are measured.
        max_new_tokens: the longest answer, in tokens.
        stop: texts that end an answer.
        chat: how prompts go through the model's chat template; None: as they are.
        note: what readers of every table must know.
        other: makes the same task for models that want chats where this one has none, or the other
            way round; None where somebody has chosen.
        native: the chat template of the models that were trained on the plain prompts.
    """

    name: str
    questions: list[Question]
    grader: Grader | None
    max_new_tokens: int
    stop: tuple[str, ...]
    chat: Chat | None
    note: str = ""
    other: Callable[[], LoadedTask] | None = field(default=None, repr=False, compare=False)
    native: str | None = field(default=None, repr=False, compare=False)

    def suited(self, pair: Pair) -> LoadedTask:
        """The task as a pair is to be asked it, unless somebody has chosen already.

        Through the chat template where the tokenizer has one; of models that were trained on the
        plain prompts, that is those.
        """
        if self.other is None:
            return self
        template = getattr(pair.tokenizer, "chat_template", None)
        wants_chat = bool(template) and template != self.native
        if wants_chat == (self.chat is not None):
            return replace(self, other=None)
        other = self.other()
        prompts = {question.id: question.prompt for question in other.questions}
        # Which questions there are, and what is right, may have been changed meanwhile.
        questions = [replace(q, prompt=prompts.get(q.id, q.prompt)) for q in self.questions]
        return replace(self, questions=questions, stop=other.stop, chat=other.chat, other=None)


@dataclass(frozen=True, slots=True)
class Item:
    """One problem, before it becomes a prompt.

    Attributes:
        key: the last part of the question's id; the same in every run.
        fields: what a template may use; `question` is one of them.
        reference: the right answer; None where there is none.
        solution: what follows the prompt where the item is shown as a worked example.
        group: what kind of question it is.
    """

    key: str
    fields: Mapping[str, Any]
    reference: str | None = None
    solution: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the items of a task come from, as the user said.

    Attributes:
        split: one of the task's splits.
        path: a local file; None for the task's own place.
        count: how many questions are wanted; None for all. Only generated tasks look at it.
        seed: of everything that is drawn.
        names: fields of the records under other names, ours first.
    """

    split: str
    path: Path | None = None
    count: int | None = None
    seed: int = 0
    names: Mapping[str, str] = field(default_factory=dict[str, str])


class Task(ABC):
    """A set of problems; a subclass with the values below and one method, registered by name.

    Lists of tasks show the first line of the docstring.

    Attributes:
        name: what users call it; unique in the registry.
        aliases: other names for it.
        splits: what it is divided into; the first is taken where none is named.
        example_split: where worked examples come from; None for the split of the questions.
        template: Jinja template of a prompt for a model with a chat template.
        plain_template: the same for a model without.
        plain_stop: texts that end an answer of a model without a chat template.
        chat: whether prompts go through the chat template where no model is known yet; once one
            is, what its tokenizer has decides, unless somebody has.
        system: the system prompt of chats, if nobody says otherwise.
        template_args: arguments of the chat template, likewise.
        shots: worked examples before each question if nobody says otherwise.
        grader: name of the grader; None where answers are not graded.
        max_new_tokens: the longest answer, in tokens.
        note: what readers of every table must know.
        sampled: whether `items` draws as many as are wanted; otherwise it gives all there are.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[tuple[str, ...]] = ("test",)
    example_split: ClassVar[str | None] = None
    template: ClassVar[str] = "{{ question }}"
    plain_template: ClassVar[str] = "{{ question }}"
    plain_stop: ClassVar[tuple[str, ...]] = ()
    chat: ClassVar[bool] = True
    system: ClassVar[str | None] = None
    template_args: ClassVar[Mapping[str, Any]] = {}
    shots: ClassVar[int] = 0
    grader: ClassVar[str | None] = None
    max_new_tokens: ClassVar[int] = 512
    note: ClassVar[str] = ""
    sampled: ClassVar[bool] = False

    @classmethod
    def native(cls) -> str | None:
        """The chat template of models that were trained on the plain prompts, if there are any."""
        return None

    @abstractmethod
    def items(self, source: Source) -> list[Item]:
        """The problems of a split, in an order that never changes.

        Raises:
            TaskError: where they cannot be had.
        """
