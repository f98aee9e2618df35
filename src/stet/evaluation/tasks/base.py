"""The interface of a task: its items, their prompts, and the grading of answers."""

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
    """A task's data cannot be read or fetched, or is not of the form that the task reads."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a task.

    Attributes:
        id: unique within the task, and the same in every run.
        prompt: the complete text, worked examples included, before any chat template.
        reference: the right answer; None where there is none.
        group: the question's group, where the task has groups.
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
        questions: the questions in their order.
        grader: reads and grades answers; None where only speed and acceptance are measured.
        max_new_tokens: the longest answer, in tokens.
        stop: texts that end an answer.
        chat: how prompts go through the model's chat template; None: as they are.
        note: a note for readers of every table.
        other: makes this task with chats where this one has none, or without where it has; None
            where the user has chosen.
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

    def suits(self, pair: Pair) -> bool:
        """Whether its prompts are chats or plain as the user chose, or else as suits a pair."""
        if self.other is None:
            return True
        template = getattr(pair.tokenizer, "chat_template", None)
        wants_chat = bool(template) and template != self.native
        return wants_chat == (self.chat is not None)

    def suited(self, pair: Pair) -> LoadedTask:
        """The task with chats or plain prompts, whichever suits a pair.

        The user's choice comes first. Otherwise prompts go through the chat template where the
        tokenizer has one, except for the models that were trained on the plain prompts.
        """
        if self.other is None:
            return self
        if self.suits(pair):
            return replace(self, other=None)
        other = self.other()
        prompts = {question.id: question.prompt for question in other.questions}
        # The caller may have changed the questions and references meanwhile.
        questions = [replace(q, prompt=prompts.get(q.id, q.prompt)) for q in self.questions]
        return replace(self, questions=questions, stop=other.stop, chat=other.chat, other=None)


@dataclass(frozen=True, slots=True)
class Item:
    """One problem, before it becomes a prompt.

    Attributes:
        key: the last part of the question's id; the same in every run.
        fields: fields for the template; `question` is one of them.
        reference: the right answer; None where there is none.
        solution: the text after the prompt where the item is a worked example.
        group: the question's group.
    """

    key: str
    fields: Mapping[str, Any]
    reference: str | None = None
    solution: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a task's items, as the user set it.

    Attributes:
        split: one of the task's splits.
        path: a local file; None for the task's own source.
        count: number of questions; None for all. Only generated tasks use it.
        seed: seed of everything that is drawn.
        names: names of the records' fields, by the name that the task uses.
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
        name: the task's name for users; unique in the registry.
        aliases: other names of the task.
        splits: the splits; the first is the default.
        example_split: the split of worked examples; None for the split of the questions.
        template: Jinja template of a prompt for a model with a chat template.
        plain_template: Jinja template of a prompt for a model without a chat template.
        plain_stop: texts that end an answer of a model without a chat template.
        chat: whether prompts go through the chat template where no model is known yet; once one
            is known, its tokenizer decides, unless the user does.
        system: the default system prompt of chats.
        template_args: the default arguments of the chat template.
        shots: the default number of worked examples before each question.
        grader: name of the grader; None where answers are not graded.
        max_new_tokens: the longest answer, in tokens.
        note: a note for readers of every table.
        sampled: whether `items` draws `Source.count` items; otherwise it returns all.
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
            TaskError: they cannot be read or fetched.
        """
