"""Loading of tasks: from a name or a file to questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stet.core.errors import OptionError
from stet.evaluation.graders import Grader, resolve_grader
from stet.evaluation.tasks.base import Item, LoadedTask, Question, Source, Task, TaskError
from stet.evaluation.tasks.dataset import SUFFIXES
from stet.evaluation.tasks.jsonl import HIDDEN, JsonLines
from stet.evaluation.tasks.prompts import Prompter
from stet.evaluation.tasks.registry import available_tasks, find_task
from stet.requests.chat import Chat

NO_GRADER = "none"


def load_task(
    name_or_path: str,
    *,
    split: str | None = None,
    count: int | None = None,
    seed: int = 0,
    shots: int | None = None,
    template: str | None = None,
    grader: str | Grader | None = None,
    chat: bool | None = None,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    path: Path | None = None,
    fields: Mapping[str, str] | None = None,
    shots_path: Path | None = None,
) -> LoadedTask:
    """Load a task; options that are not given have the task's own values.

    Args:
        name_or_path: a task by name, or a JSONL file.
        split: one of the task's splits.
        count: number of questions: the first of an order drawn with `seed`, so that a larger count
            includes the questions of a smaller one. None: all, in their own order.
        seed: seed of the order, of generated problems, and of the choice of worked examples.
        shots: worked examples before each question; never the question itself.
        template: Jinja template of a prompt; it sees the fields of the record.
        grader: a grader, the name of one, "module:function", or "none" for speed only.
        chat: put prompts through the model's chat template; None: where it has one
            (`LoadedTask.suited` decides then).
        system: the system prompt of these chats.
        template_args: arguments of the chat template, such as `{"enable_thinking": False}`.
        path: local file of a named task, or a folder with `<split>.jsonl`; else the hub is used.
        fields: names of the records' fields, by the task's names: `{"question": "problem"}`.
        shots_path: local file of the worked examples; else they come from the task's training
            split, or from the file of the questions.

    Raises:
        OptionError: for names that are unknown, and options that do not fit the task.
        TaskError: the data cannot be fetched or read.
    """
    for option, given in (("count", count), ("shots", shots)):
        if given is not None and given < (option == "count"):
            raise OptionError(f"{option} is {given}; it is too small.")
    task, path = _task(name_or_path, path, fields)
    own_file = isinstance(task, JsonLines) and path is not None
    name = _stem(path) if own_file and path is not None else task.name
    if split is not None and split not in task.splits:
        raise OptionError(
            f"The task {name!r} has no split {split!r}; it has: {', '.join(task.splits)}."
        )
    asks_chat = system is not None or bool(template_args)
    if asks_chat and chat is False:
        raise OptionError(
            "A system prompt and arguments of the chat template need a chat; leave out chat=False."
        )
    source = Source(split or task.splits[0], path, count, seed, dict(fields or {}))
    every = task.items(source)
    items = every if task.sampled else _sample(every, count, seed)
    shots = task.shots if shots is None else shots
    pool = _pool(task, source, shots, shots_path, every) if shots else ()
    prefix = name if own_file else f"{name}/{source.split}"

    def make(in_chat: bool, other: Callable[[], LoadedTask] | None = None) -> LoadedTask:
        own_template = task.template if in_chat else task.plain_template
        prompter = Prompter(own_template if template is None else template, shots, pool, seed)
        questions = [
            Question(f"{prefix}/{item.key}", prompter.prompt(item), item.reference, item.group)
            for item in items
        ]
        return LoadedTask(
            name=name,
            questions=questions,
            grader=_grader(task, grader, questions),
            max_new_tokens=task.max_new_tokens,
            stop=task.plain_stop if template is None and not in_chat else (),
            chat=Chat(
                task.system if system is None else system,
                {**task.template_args, **(template_args or {})},
            )
            if in_chat
            else None,
            note=task.note,
            other=other,
            native=task.native(),
        )

    if chat is not None or asks_chat:
        return make(bool(chat) or asks_chat)
    return make(task.chat, partial(make, not task.chat))


def _task(
    name_or_path: str, path: Path | None, fields: Mapping[str, str] | None
) -> tuple[Task, Path | None]:
    known = find_task(name_or_path)
    if known is not None:
        return known(), path
    file = Path(name_or_path)
    if not (file.name.endswith(SUFFIXES) or file.is_file()):
        names = ", ".join(task.name for task in available_tasks())
        raise OptionError(
            f"There is no task {name_or_path!r}; choose from {names}, or name a JSONL file."
        )
    if path is not None:
        raise OptionError("A task that is a file needs no second file; leave out path.")
    hidden = frozenset((fields or {}).get(name, name) for name in HIDDEN)
    return JsonLines(hidden), file


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def _sample(items: list[Item], count: int | None, seed: int) -> list[Item]:
    if count is None:
        return items
    return random.Random(f"stet/sample/{seed}").sample(items, len(items))[:count]


def _pool(
    task: Task, source: Source, shots: int, shots_path: Path | None, every: list[Item]
) -> list[Item]:
    """The items that may be worked examples."""
    split = task.example_split or source.split
    if shots_path is not None:
        return task.items(Source(split, shots_path, shots, source.seed, source.names))
    if split == source.split:
        return every
    # For a local file that is no folder, these are its own questions again.
    return task.items(Source(split, source.path, shots, source.seed, source.names))


def _grader(task: Task, grader: str | Grader | None, questions: list[Question]) -> Grader | None:
    """Find the grader, and check that it reads every reference and that ids are unique."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise TaskError(f"Two questions have the id {question.id!r}.")
        seen.add(question.id)
    chosen = task.grader if grader is None else grader
    if chosen is None and any(question.reference is not None for question in questions):
        raise OptionError(
            f"The questions have answers; name a grader for them, or {NO_GRADER!r} to measure "
            f"speed only."
        )
    if chosen is None or chosen == NO_GRADER:
        return None
    finished = resolve_grader(chosen)
    for question in questions:
        if question.reference is None:
            raise TaskError(f"Question {question.id} has no answer to grade by.")
        if not finished.reads(question.reference):
            raise TaskError(
                f"The grader {finished.name!r} cannot read the answer {question.reference!r} of "
                f"question {question.id}; name another one (math-verify reads expressions)."
            )
    return finished
